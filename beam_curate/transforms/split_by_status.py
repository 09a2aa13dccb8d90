"""SplitByStatus: a door for each verdict."""

from typing import NamedTuple

import apache_beam as beam

from beam_curate.records import STATUSES, ScoredSample


class Verdicts(NamedTuple):
    """The kept, the rejected and the failed samples; each sample is in exactly one of them."""

    kept: beam.PCollection[ScoredSample]
    rejected: beam.PCollection[ScoredSample]
    failed: beam.PCollection[ScoredSample]


class SplitByStatus(beam.PTransform):
    """Splits the rows of ScoreAndFilter by their verdict, for pipelines that go on with one of them.

    In: PCollection[ScoredSample]. Out: `Verdicts`, a PCollection[ScoredSample] for each status.
    """

    def expand(self, rows: beam.PCollection[ScoredSample]) -> "Verdicts":
        """Partitions the rows."""
        return Verdicts(*(rows | beam.Partition(lambda row, _: STATUSES.index(row.status), len(STATUSES))))
