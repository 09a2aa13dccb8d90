"""Near embeddings: a cosine similarity of at least 1 - eps.

Rows are spread to the clusters of a sample, an embedding to its home and to those whose border with it is near (`clusters`), and
compared inside each (`near_vectors`). With a border of 0.5 no pair is missed, and what is found does not depend on the sample,
the clusters, or the rounding of a processor. The default misses less than one duplicate in a thousand, and costs less.

Source: Abbas et al., SemDeDup, 2023 (arXiv 2303.09540): of two embeddings of a cosine similarity of at least 1 - eps, the worse
one is removed; the pairs inside single k-means clusters are those looked at there.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_curate.duplicates import forecast
from beam_curate.duplicates.candidates import (
    Candidates,
    Floats,
    Nearness,
    Rows,
    embeddings,
    normalised,
)
from beam_curate.duplicates.clusters import Clusters, directions, near_first
from beam_curate.duplicates.edges import edges_between, may_be_removed, may_stand
from beam_curate.duplicates.method import Compared, Estimate, Method, Plan, Spread, similar
from beam_curate.duplicates.near_vectors import Bucket, Who, best_partners, similarities
from beam_curate.duplicates.pairs import Pairs, pairs_of
from beam_curate.duplicates.vector_rows import in_order, vector_row

BORDER: Final = 0.35
"""Default width of a border, as a part of the distance of duplicates; 0.5 is exact. At least 0.999 of the duplicates are found
where they differ in the directions in which the data itself varies, the worst case (tests/duplicates/test_methods.py, and
`benchmarks/dedup.py --recall`)."""
HOME_ROWS: Final = 1 << 15
"""Embeddings of a cluster in the mean, without its visitors: 50 MB of float16 at 768 dimensions."""
SAMPLE: Final = 1 << 15
"""Embeddings that directions and clusters are found from: 50 MB at 768 dimensions; more where there are very many clusters."""
MOST_SAMPLED: Final = 1 << 18
SAMPLE_PER_CLUSTER: Final = 64
"""Clusters are made of so many at least, unless there are very many; so many times 8 tell what a search will cost."""
_CROWDS: Final = 1024
_FULL: Final = 0.75
_WORTH: Final = 0.8
"""Twice as many clusters are made if buckets get smaller by a fifth at least: more visits cost, too."""
_BANDS: Final = (0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Pairs are shown between these distances 1 - similarity, as multiples of eps: up to 1 they are duplicates."""
_MOST_CENTRES: Final = MOST_SAMPLED // SAMPLE_PER_CLUSTER
_BLOCK: Final = 4096


class _Spreading(NamedTuple):
    """How embeddings are spread: (D, M) directions, and the clusters in them."""

    directions: Floats
    clusters: Clusters


@dataclass(frozen=True)
class _Nearness:
    """The similarity of embeddings to the centre of their cluster: the mean of its sampled ones."""

    spreading: _Spreading
    centres: Floats

    def __call__(self, vectors: npt.NDArray[np.float16]) -> Floats:
        """See candidates.Nearness: of equal vectors the same, as a product of matrices does not give it."""
        found = np.zeros(len(vectors), np.float32)
        for start in range(0, len(vectors), _BLOCK):
            block = normalised(vectors[start : start + _BLOCK])
            home = self.spreading.clusters.homes(block @ self.spreading.directions)
            found[start : start + _BLOCK] = (block * self.centres[home]).sum(axis=1, dtype=np.float64)
        return found


