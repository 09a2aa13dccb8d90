"""PackFiles: parts of which rows are kept in, output files of a format with these rows written."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_curate.records import LeftOut, PlacedRows, ScorePart, WrittenShard
from beam_curate.runs.output_files import Format, delete_file, finished_file, held_bytes, write_file
from beam_curate.runs.packing import Packing, shard_name
from beam_curate.runs.placed_rows import Loose, Meeting, packed, place_part
from beam_curate.runs.row_sources import RowSource
from beam_curate.storage.files import files_under
from beam_curate.transforms.group_rows import GroupRows
from beam_curate.transforms.rename_shared_keys import Keys, RenameSharedKeys
from beam_curate.transforms.side_by_side import SideBySide

LOOSE_BYTES: Final = 1 << 25
"""Rows that travel wait in memory until there are 32 MiB of them: then those of one output file go together."""


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
        samples_per_file: N.
        seed: Shuffles the order of all kept samples; None keeps the source order.
    """

    rows: RowSource
    output: str
    format: Format
    samples_per_file: int = 1000
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[PackedFiles]:
        """Finds shared keys, writes all files and, if there are failures, those that they change."""
        source, format, output = self.rows, self.format, self.output
        if source.unique_keys:
            renamed = parts.pipeline | "NoRenames" >> beam.Create([]).with_output_types(Keys)
        else:
            renamed = parts | RenameSharedKeys(source)
        nobody = parts.pipeline | "Nobody" >> beam.Create([]).with_output_types(LeftOut)
        first = parts | "Write" >> _WriteAll(self, renamed, nobody)
        if not format.may_fail:
            return first | "Packed" >> beam.Map(lambda files: PackedFiles(files, ()))
        failures = first | "Failures" >> beam.FlatMap(_failures).with_output_types(LeftOut)
        left_out = beam.pvalue.AsList(failures)
        again = parts | "PartsAgain" >> beam.FlatMap(_if_any, left_out).with_output_types(ScorePart)
        second = again | "WriteAgain" >> _WriteAll(self, renamed, failures)
        return first | "Packed" >> beam.Map(
            lambda files, again: _without_short(files, again, format, output), beam.pvalue.AsSingleton(second)
        )


