"""A row of the score table as a report shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pyarrow as pa

from beam_curate.report.table import Found, Place

_TEXT: Final = 1000  # characters of a key, caption, url or message that are held


class Detail(NamedTuple):
    """What is read of a row that is shown, by column, beside what a group of rows has."""

    key: str
    shard: str
    step: str | None
    error_message: str | None
    caption: str | None
    url: str | None
    width: int | None
    height: int | None
    image: str | None
    sha256: str | None
    members: Sequence[Mapping[str, Any]]


DETAILS: Final = Detail._fields


def details_of(rows: pa.Table) -> list[Detail]:
    """Those of rows that have these columns."""
    return [Detail(*values) for values in zip(*(rows.column(name).to_pylist() for name in DETAILS), strict=True)]


@dataclass(frozen=True)
class Row:
    """A row of the score table that is shown.

    `offset` and `size` are the span of its image member, size -1 if none; `rest` is whether it passes the rules that no slider
    stands for.
    """

    key: str
    shard: str
    shard_index: int
    index: int
    status: str
    reason: str
    rest: bool
    step: str
    message: str
    caption: str
    url: str
    width: int
    height: int
    image: str
    offset: int
    size: int
    sha256: str
    values: dict[str, float]
    other: bool = False

    @property
    def place(self) -> Place:
        """What tells it from all other rows."""
        return Place(self.shard_index, self.index, self.other)


def make_row(found: Found, detail: Detail, other: bool = False) -> Row:
    """A row that is shown.

    Args:
        found: The row.
        detail: What is read of it.
        other: See Place.
    """
    image = next((member for member in detail.members if member["suffix"] == detail.image), None)
    return Row(
        key=detail.key,
        shard=detail.shard,
        shard_index=found.shard_index,
        index=found.row_index,
        status=found.status,
        reason=found.reason,
        rest=found.rest,
        step=detail.step or "",
        message=(detail.error_message or "")[:_TEXT],
        caption=(detail.caption or "")[:_TEXT],
        url=(detail.url or "")[:_TEXT],
        width=detail.width or 0,
        height=detail.height or 0,
        image=detail.image or "",
        offset=image["offset"] if image else 0,
        size=image["size"] if image else -1,
        sha256=detail.sha256 or "",
        values=found.values,
        other=other,
    )
