"""What of a sample is exported beside its image: columns of its row, and members."""

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

ALL: Final = "*"

FIXED: Final = ("key", "shard", "shard_index", "index", "image", "width", "height", "format", "size", "sha256")
"""Columns that every exported table has: who the sample is, where it was scored, and the image as it is here."""

_OF_EACH: Final = ("key", "image", "width", "height", "format", "sha256")
"""Those of them that each record has too, in whatever format, under a name of its own."""

_LOOKS: Final = 16
"""A damaged shard, or one of another kind, does not tell what the others have. To look at all of them takes long."""
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
        columns: Of the run's tables, for the records too: beside what each record has of its image.
        members: Lower-cased extensions; None for all members.
    """

    columns: tuple[str, ...]
    members: tuple[str, ...] | None

    def has_member(self, suffix: str) -> bool:
        """Whether a member with this extension is exported."""
        return self.members is None or suffix.lower() in self.members

    def schema(self, source: pa.Schema, *, reencodes: bool) -> pa.Schema:
        """The columns of an exported table."""
        chosen = [source.field(name) for name in dict.fromkeys((*FIXED, *self.columns))]
        return pa.schema([*chosen, *(ORIGINALS if reencodes else [])])


def looked_at(shards: int) -> list[int]:
    """The places of the shards in which members are looked for: the first one, and others evenly spread to the last one."""
    return sorted({number * (shards - 1) // max(1, _LOOKS - 1) for number in range(_LOOKS)}) if shards else []


def choose_fields(
    names: Sequence[str], schema: pa.Schema, suffixes: Iterable[Collection[str]], *, all_members: bool
) -> Fields:
    """Reads the names that a user gave: columns, `.members`, and `*`.

    Args:
        names: As given.
        schema: Of the run's tables. `*` takes no embedding, of whatever model.
        suffixes: Extensions of members, to tell a mistake by, of one shard after the other: read until each name is found.
        all_members: Whether `*` takes all members, and not only columns.

    Raises:
        ValueError: There is no such column or member; one line with what there is.
    """
    embeddings = [column.name for column in schema if pa.types.is_fixed_size_list(column.type)]
    usual = [name for name in schema.names if name not in (*FIXED, *_NEVER, *embeddings)]
    wanted = {name[1:].lower() for name in names if name.startswith(".")}
    found: set[str] = set()
    looks = 0
    for of_shard in suffixes:
        looks += 1
        found |= {suffix.lower() for suffix in of_shard}
        if wanted <= found:
            break
    known = sorted(found)
    chosen: list[str] = []
    members: list[str] = []
    for name in names:
        if name == ALL:
            chosen += usual
        elif name.startswith("."):
            if name[1:].lower() not in known:
                where = "the first shard" if looks == 1 else f"the {looks} shards that were looked at"
                there = ", ".join(f".{suffix}" for suffix in known) or "none"
                raise ValueError(f"no sample of {where} has a member {name}; there are: {there}")
            members.append(name[1:].lower())
        elif name in (*usual, *embeddings, *FIXED) and name in schema.names:
            chosen.append(name)
        else:
            close = difflib.get_close_matches(name, [*schema.names, *(f".{suffix}" for suffix in known)], n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join([*usual, *embeddings])}"
            raise ValueError(f"there is no column {name!r} to export; {hint}")
    everything = all_members and ALL in names
    beside = tuple(name for name in dict.fromkeys(chosen) if name not in _OF_EACH)
    return Fields(beside, None if everything else tuple(dict.fromkeys(members)))
