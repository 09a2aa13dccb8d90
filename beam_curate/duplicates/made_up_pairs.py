"""Near pairs made up from a sample, which has too few of its own: by them borders are settled, and which cells are looked at.

To an embedding one is made that differs from it in the direction of a third one, as the data itself varies, at cosine
similarities spread evenly from 1 - eps to 1. Pairs that differ in random directions differ less in those of the cells, and meet
at narrower borders. The third one is of the kind of the first: of a cluster of so many points in the mean, or any. Rows of a
kind may vary in other directions than all rows do.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import Floats, Places, normalised
from beam_curate.duplicates.cells import Cells, NearPairs
from beam_curate.duplicates.clusters import Clusters

KINDS: Final = (None, 512, 16)
"""Of how many points of the sample in the mean the kinds of rows are: all, large ones, small ones."""
LEAST: Final = 1 << 16
"""Pairs of each kind: of a part of 0.0005 they count 33."""
MOST: Final = 1 << 18
"""Pairs of each kind: of a part of 0.0005 they count 131. So chance leaves half as much open, and borders are narrower."""
_EACH: Final = 16
"""Pairs of a point, where they are more than the least and fewer than the most."""
_BLOCK: Final = 1 << 12
"""Pairs whose embeddings are compared at once."""
_SAME: Final = 1e-6


class _Made(NamedTuple):
    """(P,) points, (P,) third ones, and what is taken of each of the two, which makes the others; (P, 1)."""

    one: Places
    third: Places
    part: Floats
    towards: Floats


class MadeUpPairs:
    """Pairs of each kind."""

    def __init__(self, vectors: npt.NDArray[np.float16], points: Floats, eps: float) -> None:
        """Chooses them.

        Args:
            vectors: (S, D) of some rows.
            points: (S, M) their projection.
            eps: Near ones have a cosine similarity of at least 1 - eps.
        """
        self._points = points
        count = min(max(_EACH * len(points), LEAST), MOST)
        unit = normalised(vectors)
        self._kinds = [_made(unit, *_chosen(points, kind or len(points), count), eps) for kind in KINDS]

    def of_kinds(self, cells: Cells, most: int = MOST) -> Iterator[Iterator[NearPairs]]:
        """For each kind its pairs, or so many of them at most, in blocks. Homes are among the cells that points look at."""
        homes = cells.homes(self._points)
        for made in self._kinds:
            yield self._blocks(cells, homes, made, -(-len(made.one) // most) or 1)

    def _blocks(self, cells: Cells, homes: Places, made: _Made, every: int) -> Iterator[NearPairs]:
        for start in range(0, len(made.one) or 1, LEAST * every):
            some = slice(start, start + LEAST * every, every)
            one, third = made.one[some], made.third[some]
            others = made.part[some] * self._points[one] + made.towards[some] * self._points[third]
            yield NearPairs(self._points[one], homes[one], others, cells.homes(others))


def _made(unit: Floats, one: Places, third: Places, eps: float) -> _Made:
    """See `MadeUpPairs`; (S, D) of length 1, and (P,) of these. Those that do not differ make no pair."""
    cosine = np.zeros(len(one), np.float32)
    for start in range(0, len(one), _BLOCK):
        some = slice(start, start + _BLOCK)
        cosine[some] = (unit[one[some]] * unit[third[some]]).sum(axis=1)
    apart = 1 - cosine**2 > _SAME
    one, third, cosine = one[apart], third[apart], cosine[apart, None]
    near = (1 - eps * (np.arange(len(one)) * 0.6180339887 % 1))[:, None]
    towards = np.sqrt((1 - near**2) / (1 - cosine**2))
    return _Made(one, third, (near - towards * cosine).astype(np.float32), towards.astype(np.float32))


def _chosen(points: Floats, kind: int, count: int) -> tuple[Places, Places]:
    """(P,) rows by their (S, M) points, and (P,) others of their clusters, of so many points in the mean; as evenly as may be.

    A row that is alone in its cluster comes with itself.
    """
    kinds = Clusters.train(points, -(-len(points) // kind)).homes(points)
    order = np.argsort(kinds, kind="stable")
    first, last = (np.searchsorted(kinds[order], kinds[order], side) for side in ("left", "right"))
    place = np.arange(count)
    one, step = place % len(points), 1 + place // len(points)
    size = (last - first)[one]
    return order[one], order[first[one] + (one - first[one] + step) % size]
