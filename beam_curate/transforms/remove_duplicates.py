"""RemoveDuplicates: parts of a duplicates table in, the rows to reject out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from beam_curate.duplicates.removal import Duplicates, Left, members_left, only_shared, removed_of_group
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
    no group. Only members of groups are shuffled.

    Attributes:
        selection: The table and the rules on each row.
        duplicates: The duplicates table, which must be of the same input shards.
        found: What FindDuplicates gives when the table is there, if this job makes it; None: it is there already.
    """

    selection: Selection
    duplicates: Duplicates
    found: beam.PCollection[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[int]) -> beam.PCollection[tuple[int, Removed]]:
        """Waits for the table, and brings together what is left of each group."""
        require_global_window(parts, self)
        if self.found is not None:
            wait = beam.FlatMap(lambda _, numbers: numbers, beam.pvalue.AsList(parts)).with_output_types(int)
            parts = self.found | "WhenFound" >> wait | "SpreadFound" >> beam.Reshuffle()
        if self.duplicates.action == KEEP:
            look = beam.ParDo(_Look(self.selection, self.duplicates, shared=True))
            return parts | "OnlyShared" >> look.with_output_types(tuple[int, Removed])
        return (
            parts
            | "MembersLeft" >> beam.ParDo(_Look(self.selection, self.duplicates)).with_output_types(tuple[int, Left])
            | "ByGroup" >> beam.GroupByKey()
            | "ChooseBest" >> beam.FlatMapTuple(removed_of_group).with_output_types(tuple[int, Removed])
        )


class _Look(beam.DoFn):
    """Looks at the rows of a part, with the user's scorers set up once."""

    def __init__(self, selection: Selection, duplicates: Duplicates, shared: bool = False) -> None:
        self._selection = selection
        self._duplicates = duplicates
        self._shared = shared

    def setup(self) -> None:
        self._selection.set_up()

    def process(self, shard_index: int) -> Iterator[tuple[int, Any]]:
        look = only_shared if self._shared else members_left
        yield from look(self._duplicates, self._selection, shard_index)
