"""RemoveDuplicates: parts of a duplicates table in, the rows to reject out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from beam_curate.duplicates.finding import SearchResult
from beam_curate.duplicates.removal import (
    Best,
    Duplicates,
    Left,
    best_left,
    members_left,
    only_shared,
    removed_members,
)
from beam_curate.duplicates.search import KEEP
from beam_curate.records import Removed
from beam_curate.selection.rejudging import Selection
from beam_curate.transforms.global_window import require_global_window


@dataclass(eq=False)
class RemoveDuplicates(beam.PTransform):
    """Finds the rows that are to be rejected as duplicates, for JudgeParts or SelectRows.

    In: PCollection[int], all parts of a finished duplicates table by their input shard's index. Out: PCollection[tuple[int,
    Removed]].

    Of each group the best sample stays, of those that the rules on each row keep: so other rules than those of the search lose
    no group. Of each group a part names its best sample that is left; of these the best is told to the parts that have some. So
    no step holds a group, however large it is: at most a few hundred bytes for each part that has some of it.

    Attributes:
        selection: The table and the rules on each row.
        duplicates: The duplicates table, which must be of the same input shards.
        found: What FindDuplicates gives when the table is there, if this job makes it; None: it is there already.
    """

    selection: Selection
    duplicates: Duplicates
    found: beam.PCollection[SearchResult] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[int]) -> beam.PCollection[tuple[int, Removed]]:
        """Waits for the table, and chooses the best that is left of each group."""
        require_global_window(parts, self)
        duplicates = self.duplicates
        if self.found is not None:
            wait = beam.FlatMap(lambda _, numbers: numbers, beam.pvalue.AsList(parts)).with_output_types(int)
            parts = self.found | "WhenFound" >> wait | "SpreadFound" >> beam.Reshuffle()
        if duplicates.action == KEEP:
            look = beam.ParDo(_OnlyShared(self.selection, duplicates))
            return parts | "OnlyShared" >> look.with_output_types(tuple[int, Removed])
        look = beam.ParDo(_MembersLeft(self.selection, duplicates))
        left = parts | "MembersLeft" >> look.with_output_types(tuple[int, Left])
        best = (
            left
            | "BestOfPart"
            >> beam.FlatMapTuple(
                lambda part, left: ((group, (part, tuple(best))) for group, best in best_left(duplicates, part, left))
            ).with_output_types(tuple[int, tuple[int, tuple[int, str, str]]])
            | "ByGroup" >> beam.GroupByKey()
            | "BestOfGroup" >> beam.FlatMapTuple(_tell).with_output_types(tuple[int, tuple[int, tuple[int, str, str]]])
        )
        return (
            {"left": left, "best": best}
            | "ByPart" >> beam.CoGroupByKey()
            | "Remove"
            >> beam.FlatMapTuple(lambda part, joined: _removed(duplicates, part, joined)).with_output_types(
                tuple[int, Removed]
            )
        )


class _MembersLeft(beam.DoFn):
    """Looks at the rows of a part, with the user's scorers set up once."""

    def __init__(self, selection: Selection, duplicates: Duplicates) -> None:
        self._selection = selection
        self._duplicates = duplicates

    def setup(self) -> None:
        self._selection.set_up()

    def process(self, shard_index: int) -> Iterator[tuple[int, Any]]:
        left = members_left(self._duplicates, self._selection, shard_index)
        if left.packed:
            yield shard_index, left


class _OnlyShared(_MembersLeft):
    def process(self, shard_index: int) -> Iterator[tuple[int, Any]]:
        yield from only_shared(self._duplicates, self._selection, shard_index)


def _tell(
    group: int, named: Iterable[tuple[int, tuple[int, str, str]]]
) -> Iterator[tuple[int, tuple[int, tuple[int, str, str]]]]:
    """The best sample of a group to each part that has some of it."""
    known = list(named)
    best = min(best for _, best in known)
    for part, _ in known:
        yield part, (group, best)


def _removed(duplicates: Duplicates, part: int, joined: Mapping[str, Iterable[Any]]) -> Iterator[tuple[int, Removed]]:
    best = {group: Best(*named) for group, named in joined["best"]}
    for left in joined["left"]:
        yield from removed_members(duplicates, part, left, best)
