"""What a search is said to cost and to miss beforehand, against what it costs and misses."""

import numpy as np
import pytest

from beam_curate.duplicates import forecast, made_up_pairs, settling
from beam_curate.duplicates.candidates import Candidates, normalised
from beam_curate.duplicates.cells import Cells, NearPairs
from beam_curate.duplicates.made_up_pairs import MadeUpPairs
from beam_curate.duplicates.method import Estimate
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.duplicates.search import DuplicateSearch, told
from beam_curate.runs.table_parts import TablePlace
from beam_curate.selection.rejudging import Selection
from beam_curate.transforms.find_duplicates import learn
from tests.support.made_duplicates import embeddings, meet, vector_table


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crowded", [False, True])
def test_a_forecast_is_within_a_fourth_of_what_comes(seed, crowded, monkeypatch):
    monkeypatch.setattr(settling, "HOME_ROWS", 3000)
    rows = 12_000
    vectors, ids, ranks = embeddings(rows, 48, 400, 0.03, seed)
    if crowded:
        vectors[: rows // 4] = vectors[0]
    method = Semantic(0.03, n_clusters=40)
    drawn = np.sort(np.random.default_rng(seed).choice(rows, rows // 3, replace=False))
    plan = method.plan(rows, vector_table(vectors[drawn]))
    spread = method.spread(Candidates(ids, ranks, vector_table(vectors)), plan.spreading)
    compared = sum(
        method.compare(bucket, [spread.rows[spread.buckets == bucket]], plan.comparing).comparisons
        for bucket in range(plan.buckets)
    )
    assert plan.estimate.comparisons == pytest.approx(compared, rel=0.25)
    assert plan.estimate.visits == pytest.approx(len(spread.rows) / rows, rel=0.05)
    assert plan.estimate.shuffled == pytest.approx(spread.rows.nbytes, rel=0.05)


def with_twins(rows, eps):
    """Embeddings of one topic, and to each one that differs from it in the direction of another."""
    rng = np.random.default_rng(1)
    wide = rng.standard_normal((rows, 48)) * np.arange(1, 49) ** -0.5
    wide[:, 0] += 1
    wide = normalised(wide.astype(np.float32))
    third = wide[rng.permutation(rows)]
    across = third - (wide * third).sum(axis=1, keepdims=True) * wide
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
    near = rng.uniform(1 - eps + 1e-3, 1, (rows, 1))
    return np.concatenate([wide, near * wide + np.sqrt(1 - near**2) * across]).astype(np.float16)


def of_kinds(rows, kinds=40, dim=64, wide=16):
    """Embeddings of kinds that vary each in directions of its own, (rows, dim), others to turn them towards, and their kinds."""
    rng = np.random.default_rng(4)
    kind = rng.integers(0, kinds, rows)
    middles = rng.standard_normal((kinds, dim)) / 4
    axes = [np.linalg.qr(rng.standard_normal((dim, wide)))[0] for _ in range(kinds)]
    found, others = np.zeros((2, rows, dim), np.float32)
    for number in range(kinds):
        mine = np.flatnonzero(kind == number)
        found[mine] = normalised(
            (middles[number] + rng.standard_normal((len(mine), wide)) @ axes[number].T / 4).astype(np.float16)
        )
        others[mine] = found[rng.permutation(mine)]
    return found, others, kind, axes


def turned(vectors, others, eps):
    """A near one to each vector, that differs from it in the direction of the other one."""
    across = others - (vectors * others).sum(axis=1, keepdims=True) * vectors
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
    near = np.random.default_rng(5).uniform(1 - eps, 1, (len(vectors), 1)).astype(np.float32)
    return near * vectors + np.sqrt(1 - near**2) * across


def test_hardly_a_pair_is_missed_where_rows_of_a_kind_vary_in_directions_of_their_own():
    """Pairs that differ as rows of one kind do differ more there than such as differ as all rows do."""
    vectors, others, _, _ = of_kinds(15_000)
    near = turned(vectors, others, 0.02)
    rows = np.random.default_rng(6).permutation(np.concatenate([vectors, near]))
    plan = Semantic(0.02).plan(len(rows), vector_table(rows.astype(np.float16)))
    how = plan.spreading
    axes = how.directions[:, : how.cells.directions]
    assert meet(how.cells, vectors @ axes, near @ axes, how.width).mean() > 0.999
    assert how.width < 0.4 * Semantic(0.02).settling.distance  # and not by comparing all with all


def test_pairs_of_a_kind_differ_as_their_kind_does():
    vectors, _, kind, axes = of_kinds(4000)
    cells = Cells.train(vectors, 30, 2, np.ones(64, np.float32))
    inside = []
    for pairs in map(next, MadeUpPairs(vectors.astype(np.float16), vectors, 0.02).of_kinds(cells)):
        assert len(pairs.homes) > 60_000
        similarity = (pairs.points * pairs.others).sum(axis=1) / np.linalg.norm(pairs.others, axis=1)
        assert similarity.min() > 0.98 - 1e-3
        number = {vector.tobytes(): place for place, vector in enumerate(vectors)}
        whose = kind[[number[point.tobytes()] for point in pairs.points[:2000]]]
        apart = (pairs.others - pairs.points)[1:2000]  # the two of the first pair are equal
        part = [
            np.linalg.norm(one @ axes[mine]) / np.linalg.norm(one) for one, mine in zip(apart, whose[1:], strict=True)
        ]
        inside.append(np.median(part))
    assert inside[0] < 0.8
    assert inside[-1] > 0.95


@pytest.mark.parametrize(("rows", "pairs"), [(3, 1 << 16), (5000, 80_000), (20_000, 1 << 18)])
def test_a_larger_sample_makes_more_pairs(rows, pairs):
    vectors = normalised(np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float16))
    cells = Cells.train(vectors[:3], 1, 1, np.ones(8, np.float32))
    made_up = MadeUpPairs(vectors.astype(np.float16), vectors, 0.05)
    found = [NearPairs(*map(np.concatenate, zip(*kind, strict=True))) for kind in made_up.of_kinds(cells)]
    few = [sum(len(some.homes) for some in kind) for kind in made_up.of_kinds(cells, 1000)]
    assert len(found) == len(few) == 3
    for kind, count in zip(found, few, strict=True):
        assert 0.6 * pairs < len(kind.homes) <= pairs  # a third one that is the first itself makes none
        assert 900 < count <= 1000
        similarity = (kind.points * kind.others).sum(axis=1)
        assert similarity.min() == pytest.approx(0.95, abs=1e-3)
        assert similarity.mean() == pytest.approx(0.975, abs=1e-3)


def test_rows_that_are_all_equal_make_no_pair():
    vectors = np.ones((100, 8), np.float32) / np.float32(8**0.5)
    cells = Cells.train(vectors, 1, 1, np.ones(8, np.float32))
    pairs = MadeUpPairs(vectors.astype(np.float16), vectors, 0.05)
    assert [[len(some.homes) for some in kind] for kind in pairs.of_kinds(cells)] == [[0]] * 3


def missed_and_told(border, sample, first, others, eps):
    """The part of the pairs, whose second one is the worse, that a search misses, and that which its plan tells."""
    vectors = np.concatenate([first, others])
    ids = np.arange(len(vectors), dtype=np.uint64)
    method = Semantic(eps, n_clusters=60, border=border)
    plan = method.plan(len(vectors), vector_table(sample))
    spread = method.spread(Candidates(ids, ids[::-1].copy(), vector_table(vectors)), plan.spreading)
    found = [method.compare(one, [spread.rows[spread.buckets == one]], plan.comparing) for one in range(plan.buckets)]
    edges = np.concatenate([one.edges for one in found])
    return 1 - np.isin(ids[len(first) :], edges["row"]).mean(), plan.estimate.missed


BORDERS = [(0.0, 0.01, 0.3), (0.1, 0.001, 0.05), (None, 0, 1e-3), (0.5, 0, 0)]


@pytest.mark.parametrize(("border", "least", "most"), BORDERS)
def test_what_a_search_misses_of_pairs_that_differ_as_all_rows_do(border, least, most, monkeypatch):
    monkeypatch.setattr(settling, "FEW", 0)
    monkeypatch.setattr(made_up_pairs, "KINDS", (None,))
    eps, rows = 0.02, 4000
    vectors = with_twins(2 * rows, eps)
    missed, estimated = missed_and_told(border, vectors[:rows], vectors[rows : 2 * rows], vectors[3 * rows :], eps)
    assert least <= missed <= most
    assert estimated == pytest.approx(missed, rel=0.2, abs=1e-3)


@pytest.mark.parametrize(("border", "least", "most"), BORDERS)
def test_what_a_search_misses_is_told(border, least, most, monkeypatch):
    """Of three ways to differ the one is told of which most are missed; here pairs differ as rows of their kind do."""
    monkeypatch.setattr(settling, "FEW", 0)
    eps, rows = 0.02, 4000
    vectors, others, _, _ = of_kinds(2 * rows, kinds=8)
    near = turned(vectors, others, eps - 1e-3).astype(np.float16)
    vectors = vectors.astype(np.float16)
    missed, estimated = missed_and_told(border, vectors[:rows], vectors[rows:], near[rows:], eps)
    assert least <= missed <= most
    assert 0.8 * missed - 1e-3 <= estimated <= 1.5 * missed + 1e-3


def test_a_border_that_misses_more_than_one_in_a_thousand_is_warned_of(caplog, monkeypatch):
    monkeypatch.setattr(settling, "FEW", 0)
    vectors = vector_table(with_twins(6000, 0.05))
    ids = np.arange(12_000, dtype=np.uint64)
    for border, warned in ((0.1, True), (None, False)):
        caplog.clear()
        method = Semantic(0.05, n_clusters=60, border=border)
        learn(DuplicateSearch(Selection(TablePlace("made-up"), None), [method]), [(ids, vectors)], 12_000)
        assert ("a larger --border misses fewer" in caplog.text) is warned


def test_the_border_is_as_narrow_as_the_sample_allows_and_narrower_with_more_rows():
    """Ten times the rows have ten times the cells, and nearer pairs lie in one."""
    vectors = vector_table(with_twins(16_000, 0.01))
    plans = [Semantic(0.01).plan(rows, vectors) for rows in (settling.FEW, settling.FEW + 1, 10**5, 10**6)]
    widths = [plan.spreading.width / Semantic(0.01).settling.distance for plan in plans]
    assert widths[0] == pytest.approx(0.5)
    assert 0.5 > widths[1] > 0
    missed = [plan.estimate.missed for plan in plans]
    assert missed[0] == 0
    exact = Semantic(0.01, border=0.5).plan(10**6, vectors).estimate.comparisons
    for plan, part in zip(plans[1:], missed[1:], strict=True):
        assert 0 < part <= settling.MISSED
        assert plan.estimate.comparisons < exact


@pytest.mark.parametrize(
    ("alike", "one_in", "met", "compared"),
    [
        (0, 1, 1000, (64, 64)),
        (32, 1, 1000, (64, 64)),
        (64, 1, 1000, (96, 96)),
        (96, 1, 1000, (96, 192)),
        (160, 1, 1000, (96, 192)),
        (192, 1, 1000, (64, 64)),
        (160, 10, 1000, (64, 192)),
        (160, 10, 10, (64, 64)),
    ],
)
def test_pairs_are_compared_in_as_many_directions_as_tell_them_apart(alike, one_in, met, compared):
    """Rows, or some of them, that are the same in some directions and far apart in the others, if there are others.

    Where a row meets few others, to project it takes longer than to compare these in all dimensions.
    """
    points = 0.1 * np.random.default_rng(0).standard_normal((600, 192)).astype(np.float32)
    points[::one_in, :alike] = 0
    row = np.arange(600)
    visits = np.concatenate([row, row]), np.concatenate([row % 9, (row + 1) % 9]), row.repeat(2) < 0
    visits[2][:600] = True
    assert forecast.compared(visits, points, 64, 768, met, 0.05) == compared


def test_rows_that_meet_nobody_are_compared_in_the_fewest_directions():
    row = np.arange(40)
    visits = row, row, row >= 0
    assert forecast.compared(visits, np.zeros((40, 192), np.float32), 64, 768, 0, 0.05) == (64, 64)
    none = np.zeros(0, np.int64)
    assert forecast.compared((none, none, none > 0), np.zeros((0, 24), np.float32), 24, 24, 0, 0.05) == (24, 24)


@pytest.mark.parametrize(("part", "left_out"), [(0.0005, 23), (0.001, 51), (0.0, 0), (1e-6, 0)])
def test_of_made_up_pairs_fewer_are_left_out_than_the_part_by_two_standard_deviations(part, left_out):
    needed = np.random.default_rng(0).permutation(np.arange(1 << 16)).astype(np.float32)
    width = forecast.narrowest(needed, part)
    assert np.count_nonzero(needed > width) == left_out
    assert left_out + 2 * left_out**0.5 <= part * len(needed)


@pytest.mark.parametrize(
    ("comparisons", "time"),
    [(4e7, "1 second"), (2e11, "2,000 seconds"), (3.6e12, "10.0 hours"), (1e14, "277.8 hours")],
)
def test_the_time_of_a_search_is_told_at_ten_nanoseconds_a_comparison(comparisons, time):
    assert f"({time} of one core)" in told(Semantic(0.01), 10**6, Estimate(1.4, comparisons, 2e9))


@pytest.mark.parametrize(("missed", "words"), [(0.0009, "less than one in a thousand"), (0.12, "up to 12.0%")])
def test_the_part_that_is_missed_is_told(missed, words):
    assert f"misses {words} of the near pairs" in told(Semantic(0.01), 10**6, Estimate(1.4, 1e9, 2e9, missed))


def test_directions_are_those_of_all_rows_where_a_dataset_is_sorted_by_its_source(monkeypatch):
    """Each of four sources varies in 16 directions of its own. Those are found from a part of the sample."""
    monkeypatch.setattr(settling, "SAMPLE", 500)
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((256, 256)))[0][:64].reshape(4, 16, 256)
    sources = [
        (rng.standard_normal((1000, 16)) @ one + 0.01 * rng.standard_normal(256)).astype(np.float16) for one in basis
    ]
    drawn = [
        ((np.uint64(part) << np.uint64(32)) + np.arange(1000, dtype=np.uint64), vector_table(vectors))
        for part, vectors in enumerate(sources)
    ]
    found = [
        learn(DuplicateSearch(Selection(TablePlace("made-up"), None), [Semantic(0.05, n_clusters=250)]), some, 20_000)
        for some in (drawn, drawn[::-1])
    ]
    directions = [one.plans[0].spreading.directions for one in found]
    assert np.array_equal(*directions)
    for vectors in sources:
        kept = (normalised(vectors) @ directions[0][:, :64]) ** 2
        assert kept.sum(axis=1).mean() > 0.95
