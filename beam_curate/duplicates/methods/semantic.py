"""Near embeddings: a cosine similarity of at least 1 - eps.

Rows meet in the clusters of a sample, an embedding in its home and in those whose border with it is near (`clusters`, `cells`),
and are compared there (`near_vectors`). With a border of 0.5 no pair is missed, and what is found does not depend on the sample,
the clusters, or the rounding of a processor. By default the sample decides: the border is as narrow as it may be to miss less
than one near pair in a thousand. The more rows there are, the smaller are the clusters, and the narrower it is.

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
    Places,
    Rows,
    embeddings,
    firsts,
    normalised,
)
from beam_curate.duplicates.cells import Cells, stretch_of
from beam_curate.duplicates.clusters import Clusters, directions, near_first
from beam_curate.duplicates.edges import edges_between, may_be_removed, may_stand
from beam_curate.duplicates.method import Compared, Estimate, Method, Plan, Spread, similar
from beam_curate.duplicates.near_vectors import Bucket, Who, best_partners, similarities
from beam_curate.duplicates.pairs import Pairs, pairs_of
from beam_curate.duplicates.vector_rows import in_order, vector_row

EXACT: Final = 0.5
"""The width of a border, as a part of the distance of duplicates, that misses no pair."""
MISSED: Final = 0.0005
"""The part of the near pairs that a border which the sample decides may miss: half of one in a thousand, as pairs of real data
may be harder than those that are made up (tests/duplicates/test_methods.py, and `benchmarks/dedup.py --recall`)."""
FEW: Final = 1 << 14
"""So many rows are compared in seconds: the border is exact."""
HOME_ROWS: Final = 1 << 15
"""Embeddings of a bucket in the mean, without its visitors: 50 MB of float16 at 768 dimensions."""
CELL_ROWS: Final = 1 << 8
"""Embeddings of a cell in the mean: an embedding is compared with about as many centroids as others."""
SAMPLE: Final = 1 << 15
"""Embeddings that directions and cells are found from: 50 MB at 768 dimensions; more where there are very many cells."""
MOST_SAMPLED: Final = 1 << 18
_PER_CELL: Final = 16
"""So many of the sample for each cell; 8 where there are the most."""
_MOST_CELLS: Final = MOST_SAMPLED // 8
_COUNTED: Final = 8  # one of so many of the sample tells what the search will cost, and trains no cells
_CROWDS: Final = 1024
_BANDS: Final = (0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Pairs are shown between these distances 1 - similarity, as multiples of eps: up to 1 they are duplicates."""
_MOST_CENTRES: Final = 4096
_BLOCK: Final = 4096


class Spreading(NamedTuple):
    """How embeddings are spread: (D, M) directions, the cells in them, and how near the border of a cell is that they visit."""

    directions: Floats
    cells: Cells
    width: float


@dataclass(frozen=True)
class _Nearness:
    """The similarity of embeddings to the centre of their cluster: the mean of its sampled ones."""

    directions: Floats
    clusters: Clusters
    centres: Floats

    def __call__(self, vectors: npt.NDArray[np.float16]) -> Floats:
        """See candidates.Nearness: of equal vectors the same, as a product of matrices does not give it."""
        found = np.zeros(len(vectors), np.float32)
        for start in range(0, len(vectors), _BLOCK):
            block = normalised(vectors[start : start + _BLOCK])
            home = self.clusters.homes(block @ self.directions)
            found[start : start + _BLOCK] = (block * self.centres[home]).sum(axis=1, dtype=np.float64)
        return found


