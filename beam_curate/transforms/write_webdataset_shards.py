"""WriteWebDatasetShards: ScoredSample in; the score table, the output shards and the summary written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam

from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.records import ScoredSample, ScorePart
from beam_curate.runs.division import Division
from beam_curate.runs.summary import Summary
from beam_curate.scores.top import TopRule
from beam_curate.transforms.finish_table import FinishTable
from beam_curate.transforms.global_window import require_global_window
from beam_curate.transforms.judge_table import JudgeTable
from beam_curate.transforms.pack_shards import PackShards
from beam_curate.transforms.write_score_table import WriteScoreTable


@dataclass(eq=False)
class WriteWebDatasetShards(beam.PTransform):
    """Writes the score table of all samples and WebDataset shards of the kept ones.

    In: PCollection[ScoredSample]. Out: PCollection of one Summary, when all files are there.

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
        table_only: End with the table: no shards are written, and the summary says so.
        scoring_hints: See `WriteScoreTable`.
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
    table_only: bool = False
    scoring_hints: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._division = Division(self.samples_per_shard, self.seed)  # refuses wrong values

    def expand(self, rows: beam.PCollection[ScoredSample]) -> beam.PCollection[Summary]:
        """Writes the table, then packs its kept rows."""
        parts = rows | WriteScoreTable(
            self.output, self.score_names, self.embedding_dim, self.second_embeddings, self.scoring_hints
        )
        if self.done is not None:
            require_global_window(self.done, self)
            parts = (parts, self.done) | "AddDone" >> beam.Flatten()
        if self.top is not None or self.duplicates is not None:
            parts = parts | JudgeTable(self.output, self.top, self.duplicates)
        if self.table_only:
            return parts | FinishTable(self.output, self.about)
        return parts | PackShards(self.output, self._division, self.about)
