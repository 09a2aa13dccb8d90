"""JudgeParts: parts of a score table in, overlays with other verdicts on their rows out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_curate.progress import PROGRESS
from beam_curate.records import Removed, ScorePart
from beam_curate.selection.rejudging import Selection, rejudge_part
from beam_curate.transforms.find_cutoffs import FindCutoffs, JoinTasks, Look, Task, own_cutoff
from beam_curate.transforms.global_window import require_global_window


@dataclass(eq=False)
class JudgeParts(beam.PTransform):
    """Judges the rows of a finished score table by other rules and writes their verdicts, without decoding or inference.

    In: PCollection[int], the parts whose overlays are still to be made, by their input shard's index. Out:
    PCollection[ScorePart], one each; the overlays are written below `output`.

    A rule on the whole table (`Selection.top`) reads its columns of all parts five times first, see `scores.top`: also of
    the parts whose overlays are there already, so that a continued run chooses the same rows.

    Attributes:
        selection: The table and the rules.
        output: Folder of the run.
        everything: PCollection[int], all parts of the table; read only for a rule on the whole table, or with `removed`.
        removed: PCollection[tuple[int, Removed]], rows that are rejected after the rules on each row and before the one on
            the whole table, by their part; several for a part are fine. See `selection.rejudging.passing` for
            what is left to choose from. None for none.
    """

    selection: Selection
    output: str
    everything: beam.PCollection[int]
    removed: beam.PCollection[tuple[int, Removed]] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pending: beam.PCollection[int]) -> beam.PCollection[ScorePart]:
        """Joins by part what is removed, finds where the rule on the whole table cuts, and judges."""
        require_global_window(pending, self)
        selection, judge = self.selection, _Judge(self.selection, self.output)
        if selection.top is None and self.removed is None:
            return pending | "Task" >> beam.Map(Task).with_output_types(Task) | "Judge" >> beam.ParDo(judge)
        tasks = self.everything | JoinTasks(pending, self.removed) | "Spread" >> beam.Reshuffle().with_input_types(Task)
        left = tasks | "Pending" >> beam.Filter(lambda task: task.pending)
        if selection.top is None:
            return left | "Judge" >> beam.ParDo(judge).with_output_types(ScorePart)
        cutoffs = tasks | "Top" >> FindCutoffs(selection)
        return left | "Judge" >> beam.ParDo(judge, *cutoffs.sides).with_output_types(ScorePart)


class _Judge(Look):
    def __init__(self, selection: Selection, output: str) -> None:
        super().__init__(selection)
        self._output = output
        self._rows = Metrics.counter("beam_curate.select", "rows")
        self._kept = Metrics.counter("beam_curate.select", "kept")

    def work(self, element: Task, *side: Any) -> Iterator[ScorePart]:
        yield rejudge_part(
            self._selection, self._output, element.shard_index, element.removed, own_cutoff(element, *side)
        )

    def count(self, result: ScorePart) -> None:
        self._rows.inc(result.rows)
        self._kept.inc(result.kept)
        PROGRESS.add(judged=result.rows, kept=result.kept)
