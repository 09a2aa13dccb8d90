"""Clusters of points, so that near ones meet without comparing all with all, and misses none.

A point's home is the cluster of the nearest centroid. Two near points may have different homes, on either side of a border, so a
point also visits the clusters whose border with its home is near.

The distance from a point x with the home a to its border with the cluster b is (|x - b|^2 - |x - a|^2) / (2 |a - b|). Of two
points at most d apart with the homes a and b, the distances to that border sum to at most d, so one of them is at most d / 2 from
it: whoever visits all clusters whose border is within d / 2 misses no pair, whatever the data and the centroids. Single
assignment, as in SemDeDup, is a width of 0.

Embeddings are clustered in a projection on the directions in which a sample varies most. A projection makes no distance longer,
so what is said above holds for it, at a tenth of the cost.

Directions may be stretched before, to S x, so that borders lie otherwise. What is near stays what it was: a border is a plane,
and what counts is how far the point as it is lies from the plane as it is. That is the distance of the stretched ones, divided by
|S n|, where n is the stretched plane's normal of length 1.

Source: Abbas et al., SemDeDup, 2023 (arXiv 2303.09540), for the clusters; the borders are this project's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from beam_curate.duplicates.candidates import Flags, Floats, Places

SEED: Final = 20230316
DIRECTIONS: Final = 64
"""Of a projection: of the 768 of CLIP's large models a twelfth of the cost, and still most of what embeddings vary in."""
_SAMPLE: Final = 64  # points a centroid; faiss warns below 39
_ITERATIONS: Final = 8
_BLOCK: Final = 4096
_SCORES: Final = 1 << 17
"""Scores at once, 512 KB: they are gone through several times, in the processor's cache."""
_FEWEST: Final = 64  # points at once
_PAIRS: Final = 1 << 11
"""Pairs of centroids at once: 1 MB of them."""
_NOWHERE: Final = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
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


