"""Many fine clusters of embeddings, the cells, in which rows meet, and groups of cells, the buckets to which rows go.

A row has a home cell and visits the cells whose border with it is near, as said in `clusters`; it goes once to each group that
has one of these. In a bucket the rows at home in a cell meet each other and its visitors: two visitors meet where one is at home.
So what is compared depends on the cells alone: more groups, or blocks of a large one, compare nothing twice.

Cells part the data in the few directions of the largest variance, in which near embeddings differ most, too; so many borders are
near. To even all directions out would give as much weight to those that hold little but noise. So each is stretched by the square
root of what would even it out. How far a row is from a border is still measured in the directions as they are. This is this
project's own choice, by `benchmarks/dedup.py --simulate` and `--recall`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from beam_curate.duplicates.candidates import Flags, Floats, Places
from beam_curate.duplicates.clusters import Clusters

_MOST_STRETCHED: Final = 8.0


@dataclass(frozen=True)
class Cells:
    """Clusters in groups.

    Attributes:
        clusters: K of them.
        groups: (K,) the bucket of each.
    """

    clusters: Clusters
    groups: Places

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def directions(self) -> int:
        """M: in how many directions the cells lie."""
        return self.clusters.centroids.shape[1]

    @property
    def buckets(self) -> int:
        """How many groups there are."""
        return int(self.groups.max()) + 1

    @staticmethod
    def train(points: Floats, count: int, groups: int, stretch: Floats) -> "Cells":
        """Clusters points in groups, and those of a group in cells, of which it has more the more of the points it has.

        Args:
            points: (N, M)
            count: How many cells are wanted.
            groups: How many groups are wanted, no more than cells.
            stretch: See above.
        """
        points = points * stretch
        coarse = Clusters.train(points, groups)
        homes = coarse.homes(points)
        ends = np.cumsum(np.bincount(homes, minlength=len(coarse))) * (count / max(len(points), 1))
        each = np.maximum(np.diff(np.rint(ends), prepend=0), 1).astype(np.int64)
        found, number = [], []
        for group, cells in enumerate(each.tolist()):
            mine = points[homes == group]
            centroids = Clusters.train(mine, cells).centroids if cells > 1 else coarse.centroids[group : group + 1]
            found.append(centroids)
            number.append(np.full(len(centroids), group))
        return Cells(Clusters(np.concatenate(found), stretch), np.concatenate(number))

    def visits(self, points: Floats, width: float) -> tuple[Places, Places, Flags]:
        """See Clusters.visits."""
        return self.clusters.visits(points, width)

    def needed(self, points: Floats, homes: Places, others: Floats) -> Floats:
        """The least width of a border, see `Clusters.visits`, at which (N, M) points meet the one of others at their place.

        Args:
            points: See above.
            homes: (N,) of them.
            others: (N, M)

        Returns:
            (N,); 0 where both have one home.
        """
        theirs = self.clusters.homes(others)
        found: Floats = np.minimum(
            self.clusters.apart(points, homes, theirs), self.clusters.apart(others, theirs, homes)
        )
        return found

    def meetings(self, group: int, points: Floats, homes: Places, width: float) -> Iterator[tuple[Places, Places]]:
        """Which rows of a bucket meet.

        Args:
            group: The bucket.
            points: (N, M) of its rows.
            homes: (N,) their home cells.
            width: See Clusters.visits.

        Yields:
            Of each cell the places of the rows that are at home, and of those that visit it, ascending.
        """
        cells = np.flatnonzero(self.groups == group)
        row, cell = self.clusters.visited(points, homes, cells, width)
        member = cell == homes[row]
        order = np.lexsort((row, ~member, cell))
        row, cell, member = row[order], cell[order], member[order]
        starts = np.searchsorted(cell, cells)
        for start, stop in pairwise([*starts.tolist(), len(cell)]):
            inside = start + int(member[start:stop].sum())
            yield row[start:inside], row[inside:stop]


def stretch_of(points: Floats) -> Floats:
    """By how much the directions of (N, M) points are to be stretched; (M,)."""
    spread = points.std(axis=0, dtype=np.float64) if len(points) > 1 else np.ones(points.shape[1])
    widest = max(float(spread.max(initial=0.0)), 1e-12)
    found: Floats = np.sqrt(widest / np.maximum(spread, widest / _MOST_STRETCHED**2)).astype(np.float32)
    return found
