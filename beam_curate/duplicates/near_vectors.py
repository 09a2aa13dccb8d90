"""In a bucket of embeddings, the best better one that is near each: exactly, and far below all pairs.

Pairs of a cell are compared in a projection, where a product never comes out lower than with all dimensions: first in a few
directions, those that are near there in some more, and those left with all dimensions. Of two rows the worse one asks the better
one. Everything is compared from the best row on, and a row that has found a partner asks no worse ones; it still answers those
that are worse than itself. So a crowd of embeddings that are equal, or nearly so, costs little: its best one is the partner of
all of it. Visitors of a cell and its members are compared once, in one product of matrices, whichever of two is the worse one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import Flags, Floats, Places, normalised, widened

ASKED: Final = 128
"""Partners at once: inside such a block nobody is left out for being better."""
_ASKING: Final = 4096  # rows at once: 8 MB of products
_GATHERED: Final = 4096  # pairs at once: 25 MB of vectors of 768 dimensions
_LOSS: Final = 3e-5
"""What float32 may lose in half a squared distance of vectors of a length up to 1, projected on 192 directions: 194 roundings of
2^-24, and as much again for those of the projections."""
_ROUNDING: Final = 1e-12
"""What float64 may lose in a similarity: 1e-16 for each of some hundred products, and as much in the lengths."""
_EQUAL: Final = np.float32(1 - 1e-6)


class Who(NamedTuple):
    """Who asks, and who answers: (N,) of a bucket's rows each."""

    asks: Flags
    answers: Flags


@dataclass(frozen=True)
class Bucket:
    """Rows of a bucket, the best one first.

    Attributes:
        vectors: (N, D) float16.
        points: (N, M) their projection, of a length up to 1.
        first: In how many of these directions all pairs are compared; those that are near there are compared in the others too.
    """

    vectors: npt.NDArray[np.float16]
    points: Floats
    first: int


class Meeting(NamedTuple):
    """Which rows of a bucket meet in a cell, by ascending places: visitors meet members, and members each other.

    Attributes:
        members: Of those at home in it.
        visitors: Of the others.
        met: Whether the members have met each other before.
    """

    members: Places
    visitors: Places
    met: bool = False


class Partners(NamedTuple):
    """(E,) places of rows that have a partner, (E,) places of these, (E,) similarities, and how many pairs were compared."""

    row: Places
    of: Places
    similarity: Floats
    comparisons: int


def best_partners(
    bucket: Bucket, eps: float, meetings: Iterable[Meeting], who: Who, known: Places | None = None
) -> Partners:
    """For each row that asks, the first row before it that answers, meets it, and has a similarity of at least 1 - eps.

    Args:
        bucket: (N,) rows.
        eps: See above.
        meetings: Of rows.
        who: Who asks whom.
        known: (N,) of partners that rows have from earlier meetings: how many rows are better than such a one, N without one.
    """
    search = _Search(bucket, eps, who, known)
    for members, visitors, met in meetings:
        if not met:
            search.meet(members, members)
        search.meet_both(visitors, members)
    row = np.flatnonzero(search.of < (len(search.of) if known is None else known))
    of = search.of[row]
    similarity = similarities(bucket.vectors, row, bucket.vectors, of).astype(np.float32)
    similarity[similarity > _EQUAL] = 1
    return Partners(row, of, similarity, search.comparisons)


