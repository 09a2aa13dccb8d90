"""The root of each row that has an edge, found in rounds: in each, all rows follow their edges twice as far.

A row's pointer leads to what it is a duplicate of, and in the end to its root, the row that has no edge. In a round each row
asks where the row leads that its own pointer leads to, and takes the answer for its new pointer: after k rounds it is 2^k edges
ahead, or at its root. Inside a part what is asked is answered to the end of the chain at once: only steps between parts count.

Source: Wyllie, The Complexity of Parallel Computations, 1979 (pointer jumping).
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import by_part, part_of
from beam_curate.duplicates.edges import Edges

ROUNDS: Final = 12
"""The first may follow a chain to the end of its part only, and the last finds that it is at the root: between them are 2^10."""
_STEPS: Final = 1 << (ROUNDS - 2)

POINTER: Final = np.dtype([("row", "<u8"), ("to", "<u8"), ("done", "?"), ("asks", "?")])
Pointers = npt.NDArray[np.void]
"""(P,) of POINTER: `to` is the root if it is `done`; one that `asks` is for the part of `to`, any other for that of `row`."""


class UnfinishedError(RuntimeError):
    """Roots that were not found in ROUNDS rounds."""


def first_pointers(edges: Edges) -> Pointers:
    """From each row to what it is a duplicate of."""
    pointers = np.zeros(len(edges), POINTER)
    pointers["row"], pointers["to"] = edges["row"], edges["of"]
    return pointers


def send(pointers: Pointers) -> Iterator[tuple[int, Pointers]]:
    """To each part the pointers of its rows, and the questions of rows that lead to one of them."""
    yield from by_part(pointers, "row")
    asking = pointers[~pointers["done"]].copy()
    asking["asks"] = True
    yield from by_part(asking, "to")


def follow(received: Pointers) -> Pointers:
    """A round in one part.

    Args:
        received: All that was sent to it.

    Returns:
        The new pointers of rows that asked, and those of its own rows that are done.
    """
    own = received[~received["asks"]]
    own = own[np.argsort(own["row"])]
    asking = received[received["asks"]]
    to, done = _to_the_ends(own)
    place, there = _find(own["row"], asking["to"])
    answers = asking.copy()
    answers["asks"] = False
    answers["to"] = np.where(there, to[place], asking["to"]) if len(own) else asking["to"]
    # Who leads to a row without a pointer has found the root.
    answers["done"] = np.where(there, done[place], True) if len(own) else True
    # The others' new pointers come from where they have asked.
    return np.concatenate([own[own["done"]], answers])


def finished(received: Pointers) -> Pointers:
    """The pointers of a part's rows, by row, which lead to their roots.

    Raises:
        UnfinishedError: Some do not.
    """
    own = received[~received["asks"]]
    if not own["done"].all():
        raise UnfinishedError(
            f"{int((~own['done']).sum())} duplicates of a part are in chains that lead through more than {_STEPS:,} parts of "
            "the table: a smaller `eps` or `max_distance` makes shorter chains"
        )
    return own[np.argsort(own["row"])]


def _to_the_ends(own: Pointers) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Where pointers lead if those of the same part are followed as far as they go, and whether that is the root."""
    if not len(own):
        return own["to"], own["done"]
    place, there = _find(own["row"], own["to"])
    following = np.where(there, place, np.arange(len(own)))
    while True:
        further = following[following]
        if np.array_equal(further, following):
            break
        following = further
    to = own["to"][following]
    return to, own["done"][following] | (part_of(to) == part_of(own["row"][:1]))


def _find(
    rows: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The places of ids among sorted ones, and whether they are there."""
    place = np.minimum(np.searchsorted(rows, wanted), max(len(rows) - 1, 0))
    return place, (rows[place] == wanted) if len(rows) else np.zeros(len(wanted), np.bool_)