def rounding_of(stretch: Floats) -> float:
    """What float32 may lose in a score, see `Clusters.nearest`, where directions are stretched by (M,)."""
    return _ROUNDING * float(stretch.max()) ** 2


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

    def __reduce__(self) -> tuple[Any, ...]:
        """Workers are sent no more than the attributes."""
        return Clusters, (self.centroids, self.stretch)

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

    def asking(self, points: Floats) -> Floats:
        """(N, M) points as they are scored, made once for all the clusters that they are scored for: (N, M + 2)."""
        found = np.ones((len(points), points.shape[1] + 2), np.float32)
        np.multiply(points, self.stretch, out=found[:, :-2])
        found[:, -1] = 0
        return found

    def homes(self, points: Floats) -> Places:
        """The home of each of (N, M) points."""
        return self.nearest(self.asking(points), np.arange(len(points)), np.arange(len(self)))[0]

    def nearest(self, asking: Floats, place: Places, among: Places) -> tuple[Places, Floats]:
        """The nearest of (C,) clusters to the points at (P,) places; and its score, which is the higher the nearer it is."""
        home, best = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for _, score in self._scores(asking, place, among):
            home.append(score.argmax(axis=1))
            best.append(score[np.arange(len(score)), home[-1]])
        return among[np.concatenate(home)], np.concatenate(best)

    def within(self, asking: Floats, reach: float) -> list[Places]:
        """Of each cluster the places of those points whose score of it is at most `reach` below their best one."""
        found = [np.zeros((len(self), 0), np.bool_)]
        for _, score in self._scores(asking, np.arange(len(asking)), np.arange(len(self))):
            found.append(np.ascontiguousarray((score >= score.max(axis=1, keepdims=True) - np.float32(reach)).T))
        return [np.flatnonzero(one) for one in np.concatenate(found, axis=1)]

    def apart(self, points: Floats, homes: Places, others: Places) -> Floats:
        """How far (N, M) points are from the border of their (N,) home with (N,) other clusters: (N,); 0 where both are one."""
        own, other = self.centroids[homes], self.centroids[others]
        stretched = points * self.stretch
        gap = (((stretched - other) ** 2).sum(axis=1) - ((stretched - own) ** 2).sum(axis=1)) / 2
        between = self._lengths(own - other)
        found: Floats = np.maximum(gap, 0) / np.maximum(between, 1e-12)
        return found

    def scores(self, points: Floats, clusters: Places) -> Floats:
        """The score, see `nearest`, of the cluster at its place for each of (N, M) points; (N,)."""
        centroids = self.centroids[clusters]
        found: Floats = (points * self.stretch * centroids).sum(axis=1) - (centroids**2).sum(axis=1) / 2
        return found

    def reaches(self, clusters: Places, middles: Floats) -> Floats:
        """How far clusters are at most from (G, M) stretched points, in the measure of borders; (G, N)."""
        mine, theirs = self._wide[clusters], middles * self.stretch
        lengths = (theirs**2).sum(axis=1)[:, None] + (mine**2).sum(axis=1)[None, :]
        # What float32 may lose: M + 2 roundings of 2^-24 of a sum of squares, and as much again.
        squared = np.float32(1 + len(self.stretch) * 2.0**-22) * lengths - 2 * (theirs @ mine.T)
        found: Floats = np.sqrt(np.maximum(squared, 0, out=squared), out=squared)
        return found

    def visited(
        self, asking: Floats, place: Places, homes: Places, own: Floats, among: Places, width: float, far: Floats
    ) -> tuple[Places, Places, Floats]:
        """Which of some clusters points go to: to their home, if it is one of these, and to those whose border with it is near.

        Args:
            asking: (N, M + 2) points, see `asking`.
            place: (P,) places of those that go.
            homes: (P,) clusters.
            own: (P,) the scores of these.
            among: (C,) clusters.
            width: The distance of a border up to which a cluster is visited.
            far: (P,) how far the homes are at most from the middle of these clusters, see `middle` and `reaches`.

        Returns:
            (V,) places of points, (V,) clusters, and (V,) their scores.
        """
        if not width:
            row, which = np.divmod(np.flatnonzero(among[None, :] == homes[:, None]), max(len(among), 1))
            return place[row], among[which], own[row]
        found, rounding = [_NOWHERE], rounding_of(self.stretch)
        # Two centroids are no farther apart than both are from the middle of some. That leaves few to be looked at.
        reach = width * self._lengths(self.centroids[among] - self.middle(among))
        least: Floats = (own - width * far - 3 * rounding).astype(np.float32)
        for start, above in self._scores(asking, place, among, reach, least):
            row, which = np.divmod(np.flatnonzero(above >= 0), len(among))
            score = above[row, which] + least[row + start] - reach[which]
            row, cluster = row + start, among[which]
            apart = np.zeros(len(row), np.float32)
            for first in range(0, len(row), _PAIRS):
                some = slice(first, first + _PAIRS)
                between = self._wide[homes[row[some]]]
                between -= self._wide[cluster[some]]
                apart[some] = np.sqrt(np.einsum("ij,ij->i", between, between))
            near = own[row] - score <= width * apart + rounding
            near |= cluster == homes[row]
            found.append((place[row[near]], cluster[near], score[near]))
        rows, clusters, scores = (np.concatenate(column) for column in zip(*found, strict=True))
        return rows, clusters, scores

    def middle(self, among: Places) -> Floats:
        """Of (C,) clusters, (M,) stretched."""
        found: Floats = self.centroids[among].mean(axis=0)
        return found

    @cached_property
    def _wide(self) -> Floats:
        """(K, M) centroids in the measure of borders."""
        found: Floats = self.centroids * self.stretch
        return found

    def _lengths(self, stretched: Floats) -> Floats:
        """The lengths of differences of (N, M) centroids in the measure of borders; (N,)."""
        wide = stretched * self.stretch
        found: Floats = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        return found

    def _scores(
        self, asking: Floats, place: Places, among: Places, more: Floats | None = None, least: Floats | None = None
    ) -> Iterator[tuple[int, Floats]]:
        """By blocks of points, which begin at a place among these: (B, C) scores of clusters.

        Half the difference of two squared distances is the difference of two scores. What is added for each cluster and taken off
        for each point is a part of the product of matrices: to add it afterwards takes as long as the product.

        Args:
            asking: (N, M + 2) points, see `asking`.
            place: (P,) places of those that are scored.
            among: (C,) clusters.
            more: (C,) what is added.
            least: (P,) what is taken off.
        """
        centroids = self.centroids[among]
        bias = (0 if more is None else more) - (centroids**2).sum(axis=1) / 2
        with_bias = np.concatenate([centroids, bias[:, None], np.full((len(among), 1), -1, np.float32)], axis=1).T
        block = max(_FEWEST, min(_BLOCK, _SCORES // max(len(among), 1)))
        for start in range(0, len(place), block):
            some = asking[place[start : start + block]]
            if least is not None:
                some[:, -1] = least[start : start + block]
            yield start, some @ with_bias
