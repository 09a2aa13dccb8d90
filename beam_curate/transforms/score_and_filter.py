"""ScoreAndFilter: EmbeddedSample in, ScoredSample out, one to one and in order."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics

from beam_curate import reasons, records
from beam_curate.heads import Head
from beam_curate.progress import PROGRESS
from beam_curate.records import EmbeddedSample, ScoredSample
from beam_curate.rules import Rule, check_columns, first_failure, standard_rules

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
        rules: More rules, tried after these.

    Raises:
        ValueError: At construction, if a rule needs a score that no head gives.
    """

    heads: Sequence[Head] = ()
    min_aesthetic: float | None = None
    max_nsfw: float | None = None
    min_side: int | None = None
    rules: Sequence[Rule] = field(default_factory=tuple)

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
    samples: Sequence[EmbeddedSample], heads: Sequence[Head], rules: Sequence[Rule]
) -> Iterator[ScoredSample]:
    """Scores and judges a batch; a failed sample keeps its failure and has NaN for every score."""
    good = [sample for sample in samples if sample.failure is None]
    columns: list[np.ndarray] = []
    if good:
        embeddings = np.stack([np.frombuffer(sample.embedding, "<f2") for sample in good]).astype(np.float32)
        columns = [head.score(embeddings) for head in heads]
    scored = iter(zip(*columns, strict=True)) if columns else iter([()] * len(good))
    for sample in samples:
        if sample.failure is not None:
            failure = sample.failure
            missing = {head.name: math.nan for head in heads}
            yield ScoredSample(
                sample.ref, sample.facts, b"", missing, records.FAILED, failure.step, failure.reason, failure.message
            )
            continue
        if sample.facts is None:
            raise RuntimeError(
                f"sample {sample.ref.key!r} of {sample.ref.shard} came without failure and without facts"
            )
        scores = {head.name: float(value) for head, value in zip(heads, next(scored), strict=True)}
        reason, message = first_failure(rules, scores, sample.facts)
        status, step = (records.REJECTED, reasons.FILTER) if reason else (records.KEPT, "")
        yield ScoredSample(sample.ref, sample.facts, sample.embedding, scores, status, step, reason, message)


class _Score(beam.DoFn):
    def __init__(self, heads: tuple[Head, ...], rules: tuple[Rule, ...]) -> None:
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
