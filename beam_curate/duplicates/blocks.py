"""Large buckets, in blocks of rows that ask and of rows that answer.

All rows of the bucket ask its best ones first, as the rows stream by. Who finds a partner there asks no more: all others are
worse. So of a crowd that is alike, however large it is, nearly none is left. Those left are cut into blocks, from the best to
the worst, and so are all rows, as those that answer; a block asks those alone that begin with a better row than its worst. A
bucket of R rows of which U are left, in blocks of B, is compared as at most ceil(U / B) * ceil(R / B) pairs of blocks, about half
of these where all are left. In memory are 16 bytes for each of its rows.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import Flags, Rows, best_first
from beam_curate.duplicates.edges import may_be_removed, may_stand
from beam_curate.duplicates.method import Compared, Method

LEADERS: Final = 1024
"""The best rows of a bucket, which all ask."""
_KEY: Final = np.dtype([("rank", "<u8"), ("id", "<u8")])
Keys = npt.NDArray[np.void]
"""(R,) ranks and ids of rows, which order them."""


class Block(NamedTuple):
    """Rows of a pair of blocks: the numbers of the one that asks and of the one that answers, and of which of both they are."""

    asking: int
    answering: int
    answers: bool
    rows: Rows


class Led(NamedTuple):
    """What came of asking the leaders, and the keys of the rows that are left."""

    found: Compared
    left: Keys


def leaders(pieces: Iterable[Rows], between: bool) -> Rows:
    """The best rows of a bucket that others may be duplicates of."""
    best: list[Rows] = []
    for piece in pieces:
        best = [best_first(np.concatenate([*best, piece[may_stand(piece, between)]]))[:LEADERS]]
    return best[0]


def asked(method: Method, bucket: int, piece: Rows, best: Rows, comparing: Any) -> Led:
    """Lets rows of a bucket ask its leaders."""
    asking = piece[may_be_removed(piece)]
    found = method.compare_blocks(bucket, asking, best, comparing)
    return Led(found, keys(asking[~np.isin(asking["id"], found.edges["row"])]))


def keys(rows: Rows) -> Keys:
    """The keys of rows."""
    found = np.zeros(len(rows), _KEY)
    found["rank"], found["id"] = rows["rank"], rows["id"]
    return found


def pairs_of_blocks(pieces: Iterable[Rows], left: Keys, answering: Keys, size: int, between: bool) -> Iterator[Block]:
    """Cuts a bucket.

    Args:
        pieces: Its rows.
        left: (U,) the keys of rows that still ask; a row of several faces may be there several times.
        answering: (A,) the keys of rows that may answer.
        size: Rows of a block.
        between: See `may_stand`.
    """
    left, answering = best_first(left), best_first(answering)
    pairs = _pairs(left, answering, size)
    asking = np.sort(left["id"])
    for piece in pieces:
        still = piece[may_be_removed(piece) & _among(piece["id"], asking)]
        for one, rows in _cut(still, left[::size]):
            for other in np.flatnonzero(pairs[one]).tolist():
                yield Block(one, other, False, rows)
        for other, rows in _cut(piece[may_stand(piece, between)], answering[::size]):
            for one in np.flatnonzero(pairs[:, other]).tolist():
                yield Block(one, other, True, rows)


def _pairs(left: Keys, answering: Keys, size: int) -> Flags:
    """(blocks that ask, blocks that answer): whether some row has a better one to ask."""
    worst = left[np.minimum(np.arange(size - 1, len(left) + size - 1, size), len(left) - 1)]
    best = answering[::size]
    found: Flags = best["rank"][None, :] > worst["rank"][:, None]
    found |= (best["rank"][None, :] == worst["rank"][:, None]) & (best["id"][None, :] < worst["id"][:, None])
    return found


def _cut(rows: Rows, cuts: Keys) -> Iterator[tuple[int, Rows]]:
    """Rows by their block, by its number; the blocks begin with `cuts`."""
    number = np.zeros(len(rows), np.int64)
    for cut in cuts[1:]:
        later = (rows["rank"] == cut["rank"]) & (rows["id"] >= cut["id"])
        number += (rows["rank"] < cut["rank"]) | later
    for block in np.unique(number).tolist():
        yield block, rows[number == block]


def _among(ids: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64]) -> Flags:
    """Says which ids are among known ones, ascending."""
    if not len(known):
        return np.zeros(len(ids), np.bool_)
    found: Flags = known[np.minimum(np.searchsorted(known, ids), len(known) - 1)] == ids
    return found
