"""The samples of a duplicates table that a report shows: pairs of several similarities, and the largest groups."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from beam_curate.duplicates.finding import (
    FoundGroup,
    OtherDataset,
    RowPlace,
    SearchResult,
    input_digest,
    is_finished,
    read_findings,
)
from beam_curate.records import KEPT
from beam_curate.report.rows import DETAILS, Row, details_of, make_row
from beam_curate.report.table import Place, make_group, stored_scores
from beam_curate.report.thumbnails import Thumbnail
from beam_curate.runs.score_table import ScoreTableError
from beam_curate.runs.table_parts import TablePlace
from beam_curate.storage.retrying import StorageError
from beam_curate.threads import in_threads

_TAG_BYTES: Final = 1000
"""At most what a picture takes beside its data: the text that stands for it, of 100 characters of six bytes, and its size."""
_NOT_THERE: Final = Thumbnail("", problem="the other dataset is not there any more")
_NO_ROOM: Final = Thumbnail("", problem="left out: the page would be too large")


class Pair(NamedTuple):
    """Two samples, how similar they are by a method, and whether that makes them duplicates."""

    method: str
    similarity: float
    duplicate: bool
    places: tuple[Place, Place]


class GroupMember(NamedTuple):
    """A sample of a group: how it was found to be a duplicate, and how similar it is to a better one; the best has no method."""

    place: Place
    method: str
    similarity: float


class DuplicateGroup(NamedTuple):
    """Some samples of a group, those that were kept first, and the number of its samples of this dataset."""

    size: int
    members: Sequence[GroupMember]


@dataclass(frozen=True)
class ShownDuplicates:
    """What is shown of a duplicates table.

    Attributes:
        found: What the table's summary says.
        pairs: The most similar first.
        groups: The largest first.
        rows: The samples by place; those of another dataset that is not there any more are missing.
    """

    found: SearchResult
    pairs: Sequence[Pair]
    groups: Sequence[DuplicateGroup]
    rows: Mapping[Place, Row]

    def pictures(self, images: Mapping[Place, Thumbnail], room: int) -> dict[Place, Thumbnail]:
        """A picture for each sample that is shown, or why there is none, as far as a number of bytes allows.

        Args:
            images: The pictures of `rows`.
            room: Bytes that all of them may take in the page; without room those shown last are left out.
        """
        shown = [place for pair in self.pairs for place in pair.places]
        shown += [member.place for group in self.groups for member in group.members]
        found = {}
        for place, times in Counter(shown).items():
            found[place] = images.get(place, _NO_ROOM) if place in self.rows else _NOT_THERE
            size = times * (len(found[place].uri) + _TAG_BYTES)
            if found[place].uri and size > room:
                found[place] = _NO_ROOM
            elif found[place].uri:
                room -= size
        return found


def find_duplicates(output: str, table: TablePlace) -> ShownDuplicates | None:
    """What is shown of a run's duplicates table; None if it has none that is finished.

    Of the score table the column `index` is read of the parts with a sample that is shown, and the row groups with one.

    Args:
        output: The run's folder.
        table: Its score table.

    Raises:
        ScoreTableError: A part of the score table is missing.
        StorageError: A file cannot be read.
    """
    if not is_finished(output):
        return None
    found = read_findings(output)
    pairs = [
        Pair(pair.method, pair.similarity, pair.duplicate, (_place(pair.samples[0]), _place(pair.samples[1])))
        for pair in found.pairs
    ]
    groups = [DuplicateGroup(group.size, _members(group)) for group in found.largest]
    wanted = {place for pair in pairs for place in pair.places}
    wanted |= {member.place for group in groups for member in group.members}
    rows = _read_rows(table, [place for place in wanted if not place.other], found.keep_by)
    rows |= _read_other(found.against, [place for place in wanted if place.other], found.keep_by)
    ordered = [
        DuplicateGroup(group.size, sorted(group.members, key=lambda member: not _is_kept(rows.get(member.place))))
        for group in groups
    ]
    return ShownDuplicates(found, sorted(pairs, key=lambda pair: (-pair.similarity, pair.places)), ordered, rows)


def _is_kept(row: Row | None) -> bool:
    return row is None or row.other or row.status == KEPT


def _place(found: RowPlace) -> Place:
    return Place(found.shard_index, found.index, found.other)


def _members(group: FoundGroup) -> list[GroupMember]:
    """The samples of a group; its best one first, if that is of another dataset, and so no sample of ours."""
    members = [GroupMember(_place(one), one.method or "", one.similarity) for one in group.samples]
    root = _place(group.root)
    return [GroupMember(root, "", 1.0), *members] if root.other else members


def _read_other(against: OtherDataset | None, places: Sequence[Place], keep_by: str) -> dict[Place, Row]:
    """The rows of another dataset; none if it is not there, or its score table is of other shards by now."""
    if against is None or not places:
        return {}
    try:
        if input_digest(against.scores) != against.input:
            return {}
        return _read_rows(against, places, keep_by, other=True)
    except (StorageError, ScoreTableError):
        return {}


def _read_rows(table: TablePlace, places: Iterable[Place], keep_by: str, other: bool = False) -> dict[Place, Row]:
    """The rows at places, with the scores that decide on blurring and on which one is better."""
    wanted: dict[int, list[int]] = {}
    for place in places:
        wanted.setdefault(place.shard_index, []).append(place.row_index)
    read = in_threads(lambda shard: list(_read_part(table, shard, wanted[shard], keep_by, other)), sorted(wanted))
    return {row.place: row for rows in read for row in rows}


def _read_part(table: TablePlace, shard: int, wanted: Sequence[int], keep_by: str, other: bool) -> Iterator[Row]:
    columns = [name for name in stored_scores(table, shard) if name in ("nsfw", keep_by)]
    with table.open(shard) as part:
        for number in range(part.num_row_groups):
            index = part.read_row_group(number, ["index"]).column("index").to_numpy()
            positions = np.flatnonzero(np.isin(index, wanted))
            if not len(positions):
                continue
            names = sorted({*columns, *DETAILS, "index", "status", "reason"})
            rows = part.read_row_group(number, names).take(pa.array(positions))
            status, reason = (rows.column(name).to_numpy(zero_copy_only=False) for name in ("status", "reason"))
            group = make_group(shard, rows, columns, status, reason)
            yield from (make_row(group.found(at), detail, other) for at, detail in enumerate(details_of(rows)))
