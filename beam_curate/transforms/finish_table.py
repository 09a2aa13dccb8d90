"""FinishTable: all parts of a score table in, the summary of a run that ends with it written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam

from beam_curate.records import ScorePart
from beam_curate.runs.run import Run
from beam_curate.runs.summary import Summary
from beam_curate.transforms.global_window import require_global_window


@dataclass(eq=False)
class FinishTable(beam.PTransform):
    """Ends a run with its score table, without shards: see `runs.ending.finish_table`.

    In: PCollection[ScorePart], one per input shard, with the verdicts that count. Out: PCollection of one Summary.

    Attributes:
        output: Folder of the run.
        about: What to add to the summary.
    """

    output: str
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[Summary]:
        """Sums up when all parts are there."""
        require_global_window(parts, self)
        output, about = self.output, dict(self.about)
        return (
            parts.pipeline
            | "One" >> beam.Create([None])
            | "Finish" >> beam.Map(
                lambda _, counted: Run(output).end_table(counted, about), beam.pvalue.AsList(parts)
            )
        )  # fmt: skip
