"""WriteReport: the summary of a finished run in, `report.html` beside it written."""

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from beam_curate.report.writing import write_report


@dataclass(eq=False)
class WriteReport(beam.PTransform):
    """Writes the report of a run when its summary is there, see `report.writing.write_report`.

    In: PCollection of one dict, the summary (of WriteWebDatasetShards or PackShards). Out: the same. One worker reads the
    columns of the whole score table, without the embeddings.

    Attributes:
        output: Folder of the run.
    """

    output: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, summary: beam.PCollection[dict[str, Any]]) -> beam.PCollection[dict[str, Any]]:
        """Writes, and hands on."""
        return summary | beam.Map(_write, self.output)


def _write(summary: dict[str, Any], output: str) -> dict[str, Any]:
    write_report(output)
    return summary
