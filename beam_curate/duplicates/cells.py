"""Many fine clusters of embeddings, the cells, in which rows meet, and groups of cells, the buckets to which rows go.

A row has a home cell and visits the cells whose border with it is near, as said in `clusters`; it goes once to each group that
has one of these. In a bucket the rows at home in a cell meet each other and its visitors: two visitors meet where one is at home.
So what is compared depends on the cells alone: more groups, or blocks of a large one, compare nothing twice.

To compare N rows with all K cells, one for every 256 rows or fewer, takes N * K products of vectors: N^2 / 256. So a row first
looks at the groups, and then at the cells of those alone whose score is near that of the best one. How near, some near pairs
tell: all of them that meet where all cells are looked at still meet, at their nearest cells. Then more pairs tell the border,
and one whose cells are not looked at counts as missed. Where no pair may be missed a row looks at all cells.

Cells part the data in the few directions of the largest variance, in which near embeddings differ most, too; so many borders are
near. To even all directions out would give as much weight to those that hold little but noise. So each is stretched by the square
root of what would even it out. How far a row is from a border is still measured in the directions as they are. This is this
project's own choice, by `benchmarks/dedup.py --simulate` and `--recall`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from beam_curate.duplicates.candidates import Flags, Floats, Places
from beam_curate.duplicates.clusters import Clusters, rounding_of
from beam_curate.duplicates.near_vectors import Meeting

_MOST_STRETCHED: Final = 8.0
_MOST_CELLS: Final = 1.5
"""A group of so many times its share of cells is cut: where points lie close to each other k-means makes large ones. With more
rows a group has some more than its share of a sample tells: of made-up ones at most 79,000 where 49,152 are meant, of 10^7. From
98,304 on a bucket is a crowd, and compared in blocks, which takes several times as long, see transforms.compare_buckets."""
_FIRST: Final = 4
"""In a reach so many times narrower nearly all points find their home."""
_ROWS: Final = 1 << 14
"""Points that find their cells at once: 30 MB of distances from 450 groups."""
_NOWHERE: Final = (np.zeros(0, np.int64), np.zeros(0, np.int64))


class NearPairs(NamedTuple):
    """Pairs of points that are near, and their homes: (P, M) and (P,) of the first ones, (P, M) and (P,) of the others."""

    points: Floats
    homes: Places
    others: Floats
    theirs: Places


@dataclass(frozen=True)
class Cells:
    """Clusters in groups.

    Attributes:
        clusters: K of them.
        groups: (K,) the bucket of each.
        reach: A row looks at the cells of the groups whose score is at most this below that of its nearest one.
    """

    clusters: Clusters
    groups: Places
    reach: float = math.inf

    def __len__(self) -> int:
        return len(self.groups)

    def __reduce__(self) -> tuple[Any, ...]:
        """Workers are sent no more than the attributes."""
        return Cells, (self.clusters, self.groups, self.reach)

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
        found: list[Floats] = []
        for group, cells in enumerate(each.tolist()):
            mine = points[homes == group]
            centroids = Clusters.train(mine, cells).centroids if cells > 1 else coarse.centroids[group : group + 1]
            found += _cut(centroids, _MOST_CELLS * count / groups)
        numbers = np.repeat(np.arange(len(found)), [len(centroids) for centroids in found])
        return Cells(Clusters(np.concatenate(found), stretch), numbers)

    def homes(self, points: Floats) -> Places:
        """The home of each of (N, M) points: of the cells that it looks at the nearest one."""
        asking = self.clusters.asking(points)
        return self._homes(asking, self._looks(asking, self.reach))[0]

    def visits(self, points: Floats, width: float) -> tuple[Places, Places, Flags]:
        """Which points go to which cells.

        Args:
            points: (N, M)
            width: The distance of a border up to which a cell is visited, if it is looked at.

        Returns:
            (V,) places of points, (V,) cells, (V,) whether it is the home. Every point has one home.
        """
        found = [(*_NOWHERE, np.zeros(0, np.bool_))]
        for start in range(0, len(points), _ROWS):
            row, cell, home = self._visits(self.clusters.asking(points[start : start + _ROWS]), width)
            found.append((row + start, cell, home))
        row, cell, home = (np.concatenate(column) for column in zip(*found, strict=True))
        return row, cell, home

    def _visits(self, asking: Floats, width: float) -> tuple[Places, Places, Flags]:
        """See `visits`; points as `Clusters.asking` has them."""
        homes, own = self._homes(asking, self._looks(asking, self.reach / _FIRST if width else self.reach))
        looks = self._looks(asking, self.reach)
        row, cell, score = self._visited(asking, homes, own, looks, width)
        # A cell with a higher score than the home lies in a group that was not looked at first. It is the home then.
        better = np.flatnonzero(score > own[row])
        if len(better):
            better = better[np.argsort(score[better], kind="stable")]
            homes[row[better]] = cell[better]  # the last one of a row counts, the best
            own[row[better]] = score[better]
            again = np.zeros(len(asking), np.bool_)
            again[row[better]] = True
            more = self._visited(asking, homes, own, [place[again[place]] for place in looks], width)
            row, cell = np.append(row[~again[row]], more[0]), np.append(cell[~again[row]], more[1])
        return row, cell, cell == homes[row]

    def _visited(
        self, asking: Floats, homes: Places, own: Floats, looks: Sequence[Places], width: float
    ) -> tuple[Places, Places, Floats]:
        """The visits of points, and their scores, by homes and the scores of these; see `_looks`."""
        found = [(*_NOWHERE, np.zeros(0, np.float32))]
        for place, cells, far in zip(looks, self._members, self.clusters.reaches(homes, self._middles), strict=True):
            found.append(self.clusters.visited(asking, place, homes[place], own[place], cells, width, far[place]))
        row, cell, score = (np.concatenate(column) for column in zip(*found, strict=True))
        return row, cell, score

    def needed(self, near: "NearPairs") -> Floats:
        """The least width of a border, see `visits`, at which pairs meet; (P,), 0 where both have one home, infinite for none."""
        found: Floats = np.where(near.homes == near.theirs, 0, np.minimum(*self._apart(near)))
        return found

    def looking_for(self, near: "NearPairs", width: float) -> "Cells":
        """These cells, with the least reach at which all points of pairs find their homes, and all pairs that meet still do.

        Args:
            near: By cells of which a point looks at all.
            width: At which they meet.
        """
        sides = (near.points, near.homes, near.theirs), (near.others, near.theirs, near.homes)
        reach, meeting = 0.0, np.full(len(near.homes), np.inf, np.float32)
        for (points, homes, others), apart in zip(sides, self._apart(near), strict=True):
            own, there = self._farther(points, self.groups[homes], self.groups[others])
            reach = max(reach, float(own.max(initial=0)))
            meeting = np.minimum(meeting, np.where(apart <= width, there, np.inf))
        reach = max(reach, float(meeting[np.isfinite(meeting)].max(initial=0)))
        return replace(self, reach=reach + rounding_of(self.clusters.stretch))

    @cached_property
    def _members(self) -> Sequence[Places]:
        """The cells of each group."""
        return [np.flatnonzero(self.groups == group) for group in range(self.buckets)]

    @cached_property
    def _middles(self) -> Floats:
        """(G, M) of the groups, as they are in `Clusters.visited`."""
        return np.stack([self.clusters.middle(cells) for cells in self._members])

    @cached_property
    def _centres(self) -> Clusters:
        """Those of the groups."""
        sums = np.zeros((self.buckets, self.directions))
        np.add.at(sums, self.groups, self.clusters.centroids)
        count = np.maximum(np.bincount(self.groups), 1)[:, None]
        return Clusters((sums / count).astype(np.float32), self.clusters.stretch)

    def _apart(self, near: "NearPairs") -> tuple[Floats, Floats]:
        """How far the points of pairs are from the border with the other one's home; infinitely, if they do not look at that."""
        first = self.clusters.apart(near.points, near.homes, near.theirs)
        second = self.clusters.apart(near.others, near.theirs, near.homes)
        if self.reach < math.inf:
            first[self._farther(near.points, self.groups[near.theirs])[0] > self.reach] = np.inf
            second[self._farther(near.others, self.groups[near.homes])[0] > self.reach] = np.inf
        return first, second

    def _farther(self, points: Floats, *groups: Places) -> list[Floats]:
        """How much lower the score of a group at its place is than that of the nearest one, for (N, M) points; of each, (N,)."""
        asking = self._centres.asking(points)
        best = self._centres.nearest(asking, np.arange(len(points)), np.arange(self.buckets))[1]
        return [best - self._centres.scores(points, some) for some in groups]

    def _looks(self, asking: Floats, reach: float) -> Sequence[Places]:
        """Of each group the places of the points that look at its cells, ascending."""
        if reach == math.inf:
            return [np.arange(len(asking))] * self.buckets
        return self._centres.within(asking, reach)

    def _homes(self, asking: Floats, looks: Sequence[Places]) -> tuple[Places, Floats]:
        """The homes of points, and their scores."""
        homes, best = np.zeros(len(asking), np.int64), np.full(len(asking), -np.inf, np.float32)
        for place, cells in zip(looks, self._members, strict=True):
            home, score = self.clusters.nearest(asking, place, cells)
            better = score > best[place]
            homes[place[better]], best[place[better]] = home[better], score[better]
        return homes, best

    def meetings(
        self, group: int, points: Floats, homes: Places, width: float, met: Flags | None = None
    ) -> Iterator[Meeting]:
        """Which rows of a bucket meet, by cell.

        Args:
            group: The bucket.
            points: (N, M) of its rows.
            homes: (N,) their home cells.
            width: See `visits`.
            met: (N,) which of them, at home in the bucket, have met each other before: they visit no cell.
        """
        cells, middle = self._members[group], self._middles[group : group + 1]
        place = np.arange(len(points)) if met is None else np.flatnonzero(~met)
        own, (far,) = self.clusters.scores(points[place], homes[place]), self.clusters.reaches(homes[place], middle)
        row, cell, _ = self.clusters.visited(self.clusters.asking(points), place, homes[place], own, cells, width, far)
        if met is not None:
            row, cell = np.append(row, np.flatnonzero(met)), np.append(cell, homes[met])
        member = cell == homes[row]
        order = np.lexsort((row, ~member, cell))
        row, cell, member = row[order], cell[order], member[order]
        starts = np.searchsorted(cell, cells)
        for start, stop in pairwise([*starts.tolist(), len(cell)]):
            there, home = row[start:stop], member[start:stop]
            yield Meeting(there[home], there[~home], met is not None)


def _cut(centroids: Floats, most: float) -> list[Floats]:
    """(K, M) cells in groups of no more than so many, if they are not all in one place."""
    halves = (
        Clusters.train(centroids, 2).homes(centroids) if len(centroids) > max(1, most) else np.zeros(len(centroids))
    )
    parts = [centroids[halves == half] for half in np.unique(halves)]
    return parts if len(parts) < 2 else [group for part in parts for group in _cut(part, most)]


def stretch_of(points: Floats) -> Floats:
    """By how much the directions of (N, M) points are to be stretched; (M,)."""
    spread = points.std(axis=0, dtype=np.float64) if len(points) > 1 else np.ones(points.shape[1])
    widest = max(float(spread.max(initial=0.0)), 1e-12)
    found: Floats = np.sqrt(widest / np.maximum(spread, widest / _MOST_STRETCHED**2)).astype(np.float32)
    return found