@dataclass(eq=False)
class _WriteAll(beam.PTransform):
    """Writes the files of parts, leaving out some rows; gives one list of WrittenShard, of all files in their order.

    What was there and what is written are put together as side inputs, not by a Flatten: Beam's in-process runner (2.77) takes
    a collection of several producers for complete, where it is a side input, when the first of them is done.
    """

    job: PackFiles
    renamed: beam.PCollection[Keys]
    left_out: beam.PCollection[LeftOut]

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[list[WrittenShard]]:
        """Looks for finished files, sends the rows of the others to them, and writes these."""
        job = self.job
        output, format, per_file, seed = job.output, job.format, job.samples_per_file, job.seed
        one = parts.pipeline | "One" >> beam.Create([None])
        names = self.renamed | "NameRenames" >> beam.Map(_names) | "AllRenames" >> beam.CombineGlobally(_sum_of_names)
        packing = beam.pvalue.AsSingleton(
            one
            | "Packing"
            >> beam.Map(
                lambda _, parts, names, left_out: Packing.of(
                    parts, per_file, seed, names.hex(), [(each.shard_index, each.row) for each in left_out]
                ),
                beam.pvalue.AsList(parts),
                beam.pvalue.AsSingleton(names),
                beam.pvalue.AsList(self.left_out),
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
        finished = (
            there
            | "Index" >> beam.Map(lambda shard: shard.index)
            | "Indexes" >> beam.combiners.ToList()
            | "Ascending" >> beam.Map(lambda indexes: np.array(sorted(indexes), np.int64))
        )
        written = (
            {
                "parts": parts | "PartByShard" >> beam.Map(lambda part: (part.shard_index, part)),
                "renamed": self.renamed | "RenamedByShard" >> beam.Map(lambda keys: (keys.shard_index, keys)),
            }
            | "JoinByShard" >> beam.CoGroupByKey()
            | "Place" >> beam.ParDo(_PlaceRows(job.rows, format), packing, beam.pvalue.AsSingleton(finished))
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


def _without_short(
    files: Sequence[WrittenShard], again: Sequence[WrittenShard], format: Format, output: str
) -> PackedFiles:
    """The files that count: those written again, if there were failures; deletes what there is not any more without these."""
    failures = list(_failures(files))
    if not failures:
        return PackedFiles(files, failures)
    for file in files[len(again) :]:
        delete_file(format, output, file.index)
    return PackedFiles(again, failures)


def _names(renamed: Keys) -> bytes:
    """Sixteen bytes that name new keys."""
    rows = zip(renamed.ranks, renamed.keys, strict=True)
    texts = (repr((renamed.shard_index, row)).encode() for row in rows)
    return _sum_of_names(hashlib.blake2b(text, digest_size=16).digest() for text in texts)


def _sum_of_names(names: Iterable[bytes]) -> bytes:
    """Names all of them, in whatever order they come and are summed."""
    return (sum(int.from_bytes(name, "little") for name in names) % (1 << 128)).to_bytes(16, "little")


def _files_there(output: str, packing: Packing) -> Iterator[int]:
    """The indexes of the output files that have statistics, which are written last.

    Args:
        output: The folder.
        packing: Of the files. When it is there, those of the packing before it are written.
    """
    if not packing.shards:
        return
    for path in files_under(output, "[0-9]*_stats.json"):
        number = path.rpartition("/")[2].removesuffix("_stats.json")
        if number.isdigit() and number == shard_name(int(number)):
            yield int(number)


def _finished(index: int, format: Format, output: str, packing: Packing) -> Iterator[WrittenShard]:
    if index < packing.shards:
        shard = finished_file(format, output, index, packing.plan(index))
        if shard is not None:
            yield shard


class _PlaceRows(SideBySide):
    """Sends the rows of parts to their files; rows that travel by themselves go together where they can."""

    def __init__(self, source: RowSource, format: Format) -> None:
        super().__init__()
        self._source, self._format = source, format

    def start_bundle(self) -> None:
        super().start_bundle()
        self._loose: list[Loose] = []
        self._loose_bytes = 0

    def process(self, element: tuple[int, Mapping[str, Iterable[Any]]], *side: Any) -> Iterator[tuple[int, PlacedRows]]:
        _, joined = element
        for part in joined["parts"]:  # none where nothing is written again
            renamed = {rank: key for keys in joined["renamed"] for rank, key in zip(keys.ranks, keys.keys, strict=True)}
            for result in super().process((part, renamed), *side):
                yield from self._pass_on(result)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for result in super().finish_bundle():
            for placed in self._pass_on(result.value):
                yield GlobalWindows.windowed_value(placed)
        for placed in self._packed():
            yield GlobalWindows.windowed_value(placed)

    def work(self, element: tuple[ScorePart, dict[int, str]], *side: Any) -> Iterator[Loose | tuple[int, PlacedRows]]:
        (part, renamed), (packing, finished) = element, side
        return place_part(self._source, part, packing, renamed, finished, self._format.columns)

    def _pass_on(self, result: Loose | tuple[int, PlacedRows]) -> Iterator[tuple[int, PlacedRows]]:
        if not isinstance(result, Loose):
            yield result
            return
        if self._loose and self._loose[0].table.schema != result.table.schema:
            yield from self._packed()
        self._loose.append(result)
        self._loose_bytes += result.table.nbytes
        if self._loose_bytes >= LOOSE_BYTES:
            yield from self._packed()

    def _packed(self) -> Iterator[tuple[int, PlacedRows]]:
        yield from packed(self._loose)
        self._loose.clear()
        self._loose_bytes = 0


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
