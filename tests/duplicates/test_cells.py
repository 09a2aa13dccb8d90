"""Cells: which near points meet, however directions are stretched and wherever centroids are."""

import numpy as np
import pytest

from beam_curate.duplicates.cells import Cells
from beam_curate.duplicates.clusters import Clusters

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
    needed = cells.needed(pairs[0], cells.clusters.homes(pairs[0]), pairs[1])
    assert needed.max() <= DISTANCE / 2 + 1e-5
    for width in (DISTANCE / 2, DISTANCE / 5, 0):
        met = meet(cells, *pairs, width)
        assert met[needed <= width].all()
        assert not met[needed > width + 1e-3].any()
    assert meet(cells, *pairs, DISTANCE / 2).all()
    assert not meet(cells, *pairs, DISTANCE / 5).all()


def meet(cells, points, others, width):
    """Which points meet the one of the others at their place, by their visits."""
    found = np.zeros(len(points), np.bool_)
    for one, other in ((points, others), (others, points)):
        row, cell, _ = cells.visits(one, width)
        found[row[cell == cells.clusters.homes(other)[row]]] = True
    return found
