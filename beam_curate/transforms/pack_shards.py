"""PackShards: all parts of a score table in, output shards of their kept rows written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam

from beam_curate.export.copied_tars import CopiedTars
from beam_curate.export.end import finish_run
from beam_curate.records import ScorePart
from beam_curate.runs.division import Division
from beam_curate.runs.output_files import Format
from beam_curate.runs.row_sources import TableRows
from beam_curate.runs.summary import Summary
from beam_curate.transforms.global_window import require_global_window
from beam_curate.transforms.pack_files import PackFiles


@dataclass(eq=False)
class PackShards(beam.PTransform):
    """Packs the kept rows of a score table into output shards, see `PackFiles`, and ends the run.

    In: PCollection[ScorePart], one per input shard. Out: PCollection of one Summary.

    Attributes:
        output: Folder of the run, which holds the score table.
        division: How many samples a shard holds, and in which order.
        about: What to add to the summary.
        format: How samples are written: their members as they are, unless told otherwise.
    """

    output: str
    division: Division = Division()
    about: Mapping[str, Any] = field(default_factory=dict)
    format: Format = CopiedTars()

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[Summary]:
        """Writes the files, and sums up."""
        require_global_window(parts, self)
        output, format, division, about = self.output, self.format, self.division, dict(self.about)
        packed = parts | "Pack" >> PackFiles(TableRows(output), output, format, division)
        return packed | "Finish" >> beam.Map(
            lambda packed, parts: finish_run(output, parts, packed.files, division, about, format, packed.failures),
            beam.pvalue.AsList(parts),
        )
