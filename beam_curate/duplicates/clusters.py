"""Clusters of points, so that near ones meet without comparing all with all, and misses none.

A point's home is the cluster of the nearest centroid. Two near points may have different homes, on either side of a border, so a
point also visits the clusters whose border with its home is near.

The distance from a point x with the home a to its border with the cluster b is (|x - b|^2 - |x - a|^2) / (2 |a - b|). Of two
points at most d apart with the homes a and b, the distances to that border sum to at most d, so one of them is at most d / 2 from
it: whoever visits all clusters whose border is within d / 2 misses no pair, whatever the data and the centroids. Single
assignment, as in SemDeDup, is a width of 0.

Embeddings are clustered in a projection on the directions in which a sample varies most. A projection makes no distance longer,
so what is said above holds for it, at a twentieth of the cost.

Directions may be stretched before, to S x, so that borders lie otherwise. What is near stays what it was: a border is a plane,
and what counts is how far the point as it is lies from the plane as it is. That is the distance of the stretched ones, divided by
|S n|, where n is the stretched plane's normal of length 1.

Source: Abbas et al., SemDeDup, 2023 (arXiv 2303.09540), for the clusters; the borders are this project's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from beam_curate.duplicates.candidates import Flags, Floats, Places

SEED: Final = 20230316
DIRECTIONS: Final = 32
"""Of cells. With 24 or 40 rows are compared with more others, by `benchmarks/dedup.py --simulate`: in many directions near pairs
cross more borders, and in few ones a border parts less."""
_SAMPLE: Final = 64  # points a centroid; faiss warns below 39
_ITERATIONS: Final = 8
_BLOCK: Final = 4096
_SCORES: Final = 1 << 20
"""Scores at once, 4 MB: they are gone through several times, in the processor's cache."""
_FEWEST: Final = 64  # points at once
_PAIRS: Final = 1 << 14  # of centroids at once
_NOWHERE: Final = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_))
_ROUNDING: Final = 1e-5
"""What float32 may lose in a product of two projected vectors of a length up to 1: 64 roundings of 2^-24, and as much again."""


def directions(vectors: Floats, count: int) -> Floats:
    """The directions in which vectors vary most, most first, as an orthonormal basis (D, count); (D, D) where D is less.

    Args:
        vectors: (N, D); at most some ten thousand are worth while.
        count: How many.
    """
    dim = vectors.shape[1]
    if len(vectors) < 2:
        return np.eye(dim, min(dim, count), dtype=np.float32)
    centred = vectors - vectors.mean(axis=0, keepdims=True)
    _, basis = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    return np.ascontiguousarray(basis[:, ::-1][:, :count], np.float32)


def near_first(points: Floats, distance: float, count: int) -> Flags:
    """Says which of (N, M) points have one of the first `count` before them that is near: the most of each crowd."""
    first = points[:count]
    squared = (first**2).sum(axis=1) / 2
    found = np.zeros(len(points), np.bool_)
    for start in range(0, len(points), _BLOCK):
        some = points[start : start + _BLOCK]
        half = (some**2).sum(axis=1)[:, None] / 2 + squared[None, :] - some @ first.T
        before = np.arange(len(first))[None, :] < np.arange(start, start + len(some))[:, None]
        found[start : start + _BLOCK] = ((half <= distance**2 / 2 + _ROUNDING) & before).any(axis=1)
    return found


