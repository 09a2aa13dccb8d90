"""What comparing buckets of embeddings will cost, told from a sample of their rows.

What a row of a bucket is compared with depends on the clusters inside it, and on how many rows each has. With a given number of
clusters the share of the bucket that a row meets does not depend on how many rows there are, so a sample of them tells it. The
bucket will have more clusters than its sample can fill; the share is measured for three numbers that it can fill, and followed
from there: its logarithm bends little over that of their number.

Points that clusters were trained on lie nearer to them than others do, the more so the fewer they are, and others the farther:
half of the points that are measured are of one kind, half of the other. That gives the same share, within a tenth, with 8 and
with 64 points a cluster (benchmarks/dedup.py --simulate).

Where a sample has too few rows of a bucket (below some hundred) the forecast is rough.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.blocks import LEADERS as BLOCK_LEADERS
from beam_curate.duplicates.candidates import Flags, Floats, normalised
from beam_curate.duplicates.clusters import Clusters, near_first
from beam_curate.duplicates.near_vectors import LEADERS, Who, cells_for, meetings

_LOOKED_AT: Final = 8  # buckets
_POINTS: Final = 1 << 14  # of a bucket
_FILLED: Final = 8  # points that fill a cluster
_ASKED: Final = 512  # see near_vectors: inside such a block of partners nobody is left out for being better


class Bucket(NamedTuple):
    """Some rows of a bucket: (S, D) float16 vectors, their (S, M) points, who is at home, and how many rows it will have."""

    vectors: npt.NDArray[np.float16]
    points: Floats
    home: Flags
    rows: float


def comparisons(
    bucket: Callable[[int], Bucket], sizes: npt.NDArray[np.float64], width: float, distance: float, block_rows: int
) -> float:
    """The pairs that are compared in all buckets; some are looked at, drawn by their size.

    Args:
        bucket: Gives one by its number.
        sizes: The rows that each will have.
        width: Of a border, see `Clusters.visits`.
        distance: Of duplicates, at most.
        block_rows: Larger buckets are compared in blocks of half so many.
    """
    if len(sizes) <= _LOOKED_AT:
        return sum(_in_bucket(bucket(number), width, distance, block_rows) for number in range(len(sizes)))
    share = (np.arange(_LOOKED_AT) + 0.5) / _LOOKED_AT
    drawn = np.minimum(np.searchsorted(np.cumsum(sizes), share * sizes.sum()), len(sizes) - 1)
    each = [_in_bucket(bucket(number), width, distance, block_rows) / sizes[number] for number in drawn.tolist()]
    return float(sizes.sum() * sum(each) / len(each))


def _in_bucket(bucket: Bucket, width: float, distance: float, block_rows: int) -> float:
    rows, points = bucket.rows, bucket.points[:_POINTS]
    if not len(points):
        return 0.0
    home = bucket.home[:_POINTS]
    crowd = near_first(normalised(bucket.vectors[:_POINTS]), distance, min(LEADERS, len(points) // 2))
    left = rows * float(1 - crowd.mean())
    met = _Met(points, home, ~crowd, width)
    if rows <= block_rows:
        return rows * min(rows, LEADERS) + met.pairs(left, rows, half=True)
    size = block_rows / 2
    asking, answering = math.ceil(left / size), math.ceil(rows / size)
    pairs = asking * (answering + 1) / 2
    each = left / max(asking, 1)
    return rows * BLOCK_LEADERS + pairs * (each * LEADERS + met.pairs(each, size, half=False))


class _Met:
    """The share of a bucket that a row meets, by the number of clusters inside."""

    def __init__(self, points: Floats, home: Flags, asks: Flags, width: float) -> None:
        self._who = Who(asks, np.ones(len(points), np.bool_), home)
        self._points, self._width = points, width
        filled = int(asks.sum()) // 2 // _FILLED
        self._counts = sorted({max(2, filled // part) for part in (1, 2, 4)}) if filled > 1 else []
        self._shares: dict[tuple[int, int], float] = {}

    def pairs(self, asking: float, answering: float, half: bool) -> float:
        """Pairs that are compared; half of them for rows of large clusters that ask better ones of their own only."""
        count = cells_for(round(asking))
        most = round(answering) if half else 0
        everyone = asking * answering * self._share(1, most)
        if count == 1 or not self._counts:
            return everyone
        known = [number for number in self._counts if number <= count] or self._counts[:1]
        if count <= self._counts[-1]:
            return asking * answering * self._share(count, most)
        shares = np.log([max(self._share(number, most), 1e-12) for number in known])
        curve = np.polyfit(np.log(known), shares, min(2, len(known) - 1))
        found = float(np.exp(np.polyval(curve, math.log(count))))
        return min(everyone, asking * answering * found)

    def _share(self, count: int, rows: int) -> float:
        if (count, rows) not in self._shares:
            self._shares[count, rows] = self._measured(count, rows)
        return self._shares[count, rows]

    def _measured(self, count: int, rows: int) -> float:
        asks = np.flatnonzero(self._who.asks)
        clusters = Clusters.train(self._points[asks[::2]], count)
        row, cluster, member = clusters.visits(self._points, self._width if count > 1 else 0.0)
        each = rows / len(self._points)
        found = 0.0
        for asking, answering in meetings(self._who):
            of = [
                np.bincount(cluster[chosen[row] & (member == inside)], minlength=len(clusters)).astype(np.float64)
                for chosen in (asking, answering)
                for inside in (True, False)
            ]
            # Of the partners in a cluster, a block at once, rows ask those that begin with a better one than they are.
            members, visitors = (of[k] * (1 + np.minimum(1, _ASKED / np.maximum(of[k] * each, 1))) / 2 for k in (2, 3))
            found += float(((of[0] + of[1]) * members + of[0] * visitors).sum())
        return found / max(1, len(asks)) / len(self._points)
