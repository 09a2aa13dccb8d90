"""Which samples are removed as duplicates: of each group the best one is kept, of those that the rules keep."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate import reasons
from beam_curate.duplicates.candidates import FOREIGN, firsts
from beam_curate.duplicates.finding import SUMMARY, SearchResult, check_whole, input_digest, is_finished
from beam_curate.duplicates.methods import method_named
from beam_curate.duplicates.search import DROP
from beam_curate.duplicates.table import DuplicatesError, read_part
from beam_curate.records import Removed, record
from beam_curate.runs.configuration import DuplicateRule
from beam_curate.runs.read_runs import see
from beam_curate.runs.summary import Summary
from beam_curate.selection.rejudging import Selection, passing, read_rows
from beam_curate.storage.files import absolute, join

_LEFT: Final = np.dtype([("member", "<i8"), ("row", "<i8")])


@dataclass(frozen=True)
class Duplicates:
    """A finished duplicates table, and what is done with it.

    Attributes:
        folder: Where it lies.
        action: Of a table made against another dataset: DROP what is there too, or KEEP only that.
        rule: What was looked for and found, for the configuration; None if that is not known yet.
    """

    folder: str
    action: str = DROP
    rule: DuplicateRule | None = None

    @property
    def seen(self) -> dict[str, str]:
        """Its state, as `Run.seen` is that of a run."""
        return see([join(self.folder, SUMMARY)])


def find_table(folder: str, scores: str, judged: Summary | None = None) -> Duplicates:
    """The finished duplicates table in a folder, which must be of the same input as a score table.

    Args:
        folder: Where it lies.
        scores: Folder of the run that has the score table.
        judged: Of the run whose table is judged: samples that had failed in the table that was searched, and have not here, are
            in no group. None: the tables are not compared.

    Raises:
        DuplicatesError: It is not; the message says what to do.
    """
    place = absolute(folder)
    if not is_finished(place):
        raise DuplicatesError(
            f"`duplicates` {folder} holds no finished duplicates table; give the folder of a run of beam-curate dedup"
        )
    found = check_whole(place)
    if found.input != input_digest(scores):
        raise DuplicatesError(
            f"`duplicates` {folder} lists duplicates of other input shards than those of the score table"
        )
    if judged is not None:
        _check_searched(folder, found, judged)
    return Duplicates(place, found.action, found.rule)


def _check_searched(folder: str, found: SearchResult, judged: Summary) -> None:
    """Refuses a search that was made in the table of before, as far as both note what they are."""
    funnel = judged.funnel
    if found.rows is not None and (found.rows, found.judged) != (funnel.input, funnel.judged):
        raise DuplicatesError(
            f"`duplicates` {folder} was searched in a table of {found.rows} samples, {found.judged} of which had an embedding; "
            f"the score table has {funnel.input} and {funnel.judged}: samples were scored again since, which the search has not "
            "seen; search again"
        )
    if None not in (found.scored, judged.scored) and found.scored != judged.scored:
        raise DuplicatesError(
            f"`duplicates` {folder} was searched in another table than the score table, though of the same input: samples were "
            "scored again since, or in another way, which the search has not seen; search again"
        )


@record
class Left:
    """Members of groups that the rules keep in a part: their places in its duplicates table and in its score table, packed."""

    packed: bytes


def _unpacked(left: Left) -> npt.NDArray[np.void]:
    """(M,) of _LEFT."""
    return np.frombuffer(left.packed, _LEFT)


class Best(NamedTuple):
    """The best member of a group that is left: its place in the group, its key, and its shard."""

    place: int
    key: str
    shard: str


class _Member(NamedTuple):
    """What is read of a member of a group, by column; the names of what it is a duplicate of are null for the first one."""

    group: int
    place: int
    method: str
    similarity: float
    duplicate_of_key: str | None
    duplicate_of_shard: str | None


def members_left(duplicates: Duplicates, selection: Selection, shard_index: int) -> Left:
    """The members of groups that are left in a part.

    Args:
        duplicates: The table.
        selection: The rules on each row.
        shard_index: The part.
    """
    table = read_part(duplicates.folder, shard_index)
    if not table.num_rows:
        return Left(b"")
    rows = passing(selection, shard_index)
    index = read_rows(selection, shard_index, ["index"]).column("index").take(rows)
    place = pc.index_in(table.column("index"), index.combine_chunks())
    member = np.flatnonzero(place.is_valid().to_numpy())
    left = np.zeros(len(member), _LEFT)
    left["member"], left["row"] = member, rows[place.drop_null().to_numpy()]
    return Left(left.tobytes())


def best_left(duplicates: Duplicates, shard_index: int, left: Left) -> Iterator[tuple[int, Best]]:
    """Of each group that has members left in a part the best of these; a group around a sample of the other dataset has none."""
    table = _read(duplicates, shard_index, left)
    group, place = (table.column(name).to_numpy() for name in ("group", "place"))
    order = np.lexsort((place, group))
    first = order[firsts(group[order])]
    own = first[(group[first] & FOREIGN) == 0]
    found = (table.column(name).take(pa.array(own)).to_pylist() for name in ("group", *Best._fields))
    for group_id, *of_group in zip(*found, strict=True):
        yield group_id, Best(*of_group)


def removed_members(
    duplicates: Duplicates, shard_index: int, left: Left, best: Mapping[int, Best]
) -> Iterator[tuple[int, Removed]]:
    """The members of groups that are removed from a part: all but the best one, or all where that is of the other dataset.

    Args:
        duplicates: The table.
        shard_index: The part.
        left: Its members that the rules keep.
        best: The best one that is left, by group.
    """
    removed: dict[str, list[tuple[int, str]]] = {}
    table = _read(duplicates, shard_index, left)
    members = zip(*(table.column(name).to_pylist() for name in _Member._fields), strict=True)
    for row, member in zip(_unpacked(left)["row"].tolist(), map(_Member._make, members), strict=True):
        of_group = best.get(member.group)
        if of_group is not None and of_group.place == member.place:
            continue
        # Every member but the first of a group has an edge, so a method.
        removed.setdefault(member.method, []).append((row, _message(member, of_group)))
    for method, found in removed.items():
        rows, messages = zip(*found, strict=True)
        yield shard_index, Removed(rows, reasons.duplicate(method), messages)


def _read(duplicates: Duplicates, shard_index: int, left: Left) -> pa.Table:
    table = read_part(duplicates.folder, shard_index)
    return table.take(pa.array(_unpacked(left)["member"]))


def _message(member: _Member, best: Best | None) -> str:
    like = method_named(member.method).told(member.similarity)
    words = f"{like} {member.duplicate_of_key!r} of {member.duplicate_of_shard}"
    if best is None:
        return f"{words}, in the other dataset"
    if (best.key, best.shard) == (member.duplicate_of_key, member.duplicate_of_shard):
        return words
    return f"{words}; of this group {best.key!r} of {best.shard} is kept"


def only_shared(duplicates: Duplicates, selection: Selection, shard_index: int) -> Iterator[tuple[int, Removed]]:
    """The rows of a part that are removed where only samples are kept that are in the other dataset too."""
    shared = set(_unpacked(members_left(duplicates, selection, shard_index))["row"].tolist())
    rows = [row for row in passing(selection, shard_index).tolist() if row not in shared]
    if rows:
        message = "no sample of the other dataset is similar to it"
        yield shard_index, Removed(rows, reasons.NOT_IN_OTHER, [message] * len(rows))
