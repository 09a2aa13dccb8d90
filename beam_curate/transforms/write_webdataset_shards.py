"""WriteWebDatasetShards: ScoredSample in; the score table, the output shards and the summary written."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.records import Piece, ScoredSample, ScorePart, WrittenShard
from beam_curate.runs.packing import Packing
from beam_curate.runs.shard_writing import PartPieces, held_bytes, shard_rows, write_shard
from beam_curate.runs.summary import finish_run
from beam_curate.runs.table_parts import counted_table
from beam_curate.selection.top import TopRule
from beam_curate.tars.keys import KeyHolder, rename_shared, stem
from beam_curate.tars.writing import safe_key
from beam_curate.transforms.global_window import require_global_window
from beam_curate.transforms.judge_table import JudgeTable
from beam_curate.transforms.side_by_side import SideBySide
from beam_curate.transforms.write_score_table import WriteScoreTable


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
        second_embeddings: By the names of second embeddings (`ClipModelHandler.embedding_name`) their widths.
        duplicates: Which duplicates are rejected of the kept rows, before `top`; likewise. None: they stay.
    """

    output: str
    score_names: Sequence[str]
    embedding_dim: int = 768
    samples_per_shard: int = 1000
    seed: int | None = None
    done: beam.PCollection[ScorePart] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    top: TopRule | None = None
    second_embeddings: Mapping[str, int] = field(default_factory=dict)
    duplicates: DuplicateSearch | None = None

    def __post_init__(self) -> None:
        super().__init__()
        Packing((), self.samples_per_shard)  # refuses a wrong number

    def expand(self, rows: beam.PCollection[ScoredSample]) -> beam.PCollection[dict[str, Any]]:
        """Writes the table, then packs its kept rows."""
        parts = rows | WriteScoreTable(self.output, self.score_names, self.embedding_dim, self.second_embeddings)
        if self.done is not None:
            require_global_window(self.done, self)
            parts = (parts, self.done) | "AddDone" >> beam.Flatten()
        if self.top is not None or self.duplicates is not None:
            parts = parts | JudgeTable(self.output, self.top, self.duplicates)
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
        require_global_window(parts, self)
        output, per_shard, seed, about = self.output, self.samples_per_shard, self.seed, dict(self.about)
        all_parts = beam.pvalue.AsList(parts)
        one = parts.pipeline | "One" >> beam.Create([None])
        pieces = one | "Plan" >> beam.FlatMap(lambda _, counted: plan(counted, per_shard, seed), all_parts)
        renamed = (
            parts
            | "SpreadParts" >> beam.Reshuffle()
            | "KeptKeys" >> beam.ParDo(_KeptKeys(output)).with_output_types(tuple[str, tuple[str, int, int]])
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


class _KeptKeys(SideBySide):
    def __init__(self, output: str) -> None:
        super().__init__()
        self._output = output

    def work(self, element: ScorePart, *side: Any) -> Iterator[tuple[str, tuple[str, int, int]]]:
        return kept_keys(self._output, element)


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

    def process(self, element: tuple[int, Iterable[PartPieces]], *side: Any) -> Iterator[WrittenShard]:
        index, parts = element
        # The iterable is the runner's, and asks it for more: in this thread alone.
        return super().process((index, sorted(parts, key=lambda member: member.part.shard_index)), *side)

    def work(self, element: tuple[int, list[PartPieces]], *side: Any) -> Iterator[WrittenShard]:
        index, parts = element
        rows = shard_rows(self._output, parts)
        with self.threads.holding(held_bytes(rows)):
            yield write_shard(self._output, index, rows)

    def count(self, result: WrittenShard) -> None:
        self._samples.inc(result.samples)
        self._bytes.inc(result.size)
