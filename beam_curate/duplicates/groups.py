"""Groups of duplicates: the trees that the edges make, each with its root, the row that is kept."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import FOREIGN, firsts
from beam_curate.duplicates.edges import Edges
from beam_curate.duplicates.roots import Pointers

MEMBER: Final = np.dtype(
    [
        ("row", "<u8"),
        ("rank", "<u8"),
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

LARGEST: Final = 12
"""Groups that are shown."""
SHOWN: Final = 6
"""Samples of each that are shown, the best ones."""


class Group(NamedTuple):
    """A group: the number of its members, its root, and some of its members."""

    size: int
    root: int
    samples: bytes

    @property
    def members(self) -> Members:
        """These members, best first."""
        return np.frombuffer(self.samples, MEMBER)


@dataclass(frozen=True)
class GroupCounts:
    """What is told of groups: how many there are, and the largest ones, these first."""

    groups: int = 0
    largest: tuple[Group, ...] = ()

    @staticmethod
    def sum(counts: "Iterable[GroupCounts]") -> "GroupCounts":
        """Of all groups together, in whatever order they come."""
        groups = 0
        largest: list[Group] = []
        for one in counts:
            groups += one.groups
            largest = largest_of([*largest, *one.largest])
        return GroupCounts(groups, tuple(largest))


def largest_of(groups: list[Group]) -> list[Group]:
    """The largest ones; of two of a size the one of the lower root is first."""
    return sorted(groups, key=lambda group: (-group.size, group.root))[:LARGEST]


def with_roots(edges: Edges, pointers: Pointers) -> Members:
    """The rows of a part that have an edge, as members whose place is not known yet.

    Args:
        edges: (E,) one a row, by row.
        pointers: (E,) to their roots, by row.
    """
    if not np.array_equal(edges["row"], pointers["row"]):
        raise RuntimeError("roots were found of other rows than those that have an edge")
    members = np.zeros(len(edges), MEMBER)
    for name in ("row", "of", "method", "similarity"):
        members[name] = edges[name]
    members["rank"], members["group"] = edges["row_rank"], pointers["to"]
    return members


def complete_groups(members: Members) -> tuple[Members, GroupCounts]:
    """The members of whole groups with their places, their roots among them where they are of ours; and what is told of these.

    Args:
        members: (M,) all members of some groups but the roots.
    """
    members = members[np.lexsort((members["row"], ~members["rank"], members["group"]))]
    first = firsts(members["group"])
    starts = np.flatnonzero(first)
    members["place"] = 1 + np.arange(len(members)) - np.repeat(starts, np.diff(np.append(starts, len(members))))
    roots = np.zeros(len(starts), MEMBER)
    for name in ("row", "group", "of"):
        roots[name] = members["group"][starts]
    roots["similarity"] = 1
    every = np.concatenate([roots[(roots["row"] & FOREIGN) == 0], members])
    return every, _counts(every)


def _counts(members: Members) -> GroupCounts:
    groups, sizes = np.unique(members["group"], return_counts=True)
    order = np.lexsort((groups, -sizes))[:LARGEST]
    largest = []
    for group, size in zip(groups[order].tolist(), sizes[order].tolist(), strict=True):
        shown = members[members["group"] == group]
        shown = shown[shown["place"] < SHOWN]
        largest.append(Group(size, group, shown[np.argsort(shown["place"])].tobytes()))
    return GroupCounts(len(groups), tuple(largest))