@dataclass(frozen=True)
class Clusters:
    """Clusters of points, some directions of which are stretched.

    Attributes:
        centroids: (K, M) float32, stretched.
        stretch: (M,) by how much each direction is stretched, at least 1.
    """

    centroids: Floats
    stretch: Floats

    def __len__(self) -> int:
        return len(self.centroids)

    @staticmethod
    def train(points: Floats, count: int) -> "Clusters":
        """Finds centroids by k-means.

        Args:
            points: (N, M), of which at most some per centroid are looked at.
            count: How many are wanted; there are fewer where there are fewer points.
        """
        count = min(count, len(points))
        even = np.ones(points.shape[1], np.float32)
        if count < 2:
            return Clusters(
                points.mean(axis=0, keepdims=True) if len(points) else np.zeros((1, len(even)), np.float32), even
            )
        import faiss

        kmeans: Any = faiss.Kmeans(
            points.shape[1],
            count,
            niter=_ITERATIONS,
            seed=SEED,
            min_points_per_centroid=1,
            max_points_per_centroid=_SAMPLE,
        )
        kmeans.train(np.ascontiguousarray(points, np.float32))
        return Clusters(np.ascontiguousarray(kmeans.centroids, np.float32), even)

    def homes(self, points: Floats) -> Places:
        """The home of each of (N, M) points."""
        found = [np.zeros(0, np.int64)]
        for _, score, _ in self._scores(points, np.arange(len(self))):
            found.append(score.argmax(axis=1))
        return np.concatenate(found)

    def visits(self, points: Floats, width: float) -> tuple[Places, Places, Flags]:
        """Which points go to which clusters.

        Args:
            points: (N, M)
            width: The distance of a border up to which a cluster is visited.

        Returns:
            (V,) places of points, ascending, (V,) clusters, (V,) whether it is the home; every point has one home.
        """
        found, among, reach = [_NOWHERE], np.arange(len(self)), self._reach(width)
        for start, score, some in self._scores(points, among):
            home = score.argmax(axis=1)
            row, cluster = self._near(some, home, score, among, width, reach)
            found.append((row + start, cluster, cluster == home[row]))
        rows, clusters, homes = (np.concatenate(column) for column in zip(*found, strict=True))
        return rows, clusters, homes

    def apart(self, points: Floats, homes: Places, others: Places) -> Floats:
        """How far (N, M) points are from the border of their (N,) home with (N,) other clusters: (N,); 0 where both are one."""
        own, other = self.centroids[homes], self.centroids[others]
        stretched = points * self.stretch
        gap = (((stretched - other) ** 2).sum(axis=1) - ((stretched - own) ** 2).sum(axis=1)) / 2
        between = np.linalg.norm((own - other) * self.stretch, axis=1)
        found: Floats = np.maximum(gap, 0) / np.maximum(between, 1e-12)
        return found

    def visited(self, points: Floats, homes: Places, among: Places, width: float) -> tuple[Places, Places]:
        """Which of some clusters points go to.

        Args:
            points: (N, M)
            homes: (N,) clusters.
            among: (C,) clusters.
            width: See `visits`.

        Returns:
            (V,) places of points, ascending, and (V,) clusters.
        """
        found, reach = [_NOWHERE[:2]], self._reach(width)
        for start, score, some in self._scores(points, among):
            row, cluster = self._near(some, homes[start : start + len(some)], score, among, width, reach)
            found.append((row + start, cluster))
        rows, clusters = (np.concatenate(column) for column in zip(*found, strict=True))
        return rows, clusters

    def _near(
        self, points: Floats, homes: Places, scores: Floats, among: Places, width: float, reach: Floats
    ) -> tuple[Places, Places]:
        """The homes of stretched points, and the clusters whose border with them is near, by their scores."""
        if not width:
            row, place = np.divmod(np.flatnonzero(among[None, :] == homes[:, None]), len(among))
            return row, among[place]
        centroids = self.centroids[homes]
        own = (points * centroids).sum(axis=1) - (centroids**2).sum(axis=1) / 2
        rounding = _ROUNDING * float(self.stretch.max()) ** 2
        # Two centroids are no farther apart than both are from the middle of all. That leaves few to be looked at.
        looked_at = scores + reach[among] >= (own - reach[homes] - 2 * rounding)[:, None]
        row, place = np.divmod(np.flatnonzero(looked_at), scores.shape[1])
        cluster = among[place]
        apart = np.zeros(len(row), np.float32)
        for start in range(0, len(row), _PAIRS):
            some = slice(start, start + _PAIRS)
            between = (centroids[row[some]] - self.centroids[cluster[some]]) * self.stretch
            apart[some] = np.sqrt(np.einsum("ij,ij->i", between, between))
        near = own[row] - scores[row, place] <= width * apart + rounding
        near |= cluster == homes[row]
        return row[near], cluster[near]

    def _reach(self, width: float) -> Floats:
        """(K,) distances of the centroids from their mean, in the measure of borders, times their width."""
        centred = (self.centroids - self.centroids.mean(axis=0)) * self.stretch
        found: Floats = width * np.sqrt(np.einsum("ij,ij->i", centred, centred))
        return found

    def _scores(self, points: Floats, among: Places) -> Iterator[tuple[int, Floats, Floats]]:
        """By blocks of points, which begin at a place: (B, C) scores of clusters; and the block, stretched.

        More is nearer; half the difference of two squared distances is the difference of two scores.
        """
        centroids = self.centroids[among]
        with_half = np.concatenate([centroids, -(centroids**2).sum(axis=1, keepdims=True) / 2], axis=1).T
        block = max(_FEWEST, min(_BLOCK, _SCORES // max(len(among), 1)))
        for start in range(0, len(points), block):
            some = points[start : start + block] * self.stretch
            yield start, np.concatenate([some, np.ones((len(some), 1), np.float32)], axis=1) @ with_half, some
