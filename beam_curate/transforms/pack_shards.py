"""PackShards: all parts of a score table in, output shards of their kept rows written."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_curate.records import PlacedRows, ScorePart, WrittenShard
from beam_curate.runs.packing import Packing, shard_name
from beam_curate.runs.placed_rows import Loose, Meeting, packed, place_part
from beam_curate.runs.shard_writing import finished_shard, held_bytes, write_shard
from beam_curate.runs.summary import finish_run
from beam_curate.runs.table_parts import counted_table
from beam_curate.storage.files import files_under
from beam_curate.tars.keys import KeyHolder, rename_shared, stem
from beam_curate.tars.writing import safe_key
from beam_curate.transforms.global_window import require_global_window
from beam_curate.transforms.group_rows import GroupRows
from beam_curate.transforms.side_by_side import SideBySide

LOOSE_BYTES: Final = 1 << 25
"""Rows that travel wait in memory until there are 32 MiB of them: then those of one output file go together."""


@dataclass(eq=False)
class PackShards(beam.PTransform):
    """Packs the kept rows of a score table into output shards, from references alone.

    In: PCollection[ScorePart], one per input shard. Out: PCollection of one dict, the summary.

    Each part works out where its kept rows go, from one small list of counts, and sends them there, see `runs.placed_rows`; the
    rows of a file meet through the engine. Shards that an earlier try finished by the same plan are neither read nor written.

    Attributes:
        output: Folder of the run, which holds the score table.
        samples_per_shard: N.
        seed: Shuffles the order of all kept samples; None keeps the source order.
        about: What to add to the summary.
    """

    output: str
    samples_per_shard: int = 1000
    seed: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        Packing((), (), self.samples_per_shard)  # refuses a wrong number

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[dict[str, Any]]:
        """Finds shared keys and finished shards, sends the rows to their files, writes these, and sums up."""
        require_global_window(parts, self)
        output, per_shard, seed, about = self.output, self.samples_per_shard, self.seed, dict(self.about)
        all_parts = beam.pvalue.AsList(parts)
        one = parts.pipeline | "One" >> beam.Create([None])
        renamed = (
            parts
            | "SpreadParts" >> beam.Reshuffle()
            | "KeptKeys" >> beam.ParDo(_KeptKeys(output)).with_output_types(tuple[str, tuple[str, int, int]])
            | "ByStem" >> beam.GroupByKey()
            | "RenameShared" >> beam.FlatMapTuple(lambda _, holders: _renames(holders))
        )
        names = renamed | "NameRenames" >> beam.Map(_name) | "AllRenames" >> beam.CombineGlobally(_sum_of_names)
        packing = beam.pvalue.AsSingleton(
            one
            | "Packing"
            >> beam.Map(
                lambda _, counted, names: Packing.of(counted, per_shard, seed, names.hex()),
                all_parts,
                beam.pvalue.AsSingleton(names),
            )
        )
        there = (
            one
            | "ListShards" >> beam.FlatMap(lambda _: _shards_there(output))
            | "SpreadShards" >> beam.Reshuffle().with_input_types(int)
            | "Finished" >> beam.FlatMap(_finished, output, packing).with_output_types(WrittenShard)
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
                "renamed": renamed,
            }
            | "JoinByShard" >> beam.CoGroupByKey()
            | "Place" >> beam.ParDo(_PlaceRows(output), packing, beam.pvalue.AsSingleton(finished))
            | "ByOutputShard" >> GroupRows(PlacedRows)
            | "WriteShard" >> beam.ParDo(_WriteShard(output), packing).with_output_types(WrittenShard)
        )
        shards = (there, written) | "AllShards" >> beam.Flatten()
        return one | "Finish" >> beam.Map(
            lambda _, counted, written: finish_run(output, counted, written, len(counted), per_shard, about),
            all_parts,
            beam.pvalue.AsList(shards),
        )


def kept_keys(output: str, part: ScorePart) -> Iterator[tuple[str, tuple[str, int, int]]]:
    """The keys of a part's kept rows as they would be written, by their stem: (stem, (key, shard index, rank))."""
    if not part.kept:
        return
    with counted_table(output, part).open(part.shard_index) as opened:
        keys = opened.kept_column("key")
    for rank, key in enumerate(keys):
        written = safe_key(key)
        yield stem(written), (written, part.shard_index, rank)


def _renames(holders: Iterable[tuple[str, int, int]]) -> Iterator[tuple[int, tuple[int, str]]]:
    for holder in rename_shared(KeyHolder(*holder) for holder in holders):
        yield holder.shard_index, (holder.rank, holder.key)


