"""Edges: a row, and a better one that it is a duplicate of."""

from typing import Final

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import FOREIGN, Ids, better, firsts

METHODS: Final = ("exact", "pixels", "perceptual", "semantic")
"""How a duplicate was found, surest first: the number of a method is its place here."""

EDGE: Final = np.dtype(
    [
        ("row", "<u8"),
        ("row_rank", "<u8"),
        ("of", "<u8"),
        ("of_rank", "<u8"),
        ("method", "u1"),
        ("similarity", "<f4"),
    ]
)
Edges = npt.NDArray[np.void]
"""(E,) of EDGE; ids and ranks as in `candidates`, similarity 1 for equal ones."""


def no_edges() -> Edges:
    """None."""
    return np.zeros(0, EDGE)


def make_edges(
    row: Ids, row_rank: Ids, of: Ids, of_rank: Ids, method: str, similarity: npt.NDArray[np.float32]
) -> Edges:
    """Edges from arrays; pairs of the other dataset's own rows are left out."""
    edges = np.zeros(len(row), EDGE)
    edges["row"], edges["row_rank"], edges["of"], edges["of_rank"] = row, row_rank, of, of_rank
    edges["method"], edges["similarity"] = METHODS.index(method), similarity
    return edges[(row & FOREIGN) == 0]


def best_edges(edges: Edges) -> Edges:
    """One edge for each row, by row: the surest method, then the highest similarity, then the best partner."""
    order = np.lexsort((edges["of"], ~edges["of_rank"], -edges["similarity"], edges["method"], edges["row"]))
    ordered = edges[order]
    return ordered[firsts(ordered["row"])]


def star_edges(groups: npt.NDArray[np.int64], ids: Ids, ranks: Ids, method: str, between: bool) -> Edges:
    """Edges of rows that are all alike: from each to the best one of its group.

    Args:
        groups: (N,) a number for each group.
        ids: (N,)
        ranks: (N,)
        method: How they were found to be alike.
        between: Only to rows of the other dataset.
    """
    order = np.lexsort((ids, ~ranks, groups))
    groups, ids, ranks = groups[order], ids[order], ranks[order]
    first = firsts(groups)
    best = np.flatnonzero(first)[np.cumsum(first) - 1]
    rest = ~first & ((ids[best] & FOREIGN) != 0) if between else ~first
    row, of = np.flatnonzero(rest), best[rest]
    return make_edges(ids[row], ranks[row], ids[of], ranks[of], method, np.ones(len(row), np.float32))


def pair_edges(
    first: tuple[Ids, Ids], second: tuple[Ids, Ids], method: str, similarity: npt.NDArray[np.float32], between: bool
) -> Edges:
    """Edges of pairs, from the worse to the better one; a row is no pair with itself.

    Args:
        first: (P,) ids and (P,) ranks.
        second: Likewise.
        method: How they were found.
        similarity: (P,)
        between: Only pairs of our rows with rows of the other dataset.
    """
    wanted = first[0] != second[0]
    if between:
        wanted &= (first[0] & FOREIGN) != (second[0] & FOREIGN)
    a, a_rank, b, b_rank = first[0][wanted], first[1][wanted], second[0][wanted], second[1][wanted]
    up = better(b_rank, b, a_rank, a)
    return make_edges(
        np.where(up, a, b),
        np.where(up, a_rank, b_rank),
        np.where(up, b, a),
        np.where(up, b_rank, a_rank),
        method,
        similarity[wanted],
    )
