"""What a search is said to cost beforehand, against what it costs."""

import numpy as np
import pytest

from beam_curate.duplicates.candidates import Candidates
from beam_curate.duplicates.methods.semantic import Semantic
from tests.support.made_duplicates import embeddings, search, vector_table


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crowded", [False, True])
def test_a_forecast_is_within_a_fourth_of_what_comes(seed, crowded):
    rows = 16_000
    vectors, ids, ranks = embeddings(rows, 48, 400, 0.03, seed)
    if crowded:
        vectors[: rows // 4] = vectors[0]
    method = Semantic(0.03, n_clusters=3)
    drawn = np.sort(np.random.default_rng(seed).choice(rows, rows // 4, replace=False))
    estimate = method.plan(rows, vector_table(vectors[drawn])).estimate
    _, compared = search(Drawn(method, vectors[drawn]), ids, ranks, vector_table(vectors))
    spread = Drawn(method, vectors[drawn]).spread_of(ids, ranks, vectors)
    assert estimate.comparisons == pytest.approx(compared, rel=0.25)
    assert estimate.visits == pytest.approx(len(spread.rows) / rows, rel=0.05)
    assert estimate.shuffled == pytest.approx(spread.rows.nbytes, rel=0.05)


class Drawn:
    """A method whose plan is made from some rows."""

    def __init__(self, method, vectors):
        self._method, self._table = method, vector_table(vectors)

    def plan(self, total, table):
        del table
        return self._method.plan(total, self._table)

    def spread_of(self, ids, ranks, vectors):
        plan = self.plan(len(ids), None)
        return self._method.spread(Candidates(ids, ranks, vector_table(vectors)), plan.spreading)

    def __getattr__(self, name):
        return getattr(self._method, name)