def _name(renamed: tuple[int, tuple[int, str]]) -> bytes:
    """Sixteen bytes that name a new key."""
    return hashlib.blake2b(repr(renamed).encode(), digest_size=16).digest()


def _sum_of_names(names: Iterable[bytes]) -> bytes:
    """Names all of them, in whatever order they come and are summed."""
    return (sum(int.from_bytes(name, "little") for name in names) % (1 << 128)).to_bytes(16, "little")


def _shards_there(output: str) -> Iterator[int]:
    """The indexes of the output shards that have statistics: these are written last."""
    for path in files_under(output, "[0-9]*_stats.json"):
        number = path.rpartition("/")[2].removesuffix("_stats.json")
        if number.isdigit() and number == shard_name(int(number)):
            yield int(number)


def _finished(index: int, output: str, packing: Packing) -> Iterator[WrittenShard]:
    if index < packing.shards:
        shard = finished_shard(output, index, packing.plan(index))
        if shard is not None:
            yield shard


class _KeptKeys(SideBySide):
    def __init__(self, output: str) -> None:
        super().__init__()
        self._output = output

    def work(self, element: ScorePart, *side: Any) -> Iterator[tuple[str, tuple[str, int, int]]]:
        return kept_keys(self._output, element)


class _PlaceRows(SideBySide):
    """Sends the rows of parts to their files; rows that travel by themselves go together where they can."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self._output = output

    def start_bundle(self) -> None:
        super().start_bundle()
        self._loose: list[Loose] = []

    def process(self, element: tuple[int, Mapping[str, Iterable[Any]]], *side: Any) -> Iterator[tuple[int, PlacedRows]]:
        _, joined = element
        (part,) = joined["parts"]
        for result in super().process((part, dict(joined["renamed"])), *side):
            yield from self._pass_on(result)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for result in super().finish_bundle():
            for placed in self._pass_on(result.value):
                yield GlobalWindows.windowed_value(placed)
        for placed in packed(self._loose):
            yield GlobalWindows.windowed_value(placed)
        self._loose.clear()

    def work(self, element: tuple[ScorePart, dict[int, str]], *side: Any) -> Iterator[Loose | tuple[int, PlacedRows]]:
        (part, renamed), (packing, finished) = element, side
        return place_part(self._output, part, packing, renamed, finished)

    def _pass_on(self, result: Loose | tuple[int, PlacedRows]) -> Iterator[tuple[int, PlacedRows]]:
        if not isinstance(result, Loose):
            yield result
            return
        if self._loose and self._loose[0].table.schema != result.table.schema:
            yield from packed(self._loose)
            self._loose.clear()
        self._loose.append(result)
        if sum(loose.table.nbytes for loose in self._loose) >= LOOSE_BYTES:
            yield from packed(self._loose)
            self._loose.clear()


class _WriteShard(SideBySide):
    """Writes output shards.

    A thread holds the rows of its shard (2 to 5 KB each with a 768-d embedding), at most 8 MiB of a source, a row group of a
    part of the score table (about 7 MB), and small buffers: about 40 MB for shards of 1000 samples. What shuffled shards hold
    back until its turn comes is bounded over all threads, see `threads.HELD_BYTES`.
    """

    def __init__(self, output: str) -> None:
        super().__init__()
        self._output = output
        self._samples = Metrics.counter("beam_curate.write", "samples")
        self._bytes = Metrics.counter("beam_curate.write", "bytes")

    def setup(self) -> None:
        super().setup()
        self._meeting = Meeting(self._output)

    def process(self, element: tuple[int, Iterable[PlacedRows]], *side: Any) -> Iterator[WrittenShard]:
        index, placed = element
        # The iterable is the runner's, and asks it for more: in this thread alone.
        return super().process((index, sorted(placed, key=lambda rows: (rows.shard_index, rows.first))), *side)

    def work(self, element: tuple[int, list[PlacedRows]], *side: Any) -> Iterator[WrittenShard]:
        (index, placed), (packing,) = element, side
        plan = packing.plan(index)
        # A bundle that is repeated finds what it wrote.
        shard = finished_shard(self._output, index, plan)
        if shard is None:
            rows = self._meeting.rows(placed)
            with self.threads.holding(held_bytes(rows)):
                shard = write_shard(self._output, index, rows, plan)
        yield shard

    def count(self, result: WrittenShard) -> None:
        self._samples.inc(result.samples)
        self._bytes.inc(result.size)
