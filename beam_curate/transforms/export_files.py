"""ExportFiles: a finished run in; its samples as files for training, and what ends an export, written."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_curate.export.end import finish_export
from beam_curate.export.files import Export, ExportedFile, ExportFailure, write_file
from beam_curate.export.plan import RowsOfShard, ShardShare, joined_rows, plan_name, rows_by_file, shares

_FAILED = "failed"


@dataclass(eq=False)
class ExportFiles(beam.PTransform):
    """Writes the samples of a finished run as files of exactly `samples_per_file`.

    In: the pipeline. Out: PCollection of one dict, the summary, when all files are there.

    Each sample's file and place in it follow from its position by arithmetic, so only rows are grouped (100 to 600 bytes
    each, and 2 bytes for a value of the embedding if that is exported), and each file reads its samples' bytes from the run's
    shards. A sample that cannot be exported would leave its file short: if there is any, all is planned and written again
    without them.

    Attributes:
        export: What, how, and where to; the folder is made ready by `runs.run_state.prepare_output`.
    """

    export: Export

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pipeline: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Writes, writes again if there were failures, and ends the export."""
        export = self.export
        listed = (
            pipeline
            | "Run" >> beam.Create([export.source])
            | "ListShards" >> beam.FlatMap(shares).with_output_types(ShardShare)
            | "Spread" >> beam.Reshuffle()
        )
        nobody = pipeline | "Nobody" >> beam.Create([]).with_output_types(ExportFailure)
        first = listed | "Export" >> _WriteAll(export, nobody, again=False)
        second = listed | "ExportAgain" >> _WriteAll(export, first.failures, again=True)
        return (
            pipeline
            | "One" >> beam.Create([export])
            | "Finish"
            >> beam.Map(
                finish_export,
                beam.pvalue.AsList(first.files),
                beam.pvalue.AsList(first.failures),
                beam.pvalue.AsList(second.files),
                beam.pvalue.AsList(second.failures),
            )
        )


class _Written(NamedTuple):
    """Files, and the samples that are in none."""

    files: beam.PCollection[ExportedFile]
    failures: beam.PCollection[ExportFailure]


@dataclass(eq=False)
class _WriteAll(beam.PTransform):
    """Writes all files, leaving out the failures; `again` does nothing if there are none."""

    export: Export
    failures: beam.PCollection[ExportFailure]
    again: bool

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, shares: beam.PCollection[ShardShare]) -> "_Written":
        """Sends the rows to their files, and writes these."""
        export, again, failures = self.export, self.again, beam.pvalue.AsList(self.failures)
        doors = (
            shares
            | "Place" >> beam.FlatMap(rows_by_file, export, failures, again).with_output_types(tuple[int, RowsOfShard])
            | "ByFile" >> beam.GroupByKey()
            | "WriteFile" >> beam.ParDo(_WriteFile(export), failures).with_outputs(_FAILED, main="files")
        )
        return _Written(doors["files"], doors[_FAILED])


class _WriteFile(beam.DoFn):
    def __init__(self, export: Export) -> None:
        self._export = export
        self._samples = Metrics.counter("beam_curate.export", "samples")
        self._failed = Metrics.counter("beam_curate.export", "failed")
        self._bytes = Metrics.counter("beam_curate.export", "bytes")

    def process(self, group: tuple[int, Iterable[RowsOfShard]], left_out: Sequence[ExportFailure]) -> Iterator[Any]:
        index, shards = group
        file, failures = write_file(self._export, index, joined_rows(self._export, shards), plan_name(left_out))
        self._samples.inc(file.shard.samples)
        self._failed.inc(len(failures))
        self._bytes.inc(file.shard.size)
        yield file
        for failure in failures:
            yield beam.pvalue.TaggedOutput(_FAILED, failure)
