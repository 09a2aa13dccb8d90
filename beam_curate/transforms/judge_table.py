"""JudgeTable: all parts of a run's own score table in, overlays with the verdicts of rules on the whole table out."""

from dataclasses import dataclass

import apache_beam as beam

from beam_curate.duplicates.removal import Duplicates
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.records import ScorePart
from beam_curate.runs.table_parts import TablePlace
from beam_curate.scores.top import TopRule
from beam_curate.selection.rejudging import Selection
from beam_curate.transforms.find_duplicates import FindDuplicates
from beam_curate.transforms.global_window import require_global_window
from beam_curate.transforms.judge_parts import JudgeParts
from beam_curate.transforms.remove_duplicates import RemoveDuplicates


@dataclass(eq=False)
class JudgeTable(beam.PTransform):
    """Judges the rows that a run has kept so far by rules that need all of them: duplicates first, then the best.

    In: PCollection[ScorePart], all parts of the table in `output`. Out: PCollection[ScorePart], the overlays in `verdicts/`.

    Attributes:
        output: Folder of the run.
        top: The best of what is left; None for none.
        duplicates: What duplicates are; None: they stay.
    """

    output: str
    top: TopRule | None = None
    duplicates: DuplicateSearch | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[ScorePart]:
        """Finds the duplicates, unless an earlier run has found them, and judges."""
        require_global_window(parts, self)
        selection = Selection(TablePlace(self.output), rules=None, top=self.top)
        numbers = parts | "Number" >> beam.Map(lambda part: part.shard_index).with_output_types(int)
        removed = None
        if self.duplicates is not None:
            found = parts | FindDuplicates(self.duplicates, self.output)
            removed = numbers | RemoveDuplicates(selection, Duplicates(self.output), found)
        return numbers | JudgeParts(selection, self.output, numbers, removed)
