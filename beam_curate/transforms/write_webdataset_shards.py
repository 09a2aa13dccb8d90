"""WriteWebDatasetShards: ScoredSample in; the score table, the output shards and the summary written."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from beam_curate.keys import KeyHolder, rename_shared, stem
from beam_curate.packing import Packing
from beam_curate.records import Piece, ScoredSample, ScorePart, WrittenShard
from beam_curate.rejudging import Selection
from beam_curate.shard_writing import PartPieces, held_bytes, shard_rows, write_shard
from beam_curate.summary import finish_run
from beam_curate.table_parts import TablePlace, counted_table
from beam_curate.tar_writing import safe_key
from beam_curate.top import TopRule
from beam_curate.transforms.judge_parts import JudgeParts
from beam_curate.transforms.write_score_table import WriteScoreTable
from beam_curate.writing_threads import WritingThreads


@dataclass(eq=False)
class WriteWebDatasetShards(beam.PTransform):
    """Writes the score table of all samples and WebDataset shards of the kept ones.

    In: PCollection[ScoredSample]. Out: PCollection of one dict, the summary, when all files are there.

    Shards hold exactly `samples_per_shard` samples (the last one the rest) in source order, named `00000.tar`, …, with
    `00000.parquet` and `00000_stats.json` beside each; then `index.json`, `sizes.json` and, last, `summary.json`. Only
    references pass between the steps: the kept bytes are read again from the source and copied as they are.

    Attributes:
        output: Folder of the run, on any Beam file system.
        score_names: Names of the scores, `ScoreAndFilter.score_names`.
        embedding_dim: D, the width of the embeddings (768 for ViT-L-14).
        samples_per_shard: N.
        seed: Shuffles the order of all kept samples; None keeps the source order.
        done: Parts of the score table that an earlier run has written already.
        about: What to add to the summary.
        top: A rule on the whole table: what it rejects of the kept rows is written to `verdicts/` when the table is complete.
    """

    output: str
    score_names: Sequence[str]
    embedding_dim: int = 768
    samples_per_shard: int = 1000
    seed: int | None = None
    done: beam.PCollection[ScorePart] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    top: TopRule | None = None

    def __post_init__(self) -> None:
        super().__init__()
        Packing((), self.samples_per_shard)  # refuses a wrong number

    def expand(self, rows: beam.PCollection[ScoredSample]) -> beam.PCollection[dict[str, Any]]:
        """Writes the table, then packs its kept rows."""
        parts = rows | WriteScoreTable(self.output, self.score_names, self.embedding_dim)
        if self.done is not None:
            parts = (parts, self.done) | "AddDone" >> beam.Flatten()
        if self.top is not None:
            written = parts | "Number" >> beam.Map(lambda part: part.shard_index).with_output_types(int)
            selection = Selection(TablePlace(self.output), rules=None, top=self.top)
            parts = written | JudgeParts(selection, self.output, written)
        return parts | PackShards(self.output, self.samples_per_shard, self.seed, self.about)


@dataclass(eq=False)
class PackShards(beam.PTransform):
    """Packs the kept rows of a score table into output shards, from references alone.

    In: PCollection[ScorePart], one per input shard. Out: PCollection of one dict, the summary.

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

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[dict[str, Any]]:
        """Plans the pieces, finds shared keys, brings both together by output shard, writes, and sums up."""
        output, per_shard, seed, about = self.output, self.samples_per_shard, self.seed, dict(self.about)
        all_parts = beam.pvalue.AsList(parts)
        one = parts.pipeline | "One" >> beam.Create([None])
        pieces = one | "Plan" >> beam.FlatMap(lambda _, counted: plan(counted, per_shard, seed), all_parts)
        renamed = (
            parts
            | "SpreadParts" >> beam.Reshuffle()
            | "KeptKeys" >> beam.FlatMap(lambda part: kept_keys(output, part))
            | "ByStem" >> beam.GroupByKey()
            | "RenameShared" >> beam.FlatMapTuple(lambda _, holders: _renames(holders))
        )
        shards = (
            {
                "parts": parts | "PartByShard" >> beam.Map(lambda part: (part.shard_index, part)),
                "pieces": pieces | "PieceByShard" >> beam.Map(lambda piece: (piece.shard_index, piece)),
                "renamed": renamed,
            }
            | "JoinByShard" >> beam.CoGroupByKey()
            | "PiecesWithRows" >> beam.FlatMapTuple(lambda _, joined: _by_output_shard(joined))
            | "ByOutputShard" >> beam.GroupByKey()
            | "WriteShard" >> beam.ParDo(_WriteShard(output)).with_output_types(WrittenShard)
        )
        return one | "Finish" >> beam.Map(
            lambda _, counted, written: finish_run(output, counted, written, len(counted), per_shard, about),
            all_parts,
            beam.pvalue.AsList(shards),
        )


def plan(parts: Iterable[ScorePart], samples_per_shard: int, seed: int | None) -> Iterator[Piece]:
    """The pieces of all output shards; `shard_index` is the input shard's own index."""
    ordered = sorted(parts, key=lambda part: part.shard_index)
    for piece in Packing([part.kept for part in ordered], samples_per_shard, seed).pieces():
        shard_index = ordered[piece.shard_index].shard_index
        yield Piece(shard_index, piece.output_index, piece.start, piece.first, piece.count)


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


def _by_output_shard(joined: Mapping[str, Iterable[Any]]) -> Iterator[tuple[int, PartPieces]]:
    """Splits a part's pieces and its renamed rows by the output shards that they go to."""
    (part,) = joined["parts"]
    renamed = dict(joined["renamed"])
    by_output: dict[int, list[Piece]] = defaultdict(list)
    for piece in joined["pieces"]:
        by_output[piece.output_index].append(piece)
    for index, pieces in by_output.items():
        ranks = [rank for piece in pieces for rank in range(piece.first, piece.first + piece.count)] if renamed else []
        yield index, PartPieces(part, pieces, {rank: renamed[rank] for rank in ranks if rank in renamed})


class _WriteShard(beam.DoFn):
    """Keeps as many shards under way as there are threads, and gives them in the order in which they were started."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._shared = Shared()
        self._samples = Metrics.counter("beam_curate.write", "samples")
        self._bytes = Metrics.counter("beam_curate.write", "bytes")

    def setup(self) -> None:
        # One for the process: a runner makes a DoFn for each of its own threads.
        self._threads = self._shared.acquire(WritingThreads)

    def start_bundle(self) -> None:
        self._ahead: deque[Future[WrittenShard]] = deque()

    def process(self, group: tuple[int, Iterable[PartPieces]]) -> Iterator[WrittenShard]:
        index, parts = group
        ordered = sorted(parts, key=lambda member: member.part.shard_index)
        self._ahead.append(self._threads.submit(partial(_write, self._threads, self._output, index, ordered)))
        while len(self._ahead) > self._threads.number:
            yield self._take()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._ahead:
            yield GlobalWindows.windowed_value(self._take())

    def _take(self) -> WrittenShard:
        try:
            shard = self._ahead.popleft().result()
        except BaseException:
            for waiting in self._ahead:
                waiting.cancel()
            raise
        self._samples.inc(shard.samples)
        self._bytes.inc(shard.size)
        return shard


def _write(threads: WritingThreads, output: str, index: int, parts: Sequence[PartPieces]) -> WrittenShard:
    rows = shard_rows(output, parts)
    with threads.holding(held_bytes(rows)):
        return write_shard(output, index, rows)
