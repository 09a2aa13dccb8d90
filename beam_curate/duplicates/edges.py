"""Edges: a row, and a better one that it is a duplicate of."""

from typing import Final

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import FOREIGN, Flags, Places, Rows, firsts

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
"""(E,) of EDGE; ids and ranks as in `candidates`, the method by its place among all, similarity 1 for equal ones."""


def no_edges() -> Edges:
    """None."""
    return np.zeros(0, EDGE)


def edges_between(rows: Rows, row: Places, of: Places, similarity: npt.NDArray[np.float32] | float = 1.0) -> Edges:
    """Edges from rows to better ones, both by their places; the method is still to be said.

    Args:
        rows: (N,)
        row: (E,) places.
        of: (E,) places of what they are duplicates of.
        similarity: (E,)
    """
    edges = np.zeros(len(row), EDGE)
    edges["row"], edges["row_rank"] = rows["id"][row], rows["rank"][row]
    edges["of"], edges["of_rank"] = rows["id"][of], rows["rank"][of]
    edges["similarity"] = similarity
    return edges


def best_edges(edges: Edges) -> Edges:
    """One edge for each row, by row: of the surest method, to the best partner that it found."""
    order = np.lexsort((-edges["similarity"], edges["of"], ~edges["of_rank"], edges["method"], edges["row"]))
    ordered = edges[order]
    return ordered[firsts(ordered["row"])]


def partners_places(rows: Rows, edges: Edges) -> Places:
    """Of (N,) rows, the best one first, how many are better than the partner that one has by edges, one a row; N without one.

    Rows and partners need not be among both.
    """
    ids, ranks = np.append(edges["of"], rows["id"]), np.append(edges["of_rank"], rows["rank"])
    order = np.lexsort((ids, ~ranks))
    better = np.empty(len(order), np.int64)
    better[order] = np.cumsum(order >= len(edges))
    by_row = np.argsort(edges["row"])
    found = np.full(len(rows), len(rows), np.int64)
    place = np.searchsorted(edges["row"][by_row], rows["id"])
    has = np.flatnonzero(place < len(edges))
    has = has[edges["row"][by_row[place[has]]] == rows["id"][has]]
    found[has] = better[by_row[place[has]]]
    return found


def may_be_removed(rows: Rows) -> Flags:
    """Says which rows are of our dataset: those of the other one are never duplicates."""
    return (rows["id"] & FOREIGN) == 0


def may_stand(rows: Rows, between: bool) -> Flags:
    """Says which rows others may be duplicates of.

    Args:
        rows: (N,)
        between: Duplicates are looked for between the two datasets only.
    """
    return ~may_be_removed(rows) if between else np.ones(len(rows), np.bool_)
