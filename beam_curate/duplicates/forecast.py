"""What comparing buckets of embeddings will cost, and miss, told from a sample of their rows: what its points visit, summed up.

The points that are counted are not points that the cells were trained on: those lie nearer to their centroids than others do.
"""

import math
from typing import Final

import numpy as np

from beam_curate.duplicates.candidates import Flags, Floats, Places
from beam_curate.duplicates.near_vectors import ASKED

_PAIRS: Final = 1 << 16
"""Pairs of a sample that are looked at, at most."""
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

    members, visitors = count(home), count(~home)
    asking = count(home & ~crowd[row])
    # Of partners, a block at once, members ask those that begin with a better one than they are.
    asked: Floats = (1 + np.minimum(1, ASKED / np.maximum(members * (total / len(crowd)), 1))) / 2
    # No point is its own partner: so of the members one is left out. Abroad a crowd asks as others do.
    found = asking * np.maximum(members - 1, 0) * asked + visitors * members
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
