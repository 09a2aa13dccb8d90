"""What is read of the samples that a report shows, a part at a time: their texts, and a small picture of each."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from beam_curate.records import FAILED
from beam_curate.report.rows import DETAILS, Row, details_of, make_row
from beam_curate.report.table import Found, read_stored
from beam_curate.report.thumbnails import Thumbnail, make_thumbnails
from beam_curate.runs.table_parts import TablePlace

Part = tuple[int, Sequence[Found]]
"""The index of a part, and its rows that are shown, ascending."""


class Shown(NamedTuple):
    """A sample that is shown, and its picture; a failed one has none."""

    row: Row
    picture: Thumbnail


def by_part(several: Iterable[Found]) -> list[Part]:
    """The rows, each once, by their parts."""
    parts: dict[int, list[Found]] = {}
    for found in several:
        parts.setdefault(found.shard_index, []).append(found)
    return [(index, sorted(some, key=lambda found: found.place)) for index, some in sorted(parts.items())]


def read_shown(table: TablePlace, part: Part, max_pixels: int) -> list[Shown]:
    """Reads what is shown of some rows of a part: of their row groups alone, and of the source shards.

    Sources that are gone cost the pictures, no more.

    Args:
        table: The score table.
        part: The rows.
        max_pixels: Larger images have no picture.

    Raises:
        ScoreTableError: The part is missing or damaged.
        StorageError: It cannot be read.
    """
    index, several = part
    details = details_of(read_stored(table, index, DETAILS, [found.place for found in several]))
    rows = [make_row(found, detail) for found, detail in zip(several, details, strict=True)]
    pictures = make_thumbnails((row for row in rows if row.status != FAILED), max_pixels)
    return [Shown(row, pictures.get(row.place, Thumbnail("", problem="failed"))) for row in rows]
