"""ExportFiles: a finished run in; its samples as files for training, and what ends an export, written."""

from dataclasses import dataclass

import apache_beam as beam

from beam_curate.export.end import Export, finish_export
from beam_curate.records import ScorePart
from beam_curate.runs.row_sources import RunRows, run_parts
from beam_curate.runs.run import Run
from beam_curate.runs.summary import ExportSummary
from beam_curate.transforms.pack_files import PackFiles


@dataclass(eq=False)
class ExportFiles(beam.PTransform):
    """Writes the samples of a finished run as files of exactly N samples, see `PackFiles`.

    In: the pipeline. Out: PCollection of one ExportSummary, when all files are there. Each file reads its samples' bytes from
    the run's shards.

    Attributes:
        export: What, how, and where to; the folder is made ready by `runs.run.Run.begin`.
    """

    export: Export

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pipeline: beam.pvalue.PBegin) -> beam.PCollection[ExportSummary]:
        """Lists the run's shards, writes the files, and ends the export."""
        export = self.export
        parts = (
            pipeline
            | "Run" >> beam.Create([export.source])
            | "ListShards" >> beam.FlatMap(lambda folder: run_parts(Run(folder).packed)).with_output_types(ScorePart)
            | "Spread" >> beam.Reshuffle()
        )
        packed = parts | "Export" >> PackFiles(RunRows(export.source), export.output, export.format, export.division)
        return packed | "Finish" >> beam.Map(lambda packed: finish_export(export, packed.files, packed.failures))
