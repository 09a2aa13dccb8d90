"""PackShards: all parts of a score table in, output shards of their kept rows written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam

from beam_curate.export.copied_tars import CopiedTars
from beam_curate.export.end import finish_run
from beam_curate.records import ScorePart
from beam_curate.runs.output_files import Format
from beam_curate.runs.packing import Packing
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
        samples_per_shard: N.
        seed: Shuffles the order of all kept samples; None keeps the source order.
        about: What to add to the summary.
        format: How samples are written: their members as they are, unless told otherwise.
    """

    output: str
    samples_per_shard: int = 1000
    seed: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    format: Format = CopiedTars()

    def __post_init__(self) -> None:
        super().__init__()
        Packing((), (), self.samples_per_shard)  # refuses a wrong number

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[Summary]:
        """Writes the files, and sums up."""
        require_global_window(parts, self)
        output, format, per_shard, about = self.output, self.format, self.samples_per_shard, dict(self.about)
        seed = self.seed
        packed = parts | "Pack" >> PackFiles(TableRows(output), output, format, per_shard, seed)
        return packed | "Finish" >> beam.Map(
            lambda packed, parts: finish_run(
                output, parts, packed.files, per_shard, seed, about, format, packed.failures
            ),
            beam.pvalue.AsList(parts),
        )
