"""What a search for near embeddings settles before it begins, from a sample: directions, cells, borders, and the cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates import forecast
from beam_curate.duplicates.candidates import Floats, Places, firsts, normalised
from beam_curate.duplicates.cells import Cells, NearPairs, stretch_of
from beam_curate.duplicates.clusters import DIRECTIONS, directions, near_first
from beam_curate.duplicates.made_up_pairs import MadeUpPairs
from beam_curate.duplicates.method import Estimate
from beam_curate.duplicates.vector_rows import vector_row

EXACT: Final = 0.5
"""The width of a border, as a part of the distance of duplicates, that misses no pair."""
MISSED: Final = 0.0005
"""The part of the near pairs that a border which the sample decides may miss: half of one in a thousand, as pairs of real data
may be harder than those that are made up (tests/duplicates/test_methods.py, and `benchmarks/dedup.py --recall`). It holds for
pairs that differ as all rows do, and for such that differ as rows of a kind do."""
FEW: Final = 1 << 14
"""So many rows are compared in seconds: the border is exact."""
HOME_ROWS: Final = 1 << 15
"""Embeddings of a bucket in the mean, without its visitors: 50 MB of float16 at 768 dimensions."""
CELL_ROWS: Final = 1 << 8
"""Embeddings of a cell in the mean, where there are a million or fewer."""
_SMALLER_FROM: Final = 1 << 20
"""With more of them cells are smaller, by the fourth root of their number: the more there are, the more time comparing takes."""
SAMPLE: Final = 1 << 15
"""Embeddings that directions and cells are found from: 50 MB at 768 dimensions; more where there are very many cells."""
MOST_SAMPLED: Final = 1 << 19
"""0.8 GB at 768 dimensions. Half as many are compared with 23 % more others, of 10^7 made-up rows: cells of 4 of the sample come
out uneven. Twice as many spare nothing."""
_PER_CELL: Final = 16
"""So many of the sample for each cell; 8 where there are the most."""
_MOST_CELLS: Final = MOST_SAMPLED // 8
_COUNTED: Final = 8  # one of so many of the sample tells what the search will cost, and trains no cells
_CROWDS: Final = 1024
_LOOKING: Final = 1 << 14
"""Near pairs of each kind that tell which cells are looked at: they look at all."""
_BLOCK: Final = 4096


class Spreading(NamedTuple):
    """How embeddings are spread and compared.

    Attributes:
        directions: (D, M) in which they are compared, before they are in all. The cells lie in the first ones of these.
        first: In how many of these all pairs are compared; in the others those that are near there.
        cells: Where they meet.
        width: How near the border of a cell is that they visit.
    """

    directions: Floats
    first: int
    cells: Cells
    width: float


class Settled(NamedTuple):
    """What a sample settled: the cells, the width of borders, in how many directions pairs are compared, and what that costs.

    Attributes:
        compared: See `forecast.compared`.
    """

    cells: Cells
    width: float
    compared: tuple[int, int]
    estimate: Estimate | None


@dataclass(frozen=True)
class Settling:
    """What is asked for, see `Semantic`, and what that means for so many rows."""

    eps: float
    n_clusters: int
    border: float | None

    @property
    def distance(self) -> float:
        """How far duplicates are apart, at most."""
        return math.sqrt(2 * self.eps)

    def cells_for(self, total: int) -> int:
        """In how many cells so many rows meet."""
        smaller = max(1.0, total / _SMALLER_FROM) ** 0.25
        count = self.n_clusters or min(math.ceil(total * smaller / CELL_ROWS), _MOST_CELLS)
        return max(min(count, total), 1)

    def sampled(self, total: int) -> int:
        """How many of so many rows are looked at."""
        return min(max(SAMPLE, _PER_CELL * self.cells_for(total)), MOST_SAMPLED)

    def spreading(self, total: int, vectors: npt.NDArray[np.float16]) -> tuple[Spreading, Estimate | None]:
        """How rows are spread and compared, and what that will cost.

        Args:
            total: The number of rows.
            vectors: (S, D) of a sample of them.
        """
        axes = directions(normalised(vectors[:SAMPLE]), forecast.MOST_COMPARED)
        found = self.settle(total, vectors, axes)
        first, compared = found.compared
        return Spreading(np.ascontiguousarray(axes[:, :compared]), first, found.cells, found.width), found.estimate

    def settle(self, total: int, vectors: npt.NDArray[np.float16], axes: Floats) -> Settled:
        """Settles all but the directions.

        Args:
            total: The number of rows.
            vectors: (S, D) of a sample of them.
            axes: (D, M) as many directions as may be compared.
        """
        border = EXACT if self.border is None and total <= FEW else self.border
        points = project(vectors, axes)
        cells = self._cells(total, points, border == EXACT)
        vectors, points = vectors[::_COUNTED], points[::_COUNTED]  # those that trained no cells
        if not len(points):
            return Settled(cells, 0.0, (axes.shape[1], axes.shape[1]), None)
        inside = np.ascontiguousarray(points[:, : cells.directions])
        width: float = EXACT * self.distance
        needed: list[Floats] = []
        if border != EXACT:
            cells, needed = self._looking(cells, MadeUpPairs(vectors, inside, self.eps))
            width = self._width(needed)
        visits = cells.visits(inside, width)
        crowd = near_first(points, self.distance, _CROWDS)
        buckets = len(once(visits[0], cells.groups[visits[1]])[0]) / len(points)
        estimate = Estimate(
            buckets,
            forecast.comparisons(len(cells), visits, crowd, total),
            buckets * total * vector_row(vectors.shape[1]).itemsize,
            max((float((some > width).mean()) for some in needed if len(some)), default=0.0),
        )
        met = estimate.comparisons / max(total * buckets, 1)
        compared = forecast.compared(visits, points, cells.directions, vectors.shape[1], met, self.eps)
        return Settled(cells, width, compared, estimate)

    def _looking(self, cells: Cells, made_up: MadeUpPairs) -> tuple[Cells, list[Floats]]:
        """Cells of which some are looked at, and the least widths of borders at which pairs of each kind meet then."""
        few = [some for kind in made_up.of_kinds(cells, _LOOKING) for some in kind]  # a block of each kind
        width = self._width([cells.needed(some) for some in few])
        if width < EXACT * self.distance and any(len(some.homes) for some in few):
            cells = cells.looking_for(NearPairs(*map(np.concatenate, zip(*few, strict=True))), width)
        return cells, [np.concatenate([cells.needed(some) for some in kind]) for kind in made_up.of_kinds(cells)]

    def _width(self, needed: Sequence[Floats]) -> float:
        """The width of borders, by the least ones at which pairs of each kind meet."""
        if self.border is not None:
            return self.border * self.distance
        return min(max(forecast.narrowest(kind, MISSED) for kind in needed), EXACT * self.distance)

    def _cells(self, total: int, points: Floats, exact: bool) -> Cells:
        """The cells of so many rows, in the first directions.

        Args:
            total: The number of rows.
            points: (S, M) of a sample, in more directions: rows that are near in the first ones alone are no crowd.
            exact: For borders at which no pair may be missed.
        """
        distinct = points[np.arange(len(points)) % _COUNTED > 0] if len(points) > 1 else points
        crowd = near_first(distinct, self.distance, _CROWDS)
        distinct = distinct[~crowd, :DIRECTIONS]  # a crowd takes one cell, however large it is
        count = self.cells_for(total)
        groups = min(-(-total // HOME_ROWS) or 1, count)
        # Wide borders of stretched cells reach more of them, and more than is saved where no pair may be missed.
        even = np.ones(distinct.shape[1], np.float32) if exact else stretch_of(distinct)
        return Cells.train(distinct, count, groups, even)


def once(row: Places, bucket: Places) -> tuple[Places, Places]:
    """Each row once in each bucket, by row."""
    order = np.lexsort((bucket, row))
    row, bucket = row[order], bucket[order]
    kept = firsts(row, bucket)
    return row[kept], bucket[kept]


def project(vectors: npt.NDArray[np.float16], axes: Floats) -> Floats:
    """The (N, M) coordinates of (N, D) embeddings, normalised, in (D, M) directions."""
    found = np.zeros((len(vectors), axes.shape[1]), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        found[start : start + _BLOCK] = normalised(vectors[start : start + _BLOCK]) @ axes
    return found