class _Search:
    """Rows, and the best partner of each so far: the lowest place, N without one."""

    def __init__(self, bucket: Bucket, eps: float, who: Who, known: Places | None) -> None:
        self._vectors, self._eps, self._who = bucket.vectors, eps, who
        self._all = bool(who.asks.all() and who.answers.all())
        self._lengths = _lengths(bucket.vectors)
        first = bucket.points[:, : bucket.first]
        half = (first.astype(np.float64) ** 2).sum(axis=1, keepdims=True).astype(np.float32) / 2
        # With the last two swapped in one of two rows, their product is minus half their squared distance.
        self._points = np.concatenate([first, -half, np.ones_like(half)], axis=1)
        self._more = bucket.points[:, bucket.first :]
        self._least = np.float32(-eps - _LOSS)
        self.of: Places = np.full(len(half), len(half), np.int64) if known is None else known.copy()
        self.comparisons = 0

    def meet(self, asking: Places, answering: Places) -> None:
        """Rows ask others that are better, ascending both."""
        asking, answering = asking[self._who.asks[asking]], answering[self._who.answers[answering]]
        for block in range(0, len(answering), ASKED):
            of = answering[block : block + ASKED]
            asking = asking[self._still_ask(asking, of[0])]
            for some in range(0, len(asking), _ASKING):
                self._ask(asking[some : some + _ASKING], of, False)

    def meet_both(self, first: Places, second: Places) -> None:
        """Rows and others, which are no rows of these, ascending both: whichever of two is worse asks."""
        if not self._all:
            self.meet(first, second)
            self.meet(second, first)
            return
        for block in range(0, len(second), ASKED):
            for some in range(0, len(first), _ASKING):
                self._meet_some(first[some : some + _ASKING], second[block : block + ASKED])

    def _meet_some(self, row: Places, of: Places) -> None:
        """See `meet_both`: those who ask, and who may be asked, all at once, unless this takes more than each way by itself."""
        rows_ask, ofs_ask = self._still_ask(row, of[0]), self._still_ask(of, row[0])
        asking, others = row[rows_ask], of[ofs_ask]
        rows = row[rows_ask | (row < others.max(initial=0))]
        ofs = of[ofs_ask | (of < asking.max(initial=0))]
        if len(rows) * len(ofs) > len(asking) * len(of) + int(np.searchsorted(row, others).sum()):
            self.meet(asking, of)
            self.meet(others, row)
        elif len(rows):
            self._ask(rows, ofs, True)

    def _still_ask(self, row: Places, best: int) -> Flags:
        """Which of rows ask others, of which the best is told: those that are worse, and have no better partner."""
        found: Flags = (row > best) & (self.of[row] > best)
        return found

    def _ask(self, row: Places, of: Places, both: bool) -> None:
        """Compares rows with others, ascending both: rows ask, or whichever of two is the worse."""
        self.comparisons += len(row) * len(of)
        others = self._points[of]
        others[:, [-2, -1]] = others[:, [-1, -2]]
        products = self._points[row] @ others.T
        near = products >= self._least
        at, to = np.divmod(np.flatnonzero(near), len(of))  # of few in many: a tenth of the time of np.nonzero
        asking, asked = row[at], of[to]
        if both:
            asking, asked = np.maximum(asking, asked), np.minimum(asking, asked)
        wanted = np.flatnonzero((asked < asking) & (asked < self.of[asking]))
        nearer = wanted[self._near_in_more(products[at[wanted], to[wanted]], asking[wanted], asked[wanted])]
        if len(nearer) > 4 * (len(row) + len(of)):
            self._ask_all(row, of, near, both)
            return
        for start in range(0, len(nearer), _GATHERED):
            some = nearer[start : start + _GATHERED]
            good = some[self._near(asking[some], asked[some])]
            np.minimum.at(self.of, asking[good], asked[good])

    def _near_in_more(self, products: Floats, row: Places, of: Places) -> Flags:
        """Which of (P,) pairs are near in the other directions too, by minus half their squared distances in the first ones."""
        near = np.ones(len(row), np.bool_)
        for start in range(0, len(row) if self._more.shape[1] else 0, _GATHERED):
            some = slice(start, start + _GATHERED)
            apart = self._more[row[some]] - self._more[of[some]]
            near[some] = products[some] - np.einsum("ij,ij->i", apart, apart) / 2 >= self._least
        return near

    def _near(self, row: Places, of: Places) -> Flags:
        """Which of (P,) pairs have the similarity, in float32 where that is sure, which takes a fourth of the time."""
        left, right = widened(self._vectors[row]), widened(self._vectors[of])
        similarity = np.einsum("ij,ij->i", left, right) / (self._lengths[row] * self._lengths[of])
        least = 1 - self._eps - _ROUNDING
        near: Flags = similarity >= least
        # Twice what near_matrix allows, for the lengths.
        unsure = np.flatnonzero(np.abs(similarity - least) <= left.shape[1] * 2.0**-22)
        near[unsure] = is_near(similarities(self._vectors, row[unsure], self._vectors, of[unsure]), self._eps)
        return near

    def _ask_all(self, row: Places, of: Places, near: Flags, both: bool) -> None:
        """Many pairs are near in the projection: all dimensions of all are compared at once."""
        _, good = near_matrix(self._vectors[row], self._vectors[of], self._eps)
        good &= near
        self._take(row, of, good)
        if both:
            self._take(of, row, good.T)

    def _take(self, row: Places, of: Places, good: Flags) -> None:
        """Rows take the first better one of those that are near them."""
        good = good & (of[None, :] < row[:, None])
        first = good.argmax(axis=1)
        found = good[np.arange(len(row)), first]
        self.of[row[found]] = np.minimum(self.of[row[found]], of[first[found]])


