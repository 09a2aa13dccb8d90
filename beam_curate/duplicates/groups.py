"""Groups of duplicates: the trees that the edges make, each with its root, the row that is kept."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import FOREIGN, firsts
from beam_curate.duplicates.edges import Edges, best_edges

MEMBER: Final = np.dtype(
    [
        ("row", "<u8"),
        ("group", "<u8"),
        ("place", "<i4"),
        ("of", "<u8"),
        ("method", "u1"),
        ("similarity", "<f4"),
    ]
)
Members = npt.NDArray[np.void]
"""(M,) of MEMBER: a row that is in a group of two or more. `group` is the id of its root, `place` its place from the best, 0, to
the worst; the root is a duplicate `of` itself, and its method and similarity mean nothing."""


def resolve(edges: Edges) -> Members:
    """The members of all groups of ours, by row.

    Each row has at most one edge here, to a better one, so following them ends at a row that has none. Rows of the other dataset
    are roots only, and are no members. Memory: about 200 bytes an edge.
    """
    best = best_edges(edges)
    rows, first = np.unique(np.concatenate([best["row"], best["of"]]), return_index=True)
    ranks = np.concatenate([best["row_rank"], best["of_rank"]])[first]
    own = np.searchsorted(rows, best["row"])
    parent = np.arange(len(rows))
    parent[own] = np.searchsorted(rows, best["of"])
    root = parent
    while True:
        following = root[root]
        if np.array_equal(following, root):
            break
        root = following
    members = np.zeros(len(rows), MEMBER)
    members["row"], members["group"], members["of"] = rows, rows[root], rows[parent]
    members["similarity"] = 1
    members["method"][own], members["similarity"][own] = best["method"], best["similarity"]
    members["place"] = _places(members, ranks)
    return members[(rows & FOREIGN) == 0]


def _places(members: Members, ranks: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Each member's place in its group, best first."""
    order = np.lexsort((members["row"], ~ranks, members["group"]))
    group = members["group"][order]
    start = firsts(group)
    first = np.flatnonzero(start)[np.cumsum(start) - 1]
    places = np.zeros(len(group), np.int64)
    places[order] = np.arange(len(group)) - first
    return places
