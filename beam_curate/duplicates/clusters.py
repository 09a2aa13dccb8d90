"""Clusters of embeddings, so that near ones meet without comparing all with all.

Spherical k-means on a sample gives the centroids; an embedding's home is the nearest one. Two near embeddings may have different
homes, on either side of a border, so an embedding also visits the clusters whose border with its home is near.

The distance from an embedding x with the home a to its border with the cluster b is (x·a - x·b) / |a - b|. Of two embeddings
at most d apart with the homes a and b, the distances to that border sum to at most d, so one of them is at most d / 2 from it:
whoever visits all clusters whose border is within d / 2 misses no pair, whatever the data. With the cosine similarity 1 - eps,
d is sqrt(2 eps). Single assignment, as in SemDeDup, is a width of 0.

Source: Abbas et al., SemDeDup, 2023 (arXiv 2303.09540), for the clusters; the borders are this project's own.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import Floats, Ids, normalised

BORDER: Final = 0.35
"""Default width of a border, as a part of d; 0.5 is exact. Measured (benchmarks/dedup.py): at 0.35 at least 0.999 of the pairs
are found where near duplicates differ in the directions in which the data itself varies, the worst case."""
MOST_CLUSTERS: Final = 64
"""The most clusters that an embedding is compared in, its home included. How many embeddings had more is counted."""
SAMPLE_PER_CLUSTER: Final = 64
"""Sampled embeddings for each cluster; faiss warns below 39."""
SEED: Final = 20230316
_ITERATIONS: Final = 10
_OVERFULL: Final = 4  # times the average, from which on a cluster is split
_ROUNDS: Final = 3
_BLOCK: Final = 8192
_ROUNDING: Final = 1e-6
"""More than the similarities of equal vectors to a centroid were found to differ by place, 2e-7: they meet all the same."""
_TABLE: Final = 2048  # centroids up to which all their similarities are computed at once


@dataclass(frozen=True)
class Clustering:
    """How embeddings are clustered.

    Attributes:
        eps: Embeddings of a cosine similarity of at least 1 - eps are near.
        n_clusters: How many; 0: the square root of the number of rows, where both the assignment and the comparisons inside
            clusters cost rows x the square root of rows.
        border: The width of borders as a part of sqrt(2 eps), 0 to 0.5.
    """

    eps: float
    n_clusters: int = 0
    border: float = BORDER

    def clusters_for(self, rows: int) -> int:
        """How many clusters so many rows get."""
        return min(self.n_clusters or max(1, round(math.sqrt(rows))), max(rows, 1))

    @property
    def distance(self) -> float:
        """How far near embeddings are apart, at most."""
        return math.sqrt(2 * self.eps)


def sampled(ids: Ids, rows: int, clusters: int) -> npt.NDArray[np.bool_]:
    """Says which rows are in the sample: by their id alone, about SAMPLE_PER_CLUSTER for each cluster of so many rows in all."""
    share = min(1.0, SAMPLE_PER_CLUSTER * clusters / max(rows, 1))
    return scattered(ids) <= np.uint64(min(int(share * 2.0**64), (1 << 64) - 1))


def scattered(ids: Ids) -> Ids:
    """Ids as evenly spread numbers of 64 bits, the same each time.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
    """
    mixed = ids + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def train(sample: npt.NDArray[np.float16], clusters: int, distance: float) -> Floats:
    """Finds the centroids.

    Clusters that hold more than four times the average are split, unless what is in them is near each other anyway. Centroids
    that are nearer to another than half the distance of near embeddings only multiply the borders, and are left out. So there
    may be fewer or more than asked for.

    Args:
        sample: (N, D)
        clusters: How many are wanted.
        distance: How far near embeddings are apart, at most.

    Returns:
        (K, D) float32, L2-normalised; K is at least 1.
    """
    vectors = normalised(sample)
    if len(vectors) < 2 or clusters < 2:
        total = vectors.sum(axis=0, keepdims=True, dtype=np.float64)
        return (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)
    centroids = _k_means(vectors, min(clusters, len(vectors)))
    average = len(vectors) / clusters
    for _ in range(_ROUNDS):
        home, nearness = nearest(vectors, centroids, 1)
        sizes = np.bincount(home[:, 0], minlength=len(centroids))
        split = [_split(vectors[home[:, 0] == c], nearness[home[:, 0] == c, 0], average, distance)
                 if sizes[c] > max(_OVERFULL * average, 2) else None for c in range(len(centroids))]  # fmt: skip
        if all(piece is None for piece in split):
            break
        centroids = np.concatenate([centroids[c : c + 1] if piece is None else piece for c, piece in enumerate(split)])
    return _apart(centroids, distance / 2)


def _k_means(vectors: Floats, clusters: int) -> Floats:
    import faiss

    kmeans = faiss.Kmeans(
        vectors.shape[1],
        clusters,
        niter=_ITERATIONS,
        seed=SEED,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=2 * SAMPLE_PER_CLUSTER,
    )
    kmeans.train(vectors)
    centroids: Floats = np.ascontiguousarray(kmeans.centroids, np.float32)
    # faiss leaves a centroid without members at length 0.
    return centroids[np.linalg.norm(centroids, axis=1) > 0.5]


def _split(members: Floats, nearness: Floats, average: float, distance: float) -> Floats | None:
    """More centroids for an over-full cluster; None if its members are near each other anyway."""
    if float(np.median(nearness)) >= 1 - distance**2 / 2:
        return None
    return _k_means(members, math.ceil(len(members) / average))


def _apart_from(centroids: Floats, cluster: npt.NDArray[np.int64], home: npt.NDArray[np.int64]) -> Floats:
    """The distances of (N, T) centroids from those of (N,) homes; 1e-6 at least."""
    if len(centroids) <= _TABLE:
        similarity = (centroids @ centroids.T)[cluster, home[:, None]]
    else:
        similarity = np.einsum("ntd,nd->nt", centroids[cluster], centroids[home])
    distance: Floats = np.sqrt(np.maximum(2 - 2 * similarity, np.float32(1e-12)))
    return distance


def _apart(centroids: Floats, distance: float) -> Floats:
    """Leaves out centroids that are nearer than a distance to an earlier one that stays."""
    stay = np.ones(len(centroids), np.bool_)
    limit = np.float32(1 - distance**2 / 2)
    for start in range(0, len(centroids), _BLOCK):
        near = centroids[start : start + _BLOCK] @ centroids.T > limit
        for row, column in zip(*np.nonzero(near), strict=True):
            at = start + int(row)
            if column < at and stay[column]:
                stay[at] = False
    return np.ascontiguousarray(centroids[stay])


def nearest(vectors: Floats, centroids: Floats, count: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """The nearest centroids of each vector, nearest first, and the cosine similarities: (N, count) each."""
    index = _index(centroids)
    similarity, cluster = index.search(vectors, min(count, len(centroids)))
    return cluster, similarity


def _index(centroids: Floats) -> Any:
    import faiss

    index = faiss.IndexFlatIP(centroids.shape[1])
    index.add(centroids)
    return index


@dataclass(frozen=True)
class Assignment:
    """Which rows go to which clusters, the homes first.

    Attributes:
        row: (M,) places of rows, M >= N; the first N are 0 … N - 1.
        cluster: (M,) of each.
        cut: Rows that have more clusters than MOST_CLUSTERS within the borders' width.
    """

    row: npt.NDArray[np.int64]
    cluster: npt.NDArray[np.int64]
    cut: int


def assign(vectors: Floats, centroids: Floats, width: float) -> Assignment:
    """Assigns vectors to their home, and to the clusters whose border with it is at most `width` away.

    Args:
        vectors: (N, D), L2-normalised.
        centroids: (K, D), likewise.
        width: A distance.
    """
    none = np.zeros(0, np.int64)
    homes, rows, clusters, cut = [none], [none], [none], 0
    for start in range(0, len(vectors), _BLOCK):
        cluster, similarity = nearest(vectors[start : start + _BLOCK], centroids, MOST_CLUSTERS + 1)
        home = cluster[:, 0]
        visits = similarity[:, :1] - similarity <= width * _apart_from(centroids, cluster, home) + _ROUNDING
        visits[:, 0] = False
        cut += int(visits[:, MOST_CLUSTERS:].any(axis=1).sum())
        row, place = np.nonzero(visits[:, :MOST_CLUSTERS])
        homes.append(home)
        rows.append(row + start)
        clusters.append(cluster[row, place])
    own = np.arange(len(vectors), dtype=np.int64)
    if width <= 0:
        return Assignment(own, np.concatenate(homes), 0)
    return Assignment(np.concatenate([own, *rows]), np.concatenate([*homes, *clusters]), cut)
