"""ScoreAndFilter: EmbeddedSample in, ScoredSample out, one to one and in order."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_curate import reasons, records
from beam_curate.heads.head import EmbeddingScore
from beam_curate.progress import PROGRESS
from beam_curate.records import EmbeddedSample, ImageFacts, ScoredSample
from beam_curate.runs.score_table import VERDICT
from beam_curate.scores.judging import judge
from beam_curate.scores.rules import Condition, check_columns, standard_rules
from beam_curate.scores.scorers import EmbeddingsScorer, run_embeddings, set_up_scorer
from beam_curate.scores.screening import fact_column

_BATCH = 64
_MOST = 2.0**53  # what a distribution is given at most: it holds 64-bit integers


@dataclass(eq=False)
class ScoreAndFilter(beam.PTransform):
    """Gives every sample its scores and its verdict.

    In: PCollection[EmbeddedSample]. Out: PCollection[ScoredSample]: `kept`, `rejected` with the first rule that failed (all
    scores are there), or `failed` as it came. Scores are computed from the float16 embedding that the score table
    stores, so that scoring the table again gives the same numbers. `SplitByStatus` gives a door for each verdict.

    Attributes:
        heads: The scores of the embedding: heads and prompts' scores, in the order of the table's columns.
        min_aesthetic: Keep if aesthetic >= this; None turns the rule off.
        max_nsfw: Keep if nsfw < this; None turns the rule off.
        min_side: Keep if the shorter side in pixels >= this; None turns the rule off.
        rules: More rules, tried after these: `Rule`, or `KeepRule` with an expression.
        image_scores: Names of the scores that the samples bring with them (`DecodeImages.screening`, `ScoreImages`), all of
            them: others stop the job.
        scorers: Scorers of the user's own that take embeddings, see `scores.scorers`.

    Raises:
        ValueError: At construction, if a rule needs a score that no head gives.
    """

    heads: Sequence[EmbeddingScore] = ()
    min_aesthetic: float | None = None
    max_nsfw: float | None = None
    min_side: int | None = None
    rules: Sequence[Condition] = field(default_factory=tuple)
    image_scores: Sequence[str] = ()
    scorers: Sequence[EmbeddingsScorer] = ()

    def __post_init__(self) -> None:
        super().__init__()
        self._rules = (*standard_rules(self.min_aesthetic, self.max_nsfw, self.min_side), *self.rules)
        check_columns(self._rules, self.score_names)

    @property
    def score_names(self) -> tuple[str, ...]:
        """The names of the scores: those that the samples bring, those of the heads, those of the scorers."""
        return _names(self.image_scores, self.heads, self.scorers)

    def expand(self, samples: beam.PCollection[EmbeddedSample]) -> beam.PCollection[ScoredSample]:
        """Batches and scores."""
        return (
            samples
            | beam.BatchElements(min_batch_size=_BATCH, max_batch_size=_BATCH)
            | beam.ParDo(
                _Score(tuple(self.heads), self._rules, tuple(self.image_scores), tuple(self.scorers))
            ).with_output_types(ScoredSample)
        )


def _names(
    image_scores: Sequence[str], heads: Sequence[EmbeddingScore], scorers: Sequence[EmbeddingsScorer]
) -> tuple[str, ...]:
    own = [column for scorer in scorers for column in scorer.columns]
    return (*image_scores, *(head.name for head in heads), *own)


def score_samples(
    samples: Sequence[EmbeddedSample],
    heads: Sequence[EmbeddingScore],
    rules: Sequence[Condition],
    image_scores: Sequence[str] = (),
    scorers: Sequence[EmbeddingsScorer] = (),
) -> Iterator[ScoredSample]:
    """Scores and judges a batch; a failed sample keeps its failure and has NaN for the scores that it does not bring."""
    good = [sample for sample in samples if sample.failure is None]
    for sample in good:
        if sample.scores.keys() != set(image_scores):
            raise ValueError(
                f"image_scores={list(image_scores)}, but the samples bring the scores {list(sample.scores)}: give these"
            )
    scores = {
        name: np.array([sample.scores.get(name, math.nan) for sample in good], np.float32) for name in image_scores
    }
    if good:
        embeddings = np.stack([np.frombuffer(sample.embedding, "<f2") for sample in good])
        scores |= {head.name: head.score(embeddings) for head in heads}
        for scorer in scorers:
            scores |= run_embeddings(scorer, embeddings)
    else:
        rules = ()  # there is nothing to judge, nor a score to judge by
    names = _names(image_scores, heads, scorers)
    described = [(sample.ref, _facts(sample)) for sample in good]
    columns = {
        name: pa.array(scores[name]) if name in scores else fact_column(name, described)
        for rule in rules
        for name in rule.columns
    }
    judged = judge(rules, columns, np.ones(len(good), np.bool_))
    texts = judged.over({name: np.full(len(good), None, object) for name in VERDICT})
    verdicts = zip(*(texts[name] for name in VERDICT), _rows(scores, len(good)), strict=True)
    for sample in samples:
        if sample.failure is not None:
            failure = sample.failure
            known = {name: sample.scores.get(name, math.nan) for name in names}
            status = records.REJECTED if failure.step == reasons.SCREEN else records.FAILED
            yield ScoredSample(
                sample.ref, sample.facts, b"", known, status, failure.step, failure.reason, failure.message
            )
            continue
        status, step, reason, message, values = next(verdicts)
        facts, second = _facts(sample), sample.embeddings
        yield ScoredSample(
            sample.ref, facts, sample.embedding, values, status, step or "", reason or "", message or "", second
        )


def _rows(scores: Mapping[str, np.ndarray], rows: int) -> Iterator[dict[str, float]]:
    for row in range(rows):
        yield {name: float(values[row]) for name, values in scores.items()}


def _facts(sample: EmbeddedSample) -> ImageFacts:
    if sample.facts is None:
        raise RuntimeError(f"sample {sample.ref.key!r} of {sample.ref.shard} came without failure and without facts")
    return sample.facts


class _Score(beam.DoFn):
    def __init__(
        self,
        heads: tuple[EmbeddingScore, ...],
        rules: tuple[Condition, ...],
        image_scores: tuple[str, ...],
        scorers: tuple[EmbeddingsScorer, ...],
    ) -> None:
        self._heads = heads
        self._rules = rules
        self._image_scores = image_scores
        self._scorers = scorers
        self._counters = {status: Metrics.counter("beam_curate.score", status) for status in records.STATUSES}
        # A distribution holds integers: thousandths of the score.
        self._scores = {
            name: Metrics.distribution("beam_curate.score", f"{name}_thousandths")
            for name in _names(image_scores, heads, scorers)
        }

    def setup(self) -> None:
        for scorer in self._scorers:
            set_up_scorer(scorer)

    def process(self, batch: list[EmbeddedSample]) -> Iterator[ScoredSample]:
        for row in score_samples(batch, self._heads, self._rules, self._image_scores, self._scorers):
            self._counters[row.status].inc()
            if row.reason:
                Metrics.counter("beam_curate.reasons", row.reason).inc()
            for name, value in row.scores.items():
                if math.isfinite(value):
                    self._scores[name].update(round(min(max(value * 1000, -_MOST), _MOST)))
            PROGRESS.add(samples=1, rejected=row.status == records.REJECTED, failed=row.status == records.FAILED)
            yield row
