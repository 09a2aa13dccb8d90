"""What comparing buckets of embeddings will cost, and miss, told from a sample of their rows: what its points visit, summed up.

The points that are counted are not points that the cells were trained on: those lie nearer to their centroids than others do.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import Flags, Floats, Places, normalised
from beam_curate.duplicates.cells import Cells, NearPairs
from beam_curate.duplicates.clusters import Clusters
from beam_curate.duplicates.near_vectors import ASKED

_PAIRS: Final = 1 << 16
"""Pairs that are made up: of a part of 0.0005 they count 33."""
_BLOCK: Final = 1 << 12
"""Pairs whose embeddings are compared at once."""
_SAME: Final = 1e-6
KINDS: Final = (None, 512, 16)
"""Of how many points of the sample in the mean the kinds of rows are by which borders are settled: all, large ones, small ones. A
point of the smallest sample is in 16 pairs."""
MOST_FIRST: Final = 96
"""Directions in which all pairs that meet are compared, at most: twice 4 bytes for each of them and each row of a bucket. 128
leave a fourth of the pairs, and take as much time."""
MOST_COMPARED: Final = 192
"""Directions in which those pairs are compared that are near in the first ones, at most: 4 bytes for each, and each row."""
_STEP: Final = 32
_EACH, _FIRST, _SECOND, _NEAR, _PROJECTED = 0.9, 0.0135, 0.8, 2.0, 0.013
"""Nanoseconds that a pair takes, and each of its first directions; each other direction of one that is near in these; each
dimension of one that is near in all directions; and each dimension of a row in each direction. Measured with one thread on an
Intel Xeon with AMX: products of blocks of 4,096 and 128 rows, and single pairs of embeddings of 768 dimensions."""
Visits = tuple[Places, Places, Flags]
"""See `Cells.visits`."""


def comparisons(cells: int, visits: Visits, crowd: Flags, total: int) -> float:
    """The pairs that will be compared.

    Args:
        cells: How many there are.
        visits: Of S rows, see `Cells.visits`.
        crowd: (S,) which of them have a near one among the best: at home they ask no others.
        total: The number of rows.
    """
    row, cell, home = visits

    def count(chosen: Flags) -> Floats:
        counted: Floats = np.bincount(cell[chosen], minlength=cells).astype(np.float32)
        return counted

    def asked(of: Floats) -> Floats:
        """Of partners, a block at once, rows ask those that begin with a better one than they are."""
        part: Floats = (1 + np.minimum(1, ASKED / np.maximum(of * (total / len(crowd)), 1))) / 2
        return part

    members, visitors = count(home), count(~home)
    asking = count(home & ~crowd[row])  # abroad a crowd asks as others do
    # No point is its own partner: so of the members one is left out.
    found = asking * np.maximum(members - 1, 0) * asked(members)
    found += visitors * members * asked(members) + asking * visitors * asked(visitors)
    few = float(crowd.sum()) / len(crowd) * total * ASKED
    return float(found.sum()) / max(1, len(crowd) * (len(crowd) - 1)) * total**2 + few


def compared(visits: Visits, points: Floats, least: int, dim: int, met: float, eps: float) -> tuple[int, int]:
    """In how many directions pairs are best compared, before those that are near there are compared in all.

    More directions take more time for each pair, and leave fewer pairs that are near there only.

    Args:
        visits: Of S rows, see `Cells.visits`.
        points: (S, M) of them, in as many directions as there may be, those in which the data varies most first.
        least: In how many at least.
        dim: D, all directions.
        met: With how many rows one is compared in a bucket.
        eps: Duplicates have a cosine similarity of at least 1 - eps.

    Returns:
        In how many all pairs are compared, and in how many those that are near in the first ones; the same if in no others.
    """
    row, cell, home = visits
    order = np.flatnonzero(home)[np.argsort(cell[home], kind="stable")]
    members, there = row[order], cell[order]
    first, last = np.searchsorted(there, cell, "left"), np.searchsorted(there, cell, "right")
    # Each visit with one of those at home in its cell.
    found = np.flatnonzero(last > first)
    other = members[first[found] + found % (last - first)[found]]
    pairs = np.stack([row[found], other])[:, row[found] != other]
    pairs = pairs[:, :: -(-pairs.shape[1] // _PAIRS) or 1]
    squared = np.zeros(pairs.shape[1], np.float32)
    near = {}
    for start in range(0, points.shape[1], _STEP):
        step = points[:, start : start + _STEP]
        squared += ((step[pairs[0]] - step[pairs[1]]) ** 2).sum(axis=1)
        near[min(start + _STEP, points.shape[1])] = float((squared <= 2 * eps).mean()) if len(squared) else 0.0

    def cost(steps: tuple[int, int]) -> float:
        few, more = steps
        pair = _EACH + few * _FIRST + near[few] * (more - few) * _SECOND + near[more] * dim * _NEAR
        return pair + dim * more * _PROJECTED / max(met, 1)

    most = max(near)
    firsts = [count for count in near if least <= count <= MOST_FIRST]
    return min([(count, count) for count in firsts] + [(count, most) for count in firsts], key=cost)


def near_pairs(cells: Cells, vectors: npt.NDArray[np.float16], points: Floats, eps: float) -> list[NearPairs]:
    """Many near pairs, by which borders are settled, for each of KINDS.

    They are made up, as a sample has too few: to an embedding one that differs from it in the direction of a third one, as
    the data itself varies, at cosine similarities spread evenly from 1 - eps to 1. Pairs that differ in random directions differ
    less in those of the cells, and meet at narrower borders. The third one is of the kind of the first: of a cluster of so many
    points in the mean, or any. Rows of a kind may vary in other directions than all rows do.

    Args:
        cells: Where rows meet.
        vectors: (S, D) of some rows.
        points: (S, M) their projection.
        eps: See above.
    """
    # Each point is in many pairs: its home is found once.
    unit, homes = normalised(vectors), cells.homes(points)
    return [_pairs_of(cells, unit, points, homes, eps, kind or len(points)) for kind in KINDS]


def _pairs_of(cells: Cells, unit: Floats, points: Floats, homes: Places, eps: float, kind: int) -> NearPairs:
    """See `near_pairs`; (S, D) of length 1, (S,) homes, and the size of a kind."""
    one, third = _others(points, kind)
    cosine = np.zeros(_PAIRS, np.float32)
    for start in range(0, _PAIRS, _BLOCK):
        some = slice(start, start + _BLOCK)
        cosine[some] = (unit[one[some]] * unit[third[some]]).sum(axis=1)
    apart = 1 - cosine**2 > _SAME
    one, third, cosine = one[apart], third[apart], cosine[apart, None]
    near = (1 - eps * (np.arange(len(one)) * 0.6180339887 % 1))[:, None]
    across = (points[third] - cosine * points[one]) / np.sqrt(1 - cosine**2)
    others = (near * points[one] + np.sqrt(1 - near**2) * across).astype(np.float32)
    return NearPairs(points[one], homes[one], others, cells.homes(others))


def _others(points: Floats, kind: int) -> tuple[Places, Places]:
    """(P,) rows by their (S, M) points, and (P,) others of their clusters, of so many points in the mean; as evenly as may be.

    A row that is alone in its cluster comes with itself.
    """
    kinds = Clusters.train(points, -(-len(points) // kind)).homes(points)
    order = np.argsort(kinds, kind="stable")
    first, last = (np.searchsorted(kinds[order], kinds[order], side) for side in ("left", "right"))
    place = np.arange(_PAIRS)
    one, step = place % len(points), 1 + place // len(points)
    size = (last - first)[one]
    return order[one], order[first[one] + (one - first[one] + step) % size]


def narrowest(needed: Floats, part: float) -> float:
    """The narrowest border at which, by a sample of pairs, no more than a part of all near pairs is missed.

    Of P pairs x are left out, where x and two standard deviations of a count of x (its square root, by Poisson) make P part: so
    a sample that happens to be easy does not make the border too narrow.

    Args:
        needed: (P,) from `Cells.needed`.
        part: Of all near pairs.
    """
    left_out = int((math.sqrt(1 + len(needed) * part) - 1) ** 2)
    return float(np.sort(needed)[::-1][left_out]) if left_out < len(needed) else 0.0
