"""Rows with an embedding: they come in pieces, and are put in order once, so that a bucket lies twice in memory and no more.

An embedding is some hundred times as long as the rest of its row. So the rest is put in order first, and each embedding is then
copied once, from its piece to its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import Flags, Places, Rows, firsts

_HEAD: Final = [("id", "<u8"), ("rank", "<u8"), ("cell", "<i4")]
_COPIED: Final = 4096  # rows at once: 6 MB of 768 dimensions


def vector_row(dim: int) -> np.dtype[Any]:
    """The record of a row: id, rank, its home cell, see `cells`, and the vector, (dim,) float16."""
    return np.dtype([*_HEAD, ("vector", "<f2", (dim,))])


@dataclass(frozen=True)
class Ordered:
    """Rows from the best one to the worst one, each id once.

    Attributes:
        heads: (N,) the rows without their vectors.
        vectors: (N, D) float16.
        asks: (N,) which of them ask.
        answers: (N,) which of them answer.
    """

    heads: Rows
    vectors: npt.NDArray[np.float16]
    asks: Flags
    answers: Flags


def in_order(asking: Sequence[Rows], answering: Sequence[Rows], dim: int) -> Ordered:
    """Puts rows in order; where the same pieces ask and answer they are read once.

    Args:
        asking: Pieces of those that ask.
        answering: Pieces of those that answer; a row may be in both.
        dim: D.
    """
    pieces = [*asking] if asking is answering else [*asking, *answering]
    heads = np.zeros(sum(map(len, pieces)), np.dtype(_HEAD))
    asks, answers = np.zeros(len(heads), np.bool_), np.zeros(len(heads), np.bool_)
    asks[: sum(map(len, asking))] = True
    answers[len(heads) - sum(map(len, answering)) :] = True
    start = 0
    for piece in pieces:
        for name, _ in _HEAD:
            heads[name][start : start + len(piece)] = piece[name]
        start += len(piece)
    order = np.lexsort((heads["id"], ~heads["rank"]))
    once = firsts(heads["id"][order])
    row = np.cumsum(once) - 1  # a row of both is there twice, one after the other
    found = Ordered(
        heads[order[once]], np.empty((int(once.sum()), dim), np.float16), *_flags(row, asks[order], answers[order])
    )
    place = np.empty(len(order), np.int64)
    place[order] = row
    _copy(pieces, place, found.vectors)
    return found


def _flags(row: Places, *flags: Flags) -> list[Flags]:
    """Whether a row or its twin has each flag."""
    count = int(row[-1]) + 1 if len(row) else 0
    return [np.bincount(row[flag], minlength=count) > 0 for flag in flags]


def _copy(pieces: Sequence[Rows], place: Places, vectors: npt.NDArray[np.float16]) -> None:
    start = 0
    for piece in pieces:
        for first in range(0, len(piece), _COPIED):
            some = piece["vector"][first : first + _COPIED]
            vectors[place[start : start + len(some)]] = some
            start += len(some)
