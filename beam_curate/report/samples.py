"""The samples that a report shows: near each threshold, at the ends of each score, by chance, and those that failed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from beam_curate.records import FAILED, KEPT, REJECTED
from beam_curate.report.table import RANDOM, Group
from beam_curate.scores.rules import Rule

MAX_IMAGES: Final = 60
MAX_IMAGES_EACH: Final = 6
MAX_FAILURES: Final = 20
"""Failed samples that are shown of each reason."""
MAX_REASONS: Final = 40
"""Reasons of which failed samples are shown; there are fewer, unless someone adds some."""

_TEXT: Final = 1000  # characters of a key, caption or message that are held
DETAILS: Final = ("key", "shard", "step", "error_message", "caption", "width", "height", "image", "sha256", "members")
"""What is read of a row that is shown, beside what a group of rows has."""


class Place(NamedTuple):
    """What tells a row from all others: its shard's index, its index in the shard, and whether it is of another dataset."""

    shard_index: int
    row_index: int
    other: bool = False


@dataclass(frozen=True)
class Row:
    """A row of the score table that is shown; `offset` and `size` are the span of its image member, size -1 if none."""

    key: str
    shard: str
    shard_index: int
    index: int
    status: str
    reason: str
    step: str
    message: str
    caption: str
    width: int
    height: int
    image: str
    offset: int
    size: int
    sha256: str
    values: dict[str, float]
    other: bool = False

    @property
    def place(self) -> Place:
        """What tells it from all other rows."""
        return Place(self.shard_index, self.index, self.other)


class _Rank(NamedTuple):
    order: float
    shard_index: int
    row_index: int


@dataclass
class Gallery:
    """The samples of a status with a value of at least `low` and below `high` that are first in an order.

    Attributes:
        title: What they are.
        column: By which column they are ordered, ties by place in the input.
        ascending: From the lowest value on, or from the highest.
        status: KEPT or REJECTED; empty for both.
        size: How many samples it takes.
        ranked: The samples found, in order, each with what it is ordered by.
    """

    title: str
    column: str
    ascending: bool
    status: str = ""
    low: float = -math.inf
    high: float = math.inf
    size: int = MAX_IMAGES_EACH
    ranked: list[tuple[_Rank, Row]] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """The samples, in order."""
        return [row for _, row in self.ranked]

    def candidates(self, group: "Group") -> list[tuple[_Rank, int]]:
        """The rows of a group that could be among the first, with their position in it."""
        values = group.values[self.column]
        wanted = np.isfinite(values) & (values >= self.low) & (values < self.high) & (group.status != FAILED)
        if self.status:
            wanted &= group.status == self.status
        order = values if self.ascending else -values
        if len(self.ranked) == self.size:
            wanted &= order <= self.ranked[-1][0].order
        where = np.flatnonzero(wanted)
        first = np.lexsort((group.row_index[where], group.shard_index[where], order[where]))[: self.size]
        return [
            (_Rank(float(order[at]), int(group.shard_index[at]), int(group.row_index[at])), int(at))
            for at in where[first]
        ]

    def add(self, rank: _Rank, row: Row) -> None:
        """Takes a row in, if it is among the first."""
        self.ranked = sorted([*self.ranked, (rank, row)], key=lambda ranked: ranked[0])[: self.size]


def make_galleries(scores: Sequence[str], thresholds: Iterable[Rule]) -> list[Gallery]:
    """The galleries of a report, empty, lower values first; together they hold at most MAX_IMAGES samples."""
    found: list[Gallery] = []
    for rule in thresholds:
        if rule.minimum is not None:
            found += [
                Gallery("Just rejected", rule.column, False, REJECTED, high=rule.minimum),
                Gallery("Just kept", rule.column, True, KEPT, low=rule.minimum),
            ]
        if rule.maximum is not None:
            found += [
                Gallery("Just kept", rule.column, False, KEPT, high=rule.maximum),
                Gallery("Just rejected", rule.column, True, REJECTED, low=rule.maximum),
            ]
    for score in scores:
        found += [Gallery(f"Lowest {score}", score, True), Gallery(f"Highest {score}", score, False)]
    found += [Gallery("Kept", RANDOM, True, KEPT), Gallery("Rejected", RANDOM, True, REJECTED)]
    found = found[:MAX_IMAGES]
    for gallery in found:
        gallery.size = min(MAX_IMAGES_EACH, MAX_IMAGES // len(found))
    return found


class Failures:
    """The first failed samples of each reason, in the order in which they are offered."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.rows: dict[str, list[Row]] = {}

    def candidates(self, group: Group) -> list[tuple[str, int]]:
        """Counts the failed rows of a group, and gives those to be shown, with their position in it."""
        found: list[tuple[str, int]] = []
        failed = np.flatnonzero(group.status == FAILED)
        named = np.array([reason or "" for reason in group.reason[failed]], object)
        for reason in sorted(set(named)):
            where = failed[named == reason]
            self.counts[reason] = self.counts.get(reason, 0) + len(where)
            if reason in self.rows or len(self.rows) < MAX_REASONS:
                free = MAX_FAILURES - len(self.rows.setdefault(reason, []))
                found += [(reason, int(at)) for at in where[:free]]
        return found


def choose(galleries: Iterable[Gallery], failures: Failures, group: Group) -> None:
    """Puts the rows of a group where they belong, and reads of these what is shown."""
    picked = [(gallery, found) for gallery in galleries if (found := gallery.candidates(group))]
    failed = failures.candidates(group)
    positions = sorted({at for _, found in picked for _, at in found} | {at for _, at in failed})
    if not positions:
        return
    details = group.details(DETAILS, positions)
    rows = {at: make_row(group, at, detail) for at, detail in zip(positions, details, strict=True)}
    for gallery, found in picked:
        for rank, at in found:
            gallery.add(rank, rows[at])
    for reason, at in failed:
        failures.rows[reason].append(rows[at])


def make_row(group: Group, at: int, detail: dict[str, Any], other: bool = False) -> Row:
    """A row of a group, by its position in it.

    Args:
        group: The group.
        at: The position.
        detail: The row's DETAILS.
        other: See Place.
    """
    image = next((member for member in detail["members"] if member["suffix"] == detail["image"]), None)
    return Row(
        key=detail["key"],
        shard=detail["shard"],
        shard_index=int(group.shard_index[at]),
        index=int(group.row_index[at]),
        status=group.status[at],
        reason=group.reason[at] or "",
        step=detail["step"] or "",
        message=(detail["error_message"] or "")[:_TEXT],
        caption=(detail["caption"] or "")[:_TEXT],
        width=detail["width"] or 0,
        height=detail["height"] or 0,
        image=detail["image"] or "",
        offset=image["offset"] if image else 0,
        size=image["size"] if image else -1,
        sha256=detail["sha256"] or "",
        values={name: float(values[at]) for name, values in group.values.items() if name != RANDOM},
        other=other,
    )
