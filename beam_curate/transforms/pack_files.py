"""PackFiles: parts of which rows are kept in, output files of a format with these rows written."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics

from beam_curate.progress import PROGRESS
from beam_curate.records import LeftOut, PlacedRows, ScorePart, WrittenShard
from beam_curate.runs.division import Division
from beam_curate.runs.output_files import Format, delete_file, finished_file, held_bytes, write_file
from beam_curate.runs.packing import Packing, shard_name
from beam_curate.runs.placed_rows import Meeting
from beam_curate.runs.row_sources import RowSource
from beam_curate.runs.run import Run
from beam_curate.storage.files import files_under
from beam_curate.transforms.group_rows import GroupRows
from beam_curate.transforms.place_rows import PlaceRows
from beam_curate.transforms.rename_keys import Keys, RenameKeys, name_renames
from beam_curate.transforms.side_by_side import SideBySide


class PackedFiles(NamedTuple):
    """What `PackFiles` has written: all files in their order, and the samples that are in none."""

    files: Sequence[WrittenShard]
    failures: Sequence[LeftOut]


@dataclass(eq=False)
class PackFiles(beam.PTransform):
    """Packs the kept rows of parts into output files, from references alone.

    In: PCollection[ScorePart]. Out: PCollection of one PackedFiles, when all files are there.

    Each part works out where its kept rows go, from one small list of counts, and sends them there, see `runs.placed_rows`; the
    rows of a file meet through the engine. Files that an earlier try finished by the same plan are neither read nor written. A
    sample that the format cannot write leaves its file short: all is then planned again without it, and in source order the
    files before it keep their plans.

    Attributes:
        rows: Where the parts are.
        output: The folder to write to.
        format: What is written.
        division: How many samples a file holds, and in which order.
    """

    rows: RowSource
    output: str
    format: Format
    division: Division = Division()

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[PackedFiles]:
        """Finds shared keys, writes all files and, if there are failures, those that they change."""
        source, format, output = self.rows, self.format, self.output
        renamed = parts | "Rename" >> RenameKeys(source)
        if not format.may_fail:
            written = parts | "Write" >> _WriteAll(self, renamed)
            return written | "Packed" >> beam.Map(
                lambda files, parts: _packed_whole(files, parts, source, format, output), beam.pvalue.AsList(parts)
            )
        one = parts.pipeline | "OnePacking" >> beam.Impulse()
        known = (
            one
            | "Known" >> beam.FlatMap(
                lambda _, parts: Run(output).known_left_out(Packing.of(parts, Division()).rows), beam.pvalue.AsList(parts)
            ).with_output_types(LeftOut)
            # Committed: a second look would find what this job has noted.
            | "CommitKnown" >> beam.Reshuffle().with_input_types(LeftOut)
        )  # fmt: skip
        first = parts | "Write" >> _WriteAll(self, renamed, known)
        failures = first | "Failures" >> beam.FlatMap(_failures).with_output_types(LeftOut)
        left_out = one | "Note" >> beam.FlatMap(
            lambda _, known, new, parts: _note(known, new, parts, source, output),
            *(beam.pvalue.AsList(each) for each in (known, failures, parts)),
        ).with_output_types(LeftOut)
        again = parts | "PartsAgain" >> beam.FlatMap(_if_any, beam.pvalue.AsList(failures)).with_output_types(ScorePart)
        second = again | "WriteAgain" >> _WriteAll(self, renamed, left_out)
        return first | "Packed" >> beam.Map(
            lambda files, again, left_out: _without_short(files, again, left_out, format, output),
            beam.pvalue.AsSingleton(second),
            beam.pvalue.AsList(left_out),
        )


@dataclass(eq=False)
class _WriteAll(beam.PTransform):
    """Writes the files of parts, leaving out some rows; gives one list of WrittenShard, of all files in their order.

    What was there and what is written are put together as side inputs, not by a Flatten: Beam's in-process runner (2.77) takes
    a collection of several producers for complete, where it is a side input, when the first of them is done.
    """

    job: PackFiles
    renamed: beam.PCollection[Keys]
    left_out: beam.PCollection[LeftOut] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[list[WrittenShard]]:
        """Looks for finished files, sends the rows of the others to them, and writes these."""
        job = self.job
        output, format, division = job.output, job.format, job.division
        one = parts.pipeline | "One" >> beam.Impulse()
        names = name_renames(self.renamed)
        packing = beam.pvalue.AsSingleton(
            one
            | "Packing"
            >> beam.Map(
                lambda _, parts, names, left_out=(): Packing.of(
                    parts, division, names.hex(), [(each.shard_index, each.row) for each in left_out]
                ),
                beam.pvalue.AsList(parts),
                names,
                *([] if self.left_out is None else [beam.pvalue.AsList(self.left_out)]),
            )
        )
        there = (
            one
            | "ListFiles" >> beam.FlatMap(lambda _, packing: _files_there(output, packing), packing)
            | "SpreadFiles" >> beam.Reshuffle().with_input_types(int)
            | "Finished"
            >> beam.FlatMap(
                lambda index, packing: _finished(index, format, output, packing), packing
            ).with_output_types(WrittenShard)
            # Committed: a second look would find what this job has written.
            | "CommitFinished" >> beam.Reshuffle().with_input_types(WrittenShard)
        )
        indexes = there | "Index" >> beam.Map(lambda shard: shard.index)
        finished = one | "Ascending" >> beam.Map(
            lambda _, indexes: np.array(sorted(indexes), np.int64), beam.pvalue.AsList(indexes)
        )
        written = (
            {
                "parts": parts | "PartByShard" >> beam.Map(lambda part: (part.shard_index, part)),
                "renamed": self.renamed | "RenamedByShard" >> beam.Map(lambda keys: (keys.shard_index, keys)),
            }
            | "JoinByShard" >> beam.CoGroupByKey()
            | "Place" >> beam.ParDo(PlaceRows(job.rows, format), packing, beam.pvalue.AsSingleton(finished))
            | "ByFile" >> GroupRows(PlacedRows)
            | "WriteFile" >> beam.ParDo(_WriteFile(job.rows, format, output), packing).with_output_types(WrittenShard)
        )
        return one | "AllFiles" >> beam.Map(
            lambda _, there, written: sorted([*there, *written], key=lambda file: file.index),
            beam.pvalue.AsList(there),
            beam.pvalue.AsList(written),
        )


def _if_any(part: ScorePart, failures: Sequence[LeftOut]) -> Iterator[ScorePart]:
    if failures:
        yield part


def _failures(files: Sequence[WrittenShard]) -> Iterator[LeftOut]:
    for file in files:
        yield from file.failures


def _note(
    known: Sequence[LeftOut], new: Sequence[LeftOut], parts: Sequence[ScorePart], source: RowSource, output: str
) -> Sequence[LeftOut]:
    """Writes down what is in no file, before the files are written again without it; gives it back."""
    left_out = [*known, *new]
    shards = {part.shard_index: source.name(part) for part in parts}
    Run(output).note_left_out(left_out, shards, Packing.of(parts, Division()).rows)
    return left_out


def _packed_whole(
    files: Sequence[WrittenShard], parts: Sequence[ScorePart], source: RowSource, format: Format, output: str
) -> PackedFiles:
    if format.prepared:
        _note((), (), parts, source, output)
    return PackedFiles(files, ())


def _without_short(
    files: Sequence[WrittenShard],
    again: Sequence[WrittenShard],
    left_out: Sequence[LeftOut],
    format: Format,
    output: str,
) -> PackedFiles:
    """The files that count: those written again, if there were failures; deletes what there is not any more without these."""
    if not any(file.failures for file in files):
        return PackedFiles(files, left_out)
    for file in files[len(again) :]:
        delete_file(format, output, file.index)
    return PackedFiles(again, left_out)


def _files_there(output: str, packing: Packing) -> list[int]:
    """The indexes of the output files that are there, or begun: what is finished has statistics, which are written last."""
    if not packing.indexes:
        return []  # there are no parts: nothing is written again
    names = (path.rpartition("/")[2] for path in files_under(output, "[0-9]*"))
    numbers = {name.partition(".")[0].partition("_")[0] for name in names}
    return sorted(int(number) for number in numbers if number.isdigit() and number == shard_name(int(number)))


def _finished(index: int, format: Format, output: str, packing: Packing) -> Iterator[WrittenShard]:
    if index < packing.shards:
        shard = finished_file(format, output, index, packing.plan(index))
        if shard is not None:
            yield shard
    elif Run(output).is_begun:  # of the same run, which had more kept rows; without this mark it may be another's
        delete_file(format, output, index)


class _WriteFile(SideBySide):
    """Writes output files.

    A thread holds the rows of its shard (2 to 5 KB each with a 768-d embedding), at most 8 MiB of a source, a row group of a
    part of the score table (about 7 MB), and small buffers: about 40 MB for shards of 1000 samples. What shuffled shards hold
    back until its turn comes is bounded over all threads, see `threads.HELD_BYTES`.
    """

    def __init__(self, source: RowSource, format: Format, output: str) -> None:
        super().__init__(format.threads)
        self._source, self._format, self._output = source, format, output
        self._samples = Metrics.counter("beam_curate.write", "samples")
        self._failed = Metrics.counter("beam_curate.write", "failed")
        self._bytes = Metrics.counter("beam_curate.write", "bytes")

    def setup(self) -> None:
        super().setup()
        self._meeting = Meeting(self._source, self._format.columns)

    def process(self, element: tuple[int, Iterable[PlacedRows]], *side: Any) -> Iterator[WrittenShard]:
        index, placed = element
        # The iterable is the runner's, and asks it for more: in this thread alone.
        return super().process((index, sorted(placed, key=lambda rows: (rows.shard_index, rows.first))), *side)

    def work(self, element: tuple[int, list[PlacedRows]], *side: Any) -> Iterator[WrittenShard]:
        (index, placed), (packing,) = element, side
        plan = packing.plan(index)
        # A bundle that is repeated finds what it wrote.
        shard = finished_file(self._format, self._output, index, plan)
        if shard is None:
            rows = self._meeting.rows(placed)
            with self.threads.holding(held_bytes(rows)):
                shard = write_file(self._format, self._output, index, rows, plan)
        yield shard

    def count(self, result: WrittenShard) -> None:
        self._samples.inc(result.samples)
        self._failed.inc(len(result.failures))
        self._bytes.inc(result.size)
        PROGRESS.add(written=result.samples)
