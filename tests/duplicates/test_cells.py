"""Cells: which near points meet, however directions are stretched and wherever centroids are."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from beam_curate.duplicates.cells import Cells, NearPairs
from beam_curate.duplicates.clusters import Clusters
from tests.support.made_duplicates import meet

DIM, COUNT, DISTANCE = 24, 200, 0.3


def across_borders(clusters, seed):
    """Pairs as far apart as may be, square to the border of two clusters and halved by it: the hardest to bring together."""
    rng = np.random.default_rng(seed)
    plain = clusters.centroids / clusters.stretch
    points = plain[rng.integers(0, COUNT, 3000)] + rng.normal(0, 0.1, (3000, DIM)).astype(np.float32)
    squared = ((points[:, None] * clusters.stretch - clusters.centroids[None]) ** 2).sum(axis=2)
    first, second = np.argsort(squared, axis=1)[:, :2].T
    normal = clusters.stretch * (clusters.centroids[second] - clusters.centroids[first])
    gap = (np.take_along_axis(squared, second[:, None], 1) - np.take_along_axis(squared, first[:, None], 1)) / 2
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    middle = points + normal / length * (gap / length)
    step = normal / length * (DISTANCE / 2 * rng.uniform(0.5, 0.999, (len(points), 1)))
    return (middle - step).astype(np.float32), (middle + step).astype(np.float32)


@pytest.mark.parametrize("most", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("seed", range(3))
def test_within_half_the_distance_no_pair_is_missed_however_directions_are_stretched(most, seed):
    rng = np.random.default_rng(seed)
    stretch = rng.uniform(1, most, DIM).astype(np.float32)
    centroids = (rng.normal(0, 0.15, (COUNT, DIM)) * stretch).astype(np.float32)
    cells = Cells(Clusters(centroids, stretch), np.zeros(COUNT, np.int64))
    pairs = across_borders(cells.clusters, seed)
    apart = cells.clusters.homes(pairs[0]) != cells.clusters.homes(pairs[1])
    assert apart.mean() > 0.5
    needed = cells.needed(NearPairs(pairs[0], cells.homes(pairs[0]), pairs[1], cells.homes(pairs[1])))
    assert needed.max() <= DISTANCE / 2 + 1e-5
    for width in (DISTANCE / 2, DISTANCE / 5, 0):
        met = meet(cells, *pairs, width)
        assert met[needed <= width].all()
        assert not met[needed > width + 1e-3].any()
    assert meet(cells, *pairs, DISTANCE / 2).all()
    assert not meet(cells, *pairs, DISTANCE / 5).all()


@pytest.fixture(scope="module")
def settled():
    """Cells whose rows look at few groups, as a sample settled them, and other rows of the same kind."""
    rng = np.random.default_rng(5)
    topics = rng.normal(0, 1, (150, DIM))
    points = (topics[rng.integers(0, 150, 40_000)] + rng.normal(0, 0.3, (40_000, DIM))).astype(np.float32)
    cells = Cells.train(points[:20_000], 1200, 40, np.linspace(1, 3, DIM).astype(np.float32))
    step = rng.normal(0, 1, (20_000, DIM)).astype(np.float32)
    others = points[:20_000] + 0.4 * step / np.linalg.norm(step, axis=1, keepdims=True)
    pairs = NearPairs(points[:20_000], cells.homes(points[:20_000]), others, cells.homes(others))
    return cells, cells.looking_for(pairs, 0.1), pairs, points[20_000:]


def by_the_plain_pass(cells, points, width):
    """Homes and visits by float64, and by comparing with every cell."""
    stretch, centroids = cells.clusters.stretch.astype(np.float64), cells.clusters.centroids.astype(np.float64)
    scores = (points * stretch) @ centroids.T - (centroids**2).sum(axis=1) / 2
    homes = scores.argmax(axis=1)
    gap = scores.max(axis=1)[:, None] - scores
    normals = np.linalg.norm((centroids[:, None] - centroids[None]) * stretch, axis=2)
    return homes, gap - width * normals[homes]


@pytest.mark.parametrize("width", [0.0, 0.03, 0.1])
def test_looking_at_all_groups_is_the_plain_pass_over_all_cells(settled, width):
    cells, _, _, points = settled
    homes, beyond = by_the_plain_pass(cells, points[:3000], width)
    row, cell, home = cells.visits(points[:3000], width)
    assert np.array_equal(np.sort(row[home]), np.arange(3000))
    assert np.array_equal(cells.homes(points[:3000]), homes)
    visited = np.zeros(beyond.shape, np.bool_)
    visited[row, cell] = True
    slack = 1e-3
    assert visited[np.arange(3000), homes].all()
    visited[np.arange(3000), homes] = False
    beyond[np.arange(3000), homes] = np.inf
    assert not (visited & (beyond > slack)).any()
    assert width == 0 or visited[beyond < -1e-6].all()


def test_the_pairs_that_settle_the_reach_still_meet_and_others_nearly_all(settled):
    cells, near, pairs, points = settled
    looks = near._looks(near.clusters.asking(points), near.reach)
    looked = (
        sum(len(place) * (near.groups == group).sum() for group, place in enumerate(looks)) / len(points) / len(cells)
    )
    assert looked < 0.5
    assert np.array_equal(near.homes(pairs.points), pairs.homes)
    assert np.array_equal(near.homes(pairs.others), pairs.theirs)
    met = [meet(one, pairs.points, pairs.others, 0.1) for one in (cells, near)]
    assert 0.1 < met[0].mean() < 1
    assert np.array_equal(*met)
    assert (near.homes(points) != cells.homes(points)).mean() < 5e-4
    sets = [set(zip(*(one.tolist() for one in some.visits(points, 0.1)[:2]), strict=True)) for some in (cells, near)]
    assert len(sets[1] - sets[0]) < 1e-3 * len(sets[0])
    assert len(sets[0] - sets[1]) < 1e-3 * len(sets[0])


def test_a_pair_whose_cells_are_not_looked_at_counts_as_missed(settled):
    cells, near, pairs, _ = settled
    narrow = replace(cells, reach=near.reach / 16)
    homes = [narrow.homes(points) for points in (pairs.points, pairs.others)]
    needed = narrow.needed(NearPairs(pairs.points, homes[0], pairs.others, homes[1]))
    met = meet(narrow, pairs.points, pairs.others, 0.1)
    assert np.isinf(needed).any()
    assert met.sum() < meet(near, pairs.points, pairs.others, 0.1).sum()
    assert met[needed <= 0.1 - 1e-3].all()
    assert not met[needed > 0.1 + 1e-3].any()


def test_workers_are_sent_cells_and_not_what_is_computed_from_them(settled):
    before = [pickle.loads(pickle.dumps(near)) for near in settled[:2]]
    sizes = [len(pickle.dumps(near)) for near in before]
    for near in before:
        near.visits(settled[3], 0.1)
        next(near.meetings(0, settled[3], near.homes(settled[3]), 0.1))
    assert [len(pickle.dumps(near)) for near in before] == sizes
    again = pickle.loads(pickle.dumps(before[1]))
    for told, expected in zip(again.visits(settled[3], 0.1), settled[1].visits(settled[3], 0.1), strict=True):
        assert np.array_equal(told, expected)


def test_how_far_a_cell_is_from_a_point_is_never_told_as_too_near():
    rng = np.random.default_rng(8)
    stretch = rng.uniform(1, 8, 64).astype(np.float32)
    for scale in (1e-3, 1.0):
        centroids = (stretch * (1 + scale * rng.normal(0, 1, (300, 64)))).astype(np.float32)
        told = Clusters(centroids, stretch).reaches(np.arange(300), centroids[:40])
        wide = centroids.astype(np.float64) * stretch
        exact = np.linalg.norm(wide[:40, None] - wide[None], axis=2)
        assert (told >= exact).all()
        assert (told <= exact + 0.02 * np.linalg.norm(wide, axis=1).max()).all()


def test_a_group_is_not_much_larger_than_its_share_where_points_lie_close_to_each_other():
    """Nine tenths of the points lie in one dense cloud, of which k-means makes few groups."""
    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (12_000, DIM)).astype(np.float32)
    points[1_200:] *= 0.05
    cells = Cells.train(points, 240, 12, np.ones(DIM, np.float32))
    sizes = np.bincount(cells.groups)
    assert sizes.min() > 0
    assert sizes.max() <= 40
    assert np.bincount(Clusters.train(points, 12).homes(points)).max() > 10_000
    assert np.bincount(cells.groups[cells.homes(points)]).max() < 3_500


def test_cells_that_lie_in_one_place_are_not_cut_without_end():
    cells = Cells.train(np.ones((500, DIM), np.float32), 50, 2, np.ones(DIM, np.float32))
    assert len(cells) >= 50
    assert cells.homes(np.ones((3, DIM), np.float32)).tolist() == [cells.homes(np.ones((1, DIM), np.float32))[0]] * 3