@dataclass(frozen=True)
class Semantic(Method):
    """Near embeddings.

    Attributes:
        eps: Duplicates have a cosine similarity of at least 1 - eps.
        n_clusters: How many cells there are; 0: one for every 256 rows, 32,768 at most. The centres by which `hard` and `easy`
            rank are of as many, or of the square root of the number of rows, 4,096 at most.
        border: The width of borders as a part of the distance of duplicates, 0 (each to its home alone) to 0.5 (exact). None: as
            narrow as the sample allows, see `MISSED`; exact with no more than `FEW` rows.

    Raises:
        ValueError: One of them is out of its range.
    """

    eps: float = 0.01
    n_clusters: int = 0
    border: float | None = None

    name: ClassVar[str] = "semantic"
    place: ClassVar[int] = 40
    alike: ClassVar[str] = "the embeddings are near each other"
    columns: ClassVar[tuple[str, ...]] = ("embedding",)
    block_rows: ClassVar[int | None] = 1 << 17
    option: ClassVar[str] = "eps"

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1:
            raise ValueError(f"`eps` is {self.eps}; give a number above 0 and below 1, such as 0.01")
        if self.n_clusters < 0:
            raise ValueError(f"`n_clusters` is {self.n_clusters}; give 0 or more")
        if self.border is not None and not 0 <= self.border <= EXACT:
            raise ValueError(f"`border` is {self.border}; give 0 to 0.5")

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

    def cells_for(self, total: int) -> int:
        """In how many cells so many rows meet."""
        return min(self.n_clusters or min(-(-total // CELL_ROWS), _MOST_CELLS), max(total, 1)) or 1

    def sampled(self, total: int) -> int:
        """See Method."""
        return min(max(SAMPLE, _PER_CELL * self.cells_for(total)), MOST_SAMPLED)

    def plan(self, total: int, sample: pa.Table) -> Plan:
        """See Method."""
        vectors = embeddings(sample)
        axes = directions(normalised(vectors[:SAMPLE]))
        cells, width, estimate = self.settle(total, vectors, project(vectors, axes))
        spreading = Spreading(axes, cells, width)
        return Plan(cells.buckets, spreading, spreading, estimate)

    def settle(
        self, total: int, vectors: npt.NDArray[np.float16], points: Floats
    ) -> tuple[Cells, float, Estimate | None]:
        """The cells, the width of borders, and what the search will cost and miss.

        Args:
            total: The number of rows.
            vectors: (S, D) of a sample of them.
            points: (S, M) their projection.
        """
        border = EXACT if self.border is None and total <= FEW else self.border
        cells = self.cells(total, points, border == EXACT)
        if not len(points):
            return cells, 0.0, None
        vectors, points = vectors[::_COUNTED], points[::_COUNTED]  # those that trained no cells
        needed = forecast.needed(cells, vectors, points, self.eps)
        exact = EXACT * self.distance
        width = min(forecast.narrowest(needed, MISSED), exact) if border is None else border * self.distance
        return cells, width, self.estimate(total, vectors, points, cells, width, needed)

    def cells(self, total: int, points: Floats, exact: bool) -> Cells:
        """The cells of so many rows, by the (S, M) points of a sample; exact: for borders at which no pair may be missed."""
        distinct = points[np.arange(len(points)) % _COUNTED > 0] if len(points) > 1 else points
        distinct = distinct[
            ~near_first(distinct, self.distance, _CROWDS)
        ]  # a crowd takes one cell, however large it is
        count = self.cells_for(total)
        groups = min(-(-total // HOME_ROWS) or 1, count)
        # Wide borders of stretched cells reach more of them, and more than is saved where no pair may be missed.
        even = np.ones(points.shape[1], np.float32) if exact else stretch_of(distinct)
        return Cells.train(distinct, count, groups, even)

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
        return _Nearness(axes, clusters, centres.astype(np.float32))

    def spread(self, found: Candidates, spreading: Any) -> Spread:
        """See Method."""
        vectors = embeddings(found.table)
        points = project(vectors, spreading.directions)
        row, cell, home = spreading.cells.visits(points, spreading.width)
        homes = np.zeros(len(points), np.int64)
        homes[row[home]] = cell[home]
        row, bucket = _once(row, spreading.cells.groups[cell])
        rows = np.zeros(len(row), vector_row(vectors.shape[1]))
        rows["id"], rows["rank"], rows["cell"], rows["vector"] = (
            found.ids[row],
            found.ranks[row],
            homes[row],
            vectors[row],
        )
        return Spread(bucket, rows)

    def dtype(self, comparing: Any) -> np.dtype[Any]:
        """See Method."""
        return vector_row(len(comparing.directions))

    def compare(self, bucket: int, pieces: Iterable[Rows], comparing: Any) -> Compared:
        """See Method."""
        held = list(pieces)
        return self._compared(bucket, held, held, comparing)

    def compare_blocks(self, bucket: int, asking: Rows, answering: Rows, comparing: Any) -> Compared:
        """See Method."""
        return self._compared(bucket, [asking], [answering], comparing)

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
            row, column = np.divmod(np.flatnonzero(near), len(some))
            similarity = similarities(few["vector"], row, some["vector"], column)
            there = similarity >= least
            found.append(pairs_of(few["id"][row[there]], some["id"][column[there]], similar(similarity[there])))
        return np.concatenate(found)

    @classmethod
    def told(cls, similarity: float) -> str:
        """See Method."""
        return f"a cosine similarity of {similarity:.4f} to"

    def _compared(
        self, number: int, asking: Sequence[Rows], answering: Sequence[Rows], comparing: Spreading
    ) -> Compared:
        rows = in_order(asking, answering, len(comparing.directions))
        heads = rows.heads
        who = Who(rows.asks & may_be_removed(heads), rows.answers & may_stand(heads, self.between))
        bucket = Bucket(rows.vectors, project(rows.vectors, comparing.directions))
        cells = comparing.cells.meetings(number, bucket.points, heads["cell"], comparing.width)
        found = best_partners(bucket, self.eps, cells, who)
        return Compared(edges_between(heads, found.row, found.of, found.similarity), found.comparisons)

    def estimate(
        self,
        total: int,
        vectors: npt.NDArray[np.float16],
        points: Floats,
        cells: Cells,
        width: float,
        needed: Floats,
    ) -> Estimate:
        """What the search will cost and miss, by a sample that trained no cells, and by what its made-up pairs need."""
        row, cell, _ = cells.visits(points, width)
        visits = len(_once(row, cells.groups[cell])[0]) / len(points)
        crowd = near_first(points, self.distance, _CROWDS)
        compared = forecast.comparisons(cells, points, crowd, width, total)
        missed = float((needed > width).mean()) if len(needed) else 0.0
        return Estimate(visits, compared, visits * total * vector_row(vectors.shape[1]).itemsize, missed)


def _once(row: Places, bucket: Places) -> tuple[Places, Places]:
    """Each row once in each bucket, by row."""
    order = np.lexsort((bucket, row))
    row, bucket = row[order], bucket[order]
    once = firsts(row, bucket)
    return row[once], bucket[once]


def project(vectors: npt.NDArray[np.float16], axes: Floats) -> Floats:
    """The (N, M) coordinates of (N, D) embeddings, normalised, in (D, M) directions."""
    found = np.zeros((len(vectors), axes.shape[1]), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        found[start : start + _BLOCK] = normalised(vectors[start : start + _BLOCK]) @ axes
    return found
