"""ScoreAndFilter: EmbeddedSample in, ScoredSample out, one to one and in order."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_curate import reasons, records
from beam_curate.expressions import TEXT
from beam_curate.heads import Head
from beam_curate.progress import PROGRESS
from beam_curate.records import EmbeddedSample, ImageFacts, ScoredSample
from beam_curate.rules import FACT_KINDS, Condition, check_columns, judge, standard_rules

_BATCH = 64


@dataclass(eq=False)
class ScoreAndFilter(beam.PTransform):
    """Gives every sample its scores and its verdict.

    In: PCollection[EmbeddedSample]. Out: PCollection[ScoredSample]: `kept`, `rejected` with the first rule that failed (all
    scores are there), or `failed` as it came. Scores are computed from the float16 embedding that the score table
    stores, so that scoring the table again gives the same numbers. `SplitByStatus` gives a door for each verdict.

    Attributes:
        heads: The scoring heads; none leaves the scores out.
        min_aesthetic: Keep if aesthetic >= this; None turns the rule off.
        max_nsfw: Keep if nsfw < this; None turns the rule off.
        min_side: Keep if the shorter side in pixels >= this; None turns the rule off.
        rules: More rules, tried after these: `Rule`, or `KeepRule` with an expression.

    Raises:
        ValueError: At construction, if a rule needs a score that no head gives.
    """

    heads: Sequence[Head] = ()
    min_aesthetic: float | None = None
    max_nsfw: float | None = None
    min_side: int | None = None
    rules: Sequence[Condition] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        super().__init__()
        self._rules = (*standard_rules(self.min_aesthetic, self.max_nsfw, self.min_side), *self.rules)
        check_columns(self._rules, self.score_names)

    @property
    def score_names(self) -> tuple[str, ...]:
        """The names of the scores, in the order of the heads."""
        return tuple(head.name for head in self.heads)

    def expand(self, samples: beam.PCollection[EmbeddedSample]) -> beam.PCollection[ScoredSample]:
        """Batches and scores."""
        return (
            samples
            | beam.BatchElements(min_batch_size=_BATCH, max_batch_size=_BATCH)
            | beam.ParDo(_Score(tuple(self.heads), self._rules)).with_output_types(ScoredSample)
        )


def score_samples(
    samples: Sequence[EmbeddedSample], heads: Sequence[Head], rules: Sequence[Condition]
) -> Iterator[ScoredSample]:
    """Scores and judges a batch; a failed sample keeps its failure and has NaN for every score."""
    good = [sample for sample in samples if sample.failure is None]
    scores: dict[str, np.ndarray] = {}
    if good:
        embeddings = np.stack([np.frombuffer(sample.embedding, "<f2") for sample in good]).astype(np.float32)
        scores = {head.name: head.score(embeddings) for head in heads}
    columns = {name: _column(name, good, scores) for rule in rules for name in rule.columns}
    verdicts = zip(judge(rules, columns, len(good)), _rows(scores, len(good)), strict=True)
    for sample in samples:
        if sample.failure is not None:
            failure = sample.failure
            missing = {head.name: math.nan for head in heads}
            yield ScoredSample(
                sample.ref, sample.facts, b"", missing, records.FAILED, failure.step, failure.reason, failure.message
            )
            continue
        (reason, message), values = next(verdicts)
        status, step = (records.REJECTED, reasons.FILTER) if reason else (records.KEPT, "")
        yield ScoredSample(sample.ref, _facts(sample), sample.embedding, values, status, step, reason, message)


def _rows(scores: Mapping[str, np.ndarray], rows: int) -> Iterator[dict[str, float]]:
    for row in range(rows):
        yield {name: float(values[row]) for name, values in scores.items()}


def _column(name: str, samples: Sequence[EmbeddedSample], scores: Mapping[str, np.ndarray]) -> pa.Array:
    """A column of good samples for the rules: the values that it will have in the score table."""
    if name in scores:
        return pa.array(scores[name])
    kind = pa.string() if FACT_KINDS[name] == TEXT else pa.int64()
    if name in ("caption", "key", "url", "shard"):
        return pa.array([getattr(sample.ref, name) for sample in samples], kind)
    if name == "side":
        return pa.array([min(facts.width, facts.height) for facts in map(_facts, samples)], kind)
    return pa.array([getattr(_facts(sample), name) for sample in samples], kind)


def _facts(sample: EmbeddedSample) -> ImageFacts:
    if sample.facts is None:
        raise RuntimeError(f"sample {sample.ref.key!r} of {sample.ref.shard} came without failure and without facts")
    return sample.facts


class _Score(beam.DoFn):
    def __init__(self, heads: tuple[Head, ...], rules: tuple[Condition, ...]) -> None:
        self._heads = heads
        self._rules = rules
        self._counters = {status: Metrics.counter("beam_curate.score", status) for status in records.STATUSES}
        # A distribution holds integers: thousandths of the score.
        self._scores = {
            head.name: Metrics.distribution("beam_curate.score", f"{head.name}_thousandths") for head in heads
        }

    def process(self, batch: list[EmbeddedSample]) -> Iterator[ScoredSample]:
        for row in score_samples(batch, self._heads, self._rules):
            self._counters[row.status].inc()
            if row.reason:
                Metrics.counter("beam_curate.reasons", row.reason).inc()
            if row.status != records.FAILED:
                for name, value in row.scores.items():
                    self._scores[name].update(round(value * 1000))
            PROGRESS.add(samples=1, failed=row.status == records.FAILED)
            yield row