def _lengths(vectors: npt.NDArray[np.float16]) -> Floats:
    """The lengths of (N, D) vectors, at least 1e-12; float32."""
    found = np.zeros(len(vectors), np.float32)
    for start in range(0, len(vectors), _GATHERED):
        some = widened(vectors[start : start + _GATHERED])
        found[start : start + len(some)] = np.sqrt(np.einsum("ij,ij->i", some, some))
    return np.maximum(found, np.float32(1e-12))


def similarities(
    left: npt.NDArray[np.float16], row: Places, right: npt.NDArray[np.float16], column: Places
) -> npt.NDArray[np.float64]:
    """The cosine similarities of pairs, (P,), as float64 gives them for the numbers that float16 holds."""
    found = np.zeros(len(row), np.float64)
    for start in range(0, len(row), _GATHERED):
        some = slice(start, start + _GATHERED)
        first, second = _exact(left[row[some]]), _exact(right[column[some]])
        found[some] = (first * second).sum(axis=1)
    return found


def is_near(similarity: npt.NDArray[Any], eps: float) -> Flags:
    """Says which similarities, in float64, are at least 1 - eps."""
    near: Flags = similarity >= 1 - eps - _ROUNDING
    return near


def near_matrix(left: npt.NDArray[np.float16], right: npt.NDArray[np.float16], eps: float) -> tuple[Floats, Flags]:
    """Compares (N, D) with (M, D) embeddings.

    In float32 a vector's similarity to itself may come out as 0.9999999, and does for every fourth vector or so, another
    fourth with each kernel of BLAS. So what is as near the limit as rounding reaches is computed again in float64, from the
    embeddings as they are: to make them of length 1 in float32 moves a similarity by 1e-8, and one at the limit to either side.

    Returns:
        (N, M) cosine similarities, and where they are at least 1 - eps.
    """
    least = 1 - eps - _ROUNDING
    similarity = normalised(left) @ normalised(right).T
    # Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1: D roundings of 2^-24 in whatever
    # order, and as much again for those of the vectors.
    unsure = np.abs(similarity - np.float32(least)) <= np.float32(left.shape[1] * 2.0**-23)
    rows, columns = np.flatnonzero(unsure.any(axis=1)), np.flatnonzero(unsure.any(axis=0))
    near = similarity >= np.float32(least)
    if len(rows):
        exact = _exact(left[rows]) @ _exact(right[columns]).T
        place = np.ix_(rows, columns)
        similarity[place], near[place] = exact, is_near(exact, eps)
    return similarity, near


def _exact(vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    """(N, D) with lengths of 1 to the last bits."""
    wide = widened(vectors).astype(np.float64)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return wide
