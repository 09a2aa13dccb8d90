"""What a search is said to cost beforehand, against what it costs."""

import numpy as np
import pytest

from beam_curate.duplicates.candidates import Candidates
from beam_curate.duplicates.method import Estimate
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.duplicates.search import told
from tests.support.made_duplicates import embeddings, vector_table


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crowded", [False, True])
def test_a_forecast_is_within_a_fourth_of_what_comes(seed, crowded):
    rows = 12_000
    vectors, ids, ranks = embeddings(rows, 48, 400, 0.03, seed)
    if crowded:
        vectors[: rows // 4] = vectors[0]
    method = Semantic(0.03, n_clusters=3)
    drawn = np.sort(np.random.default_rng(seed).choice(rows, rows // 3, replace=False))
    plan = method.plan(rows, vector_table(vectors[drawn]))
    spread = method.spread(Candidates(ids, ranks, vector_table(vectors)), plan.spreading)
    compared = sum(
        method.compare(bucket, [spread.rows[spread.buckets == bucket]], plan.comparing).comparisons
        for bucket in range(3)
    )
    assert plan.estimate.comparisons == pytest.approx(compared, rel=0.25)
    assert plan.estimate.visits == pytest.approx(len(spread.rows) / rows, rel=0.05)
    assert plan.estimate.shuffled == pytest.approx(spread.rows.nbytes, rel=0.05)


@pytest.mark.parametrize(
    ("comparisons", "time"),
    [(4e7, "1 second"), (2e11, "2,000 seconds"), (3.6e12, "10.0 hours"), (1e14, "277.8 hours")],
)
def test_the_time_of_a_search_is_told_at_ten_nanoseconds_a_comparison(comparisons, time):
    assert f"({time} of a core)" in told(Semantic(0.01), 10**6, Estimate(1.4, comparisons, 2e9))
