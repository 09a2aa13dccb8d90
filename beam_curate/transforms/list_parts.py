"""ListParts: the pipeline in, the finished parts of a score table out."""

from dataclasses import dataclass

import apache_beam as beam

from beam_curate.records import ScorePart
from beam_curate.runs.table_parts import TablePlace
from beam_curate.runs.whole_run import check_parts


@dataclass(eq=False)
class ListParts(beam.PTransform):
    """Lists the parts of a finished score table, with their counts.

    In: the pipeline. Out: PCollection[ScorePart], one for each input shard of the run: a part that is missing stops the job.

    Attributes:
        table: The table.
    """

    table: TablePlace

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pipeline: beam.pvalue.PBegin) -> beam.PCollection[ScorePart]:
        """Lists once, spreads, and looks into the parts."""
        table = self.table
        return (
            pipeline
            | "Table" >> beam.Create([table])
            | "List" >> beam.FlatMap(check_parts).with_output_types(int)
            | "Spread" >> beam.Reshuffle().with_input_types(int)
            | "Counts" >> beam.Map(_counts, table).with_output_types(ScorePart)
        )


def _counts(shard_index: int, table: TablePlace) -> ScorePart:
    with table.open(shard_index) as part:
        return part.counts