@dataclass(frozen=True)
class Semantic(Method):
    """Near embeddings.

    Attributes:
        eps: Duplicates have a cosine similarity of at least 1 - eps.
        n_clusters: To how many clusters rows are spread; 0: one for every 32,768. The centres by which `hard` and `easy`
            rank are of as many, or of the square root of the number of rows, 4,096 at most.
        border: The width of borders as a part of the distance of duplicates, 0 (each to its home alone) to 0.5 (exact). Inside
            a cluster it is never less than the default.
    """

    eps: float = 0.01
    n_clusters: int = 0
    border: float = BORDER

    name: ClassVar[str] = "semantic"
    place: ClassVar[int] = 40
    alike: ClassVar[str] = "the embeddings are near each other"
    columns: ClassVar[tuple[str, ...]] = ("embedding",)
    block_rows: ClassVar[int | None] = 1 << 17
    option: ClassVar[str] = "eps"

    @property
    def value(self) -> float:
        """See Method."""
        return self.eps

    @classmethod
    def limit(cls, value: float) -> float:
        """See Method."""
        return 1 - value

    @classmethod
    def measured(cls, similarity: float, value: float) -> str:
        """See Method."""
        return f"{similarity:.{min(6, max(4, 2 - math.floor(math.log10(value))))}f}"

    @property
    def bands(self) -> Sequence[float]:
        """See Method."""
        return [2.0, *(1 - part * self.eps for part in _BANDS)]

    @property
    def distance(self) -> float:
        """How far duplicates are apart, at most."""
        return math.sqrt(2 * self.eps)

    def clusters_for(self, total: int) -> int:
        """How many clusters so many rows are spread to."""
        return min(self.n_clusters or -(-total // HOME_ROWS), max(total, 1)) or 1

    def sampled(self, total: int) -> int:
        """See Method."""
        return min(max(SAMPLE, 8 * SAMPLE_PER_CLUSTER * self.clusters_for(total)), MOST_SAMPLED)

    def plan(self, total: int, sample: pa.Table) -> Plan:
        """See Method."""
        vectors = embeddings(sample)
        axes = directions(normalised(vectors[:SAMPLE]))
        points = project(vectors, axes)
        clusters = self.clusters(total, points)
        estimate = self.estimate(total, vectors, points, clusters) if len(points) else None
        return Plan(len(clusters), _Spreading(axes, clusters), axes, estimate)

    def clusters(self, total: int, points: Floats) -> Clusters:
        """As many as were asked for, or more if buckets, with their visitors, come out larger than can be compared at once."""
        distinct = points[~near_first(points, self.distance, _CROWDS)]  # a crowd takes one cluster, however large it is
        count = self.clusters_for(total)
        clusters = Clusters.train(distinct, count)
        most = len(distinct) // SAMPLE_PER_CLUSTER
        size = _mean_size(clusters, distinct, self.border * self.distance, total)
        while not self.n_clusters and size > _FULL * (self.block_rows or total) and 2 * count <= most:
            more = Clusters.train(distinct, 2 * count)
            smaller = _mean_size(more, distinct, self.border * self.distance, total)
            if smaller > _WORTH * size:
                break
            count, clusters, size = 2 * count, more, smaller
        return clusters

    def nearness(self, total: int, sample: pa.Table) -> Nearness | None:
        """See Method."""
        vectors = embeddings(sample)
        axes = directions(normalised(vectors[:SAMPLE]))
        points = project(vectors, axes)
        clusters = Clusters.train(points, self.n_clusters or min(round(math.sqrt(total)), _MOST_CENTRES))
        centres = (clusters.centroids @ axes.T).astype(np.float64)  # of those of which none is sampled
        sums = np.zeros_like(centres)
        homes = clusters.homes(points)
        for start in range(0, len(vectors), _BLOCK):
            np.add.at(sums, homes[start : start + _BLOCK], normalised(vectors[start : start + _BLOCK]))
        there = np.bincount(homes, minlength=len(clusters)) > 0
        centres[there] = sums[there]
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        return _Nearness(_Spreading(axes, clusters), centres.astype(np.float32))

    def spread(self, found: Candidates, spreading: Any) -> Spread:
        """See Method."""
        vectors = embeddings(found.table)
        points = project(vectors, spreading.directions)
        row, cluster, home = spreading.clusters.visits(points, self.border * self.distance)
        rows = np.zeros(len(row), vector_row(vectors.shape[1]))
        rows["id"], rows["rank"], rows["home"], rows["vector"] = found.ids[row], found.ranks[row], home, vectors[row]
        return Spread(cluster, rows)

    def dtype(self, comparing: Any) -> np.dtype[Any]:
        """See Method."""
        return vector_row(len(comparing))

    def compare(self, bucket: int, pieces: Iterable[Rows], comparing: Any) -> Compared:
        """See Method."""
        del bucket
        held = list(pieces)
        return self._compared(held, held, comparing)

    def compare_blocks(self, bucket: int, asking: Rows, answering: Rows, comparing: Any) -> Compared:
        """See Method."""
        del bucket
        return self._compared([asking], [answering], comparing)

    def pairs(self, few: Rows, rows: Rows, comparing: Any) -> Pairs:
        """See Method."""
        del comparing
        if self.between:
            few, rows = few[may_be_removed(few)], rows[~may_be_removed(rows)]
        least = 1 - _BANDS[-1] * self.eps
        found = [pairs_of(few["id"][:0], few["id"][:0], np.zeros(0, np.float32))]
        mine = normalised(few["vector"])
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            # A product of matrices rounds by the place in it, and rows come in any order: it only finds the pairs.
            near = mine @ normalised(some["vector"]).T >= np.float32(least - mine.shape[1] * 2.0**-23)
            row, column = np.nonzero(near)
            similarity = similarities(few["vector"], row, some["vector"], column)
            there = similarity >= least
            found.append(pairs_of(few["id"][row[there]], some["id"][column[there]], similar(similarity[there])))
        return np.concatenate(found)

    @classmethod
    def told(cls, similarity: float) -> str:
        """See Method."""
        return f"a cosine similarity of {similarity:.4f} to"

    def _compared(self, asking: Sequence[Rows], answering: Sequence[Rows], comparing: Any) -> Compared:
        rows = in_order(asking, answering, len(comparing))
        heads = rows.heads
        who = Who(rows.asks & may_be_removed(heads), rows.answers & may_stand(heads, self.between), heads["home"])
        bucket = Bucket(rows.vectors, project(rows.vectors, comparing))
        found = best_partners(bucket, self.eps, max(self.border, BORDER), who)
        return Compared(edges_between(heads, found.row, found.of, found.similarity), found.comparisons)

    def estimate(self, total: int, vectors: npt.NDArray[np.float16], points: Floats, clusters: Clusters) -> Estimate:
        """What the search will cost."""
        row, cluster, home = clusters.visits(points, self.border * self.distance)
        order = np.argsort(cluster, kind="stable")
        ends = np.searchsorted(cluster[order], np.arange(len(clusters) + 1))
        each = total / len(points)
        width = max(self.border, BORDER) * self.distance

        def bucket(number: int) -> forecast.Bucket:
            mine = order[ends[number] : ends[number + 1]]
            return forecast.Bucket(vectors[row[mine]], points[row[mine]], home[mine], each * len(mine))

        compared = forecast.comparisons(bucket, each * np.diff(ends), width, self.distance, self.block_rows or total)
        visits = len(row) / len(points)
        return Estimate(visits, compared, visits * total * vector_row(vectors.shape[1]).itemsize)


def _mean_size(clusters: Clusters, points: Floats, width: float, total: int) -> float:
    """The size of the bucket in which a visit is, in the mean."""
    some = points[: 1 << 14]
    _, cluster, _ = clusters.visits(some, width)
    sizes = np.bincount(cluster) * (total / max(len(some), 1))
    return float((sizes**2).sum() / max(sizes.sum(), 1))


def project(vectors: npt.NDArray[np.float16], axes: Floats) -> Floats:
    """The (N, M) coordinates of (N, D) embeddings, normalised, in (D, M) directions."""
    found = np.zeros((len(vectors), axes.shape[1]), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        found[start : start + _BLOCK] = normalised(vectors[start : start + _BLOCK]) @ axes
    return found
