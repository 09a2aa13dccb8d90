"""What of a sample is exported beside its image: columns of its row, and members."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

EMBEDDING: Final = "embedding"
ALL: Final = "*"

FIXED: Final = ("key", "shard", "shard_index", "index", "image", "width", "height", "format", "size", "sha256")
"""Columns that every exported table has: who the sample is, where it was scored, and the image as it is here."""

# The verdict of a kept row says nothing, and the spans are those in the raw source.
_NEVER: Final = ("status", "step", "reason", "error_message", "members", "links")

ORIGINALS: Final = pa.schema(
    [
        ("reencoded", pa.bool_()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("original_sha256", pa.string()),
    ]
)
"""Columns that an export has which may encode images again: whether it did, and of which image. Names: img2dataset."""


@dataclass(frozen=True)
class Fields:
    """What is exported beside the image.

    Attributes:
        columns: Of the run's tables, beside FIXED.
        members: Lower-cased extensions; None for all members.
    """

    columns: tuple[str, ...]
    members: tuple[str, ...] | None

    def has_member(self, suffix: str) -> bool:
        """Whether a member with this extension is exported."""
        return self.members is None or suffix.lower() in self.members

    def schema(self, source: pa.Schema, *, reencodes: bool) -> pa.Schema:
        """The columns of an exported table."""
        chosen = [source.field(name) for name in (*FIXED, *self.columns)]
        return pa.schema([*chosen, *(ORIGINALS if reencodes else [])])


def choose_fields(
    names: Sequence[str], columns: Sequence[str], suffixes: Iterable[str], *, all_members: bool
) -> Fields:
    """Reads the names that a user gave: columns, `.members`, and `*`.

    Args:
        names: As given.
        columns: Of the run's tables.
        suffixes: Extensions of members of some of the run's samples, to tell a mistake by.
        all_members: Whether `*` takes all members, and not only columns.

    Raises:
        ValueError: There is no such column or member; one line with what there is.
    """
    usual = [name for name in columns if name not in (*FIXED, *_NEVER, EMBEDDING)]
    known = sorted({suffix.lower() for suffix in suffixes})
    chosen: list[str] = []
    members: list[str] = []
    for name in names:
        if name == ALL:
            chosen += usual
        elif name.startswith("."):
            if name[1:].lower() not in known:
                raise ValueError(f"no sample of the first shard has a member {name}; there are: .{', .'.join(known)}")
            members.append(name[1:].lower())
        elif name in (*usual, EMBEDDING, *FIXED) and name in columns:
            chosen.append(name)
        else:
            close = difflib.get_close_matches(name, [*columns, *(f".{suffix}" for suffix in known)], n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join([*usual, EMBEDDING])}"
            raise ValueError(f"there is no column {name!r} to export; {hint}")
    everything = all_members and ALL in names
    beside = tuple(name for name in dict.fromkeys(chosen) if name not in FIXED)
    return Fields(beside, None if everything else tuple(dict.fromkeys(members)))
