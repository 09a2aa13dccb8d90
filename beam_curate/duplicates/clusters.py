"""Clusters of points, so that near ones meet without comparing all with all, and misses none.

A point's home is the cluster of the nearest centroid. Two near points may have different homes, on either side of a border, so a
point also visits the clusters whose border with its home is near.

The distance from a point x with the home a to its border with the cluster b is (|x - b|^2 - |x - a|^2) / (2 |a - b|). Of two
points at most d apart with the homes a and b, the distances to that border sum to at most d, so one of them is at most d / 2 from
it: whoever visits all clusters whose border is within d / 2 misses no pair, whatever the data and the centroids. Single
assignment, as in SemDeDup, is a width of 0.

Embeddings are clustered in a projection on the directions in which a sample varies most. A projection makes no distance longer,
so what is said above holds for it, at a tenth of the cost.

Source: Abbas et al., SemDeDup, 2023 (arXiv 2303.09540), for the clusters; the borders are this project's own.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from beam_curate.duplicates.candidates import Flags, Floats, Places

SEED: Final = 20230316
DIRECTIONS: Final = 64
"""Of a projection: of the 768 of CLIP's large models a twelfth of the cost, and still most of what embeddings vary in."""
_SAMPLE: Final = 64  # points a centroid; faiss warns below 39
_ITERATIONS: Final = 8
_BLOCK: Final = 4096
_ROUNDING: Final = 1e-5
"""What float32 may lose in a product of two projected vectors of a length up to 1: 64 roundings of 2^-24, and as much again."""


def directions(vectors: Floats, count: int = DIRECTIONS) -> Floats:
    """The directions in which vectors vary most, as an orthonormal basis (D, count); (D, D) where D is no more than that.

    Args:
        vectors: (N, D); at most some ten thousand are worth while.
        count: How many.
    """
    dim = vectors.shape[1]
    if dim <= count or len(vectors) < 2:
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
    """Centroids, (K, M) float32."""

    centroids: Floats

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
        if count < 2:
            return Clusters(
                points.mean(axis=0, keepdims=True) if len(points) else np.zeros((1, points.shape[1]), np.float32)
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
        return Clusters(np.ascontiguousarray(kmeans.centroids, np.float32))

    def homes(self, points: Floats) -> Places:
        """The home of each of (N, M) points."""
        found = [np.zeros(0, np.int64)]
        for start in range(0, len(points), _BLOCK):
            found.append(self._scores(points[start : start + _BLOCK]).argmax(axis=1))
        return np.concatenate(found)

    def visits(self, points: Floats, width: float) -> tuple[Places, Places, Flags]:
        """Which points go to which clusters.

        Args:
            points: (N, M)
            width: The distance of a border up to which a cluster is visited.

        Returns:
            (V,) places of points, (V,) clusters, (V,) whether it is the home; every point has one home.
        """
        rows, clusters, homes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
        apart = self._apart()
        for start in range(0, len(points), _BLOCK):
            score = self._scores(points[start : start + _BLOCK])
            home = score.argmax(axis=1)
            own = np.arange(len(score)), home
            visited = (
                score[own][:, None] - score <= width * apart[home] + _ROUNDING
                if width
                else np.zeros_like(score, np.bool_)
            )
            visited[own] = True
            row, cluster = np.nonzero(visited)
            rows.append(row + start)
            clusters.append(cluster)
            homes.append(cluster == home[row])
        return np.concatenate(rows), np.concatenate(clusters), np.concatenate(homes)

    def _scores(self, points: Floats) -> Floats:
        """(N, K): more is nearer; half the difference of two squared distances is the difference of two scores."""
        scores: Floats = points @ self.centroids.T - (self.centroids**2).sum(axis=1) / 2
        return scores

    def _apart(self) -> Floats:
        """(K, K) distances of the centroids."""
        length = (self.centroids.astype(np.float64) ** 2).sum(axis=1)
        squared = (
            length[:, None]
            + length[None, :]
            - 2 * self.centroids.astype(np.float64) @ self.centroids.T.astype(np.float64)
        )
        return np.sqrt(np.maximum(squared, 1e-12)).astype(np.float32)
