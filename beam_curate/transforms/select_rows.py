"""SelectRows: a finished score table in, other verdicts on its rows out."""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from beam_curate.records import Removed, ScorePart, Shard
from beam_curate.runs.run import Run
from beam_curate.selection.rejudging import Selection
from beam_curate.transforms.judge_parts import JudgeParts


@dataclass(eq=False)
class SelectRows(beam.PTransform):
    """Judges the rows of a finished score table by other rules, see `JudgeParts`.

    In: PCollection[Shard], the input shards of the run in `output` whose overlays are still to be made. Out:
    PCollection[ScorePart], one each.

    Attributes:
        selection: The source and the rules.
        output: Folder of the new run, made ready by `runs.run.Run.begin` with the source's input shards.
        removed: PCollection[tuple[int, Removed]], rows that are rejected beside the rules, by their part; None for none.
    """

    selection: Selection
    output: str
    removed: beam.PCollection[tuple[int, Removed]] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[ScorePart]:
        """Lists all parts, where a rule on each row is not all, and judges those that are left."""
        pending = everything = shards | "Number" >> beam.Map(lambda shard: shard.index).with_output_types(int)
        if self.selection.top is not None or self.removed is not None:
            everything = (
                shards.pipeline
                | "Run" >> beam.Create([self.output])
                | "List" >> beam.FlatMap(_part_numbers).with_output_types(int)
            )
        return pending | JudgeParts(self.selection, self.output, everything, self.removed)


def _part_numbers(output: str) -> Iterator[int]:
    for shard in Run(output).input_shards:
        yield shard.index
