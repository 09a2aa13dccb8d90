"""The samples that a report shows: near each threshold, at the ends of each score, by chance, and those that failed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from beam_curate.records import FAILED, KEPT, REJECTED
from beam_curate.report.table import RANDOM, Found, Group, Place
from beam_curate.scores.rules import Rule

MAX_IMAGES: Final = 96
"""Pictures that are seen without a script."""
MAX_IMAGES_EACH: Final = 6
MAX_FAILURES: Final = 20
"""Failed samples that are shown of each reason."""
MAX_REASONS: Final = 40
"""Reasons of which failed samples are shown; there are fewer, unless someone adds some."""


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
    ranked: list[tuple[_Rank, Found]] = field(default_factory=list)

    @property
    def places(self) -> list[Place]:
        """Where the samples are, in order."""
        return [found.at for _, found in self.ranked]

    def look(self, group: Group) -> None:
        """Takes in the rows of a group that are among the first."""
        values = group.values[self.column]
        wanted = np.isfinite(values) & (values >= self.low) & (values < self.high)
        wanted &= group.statuses[self.status] if self.status else ~group.statuses[FAILED]
        where = np.flatnonzero(wanted)
        order = values[where] if self.ascending else -values[where]
        if len(where) > self.size:
            least = np.partition(order, self.size - 1)[self.size - 1]
            where, order = where[order <= least], order[order <= least]
        for at in np.lexsort((group.row_index[where], order))[: self.size].tolist():
            found = group.found(int(where[at]))
            self.ranked.append((_Rank(float(order[at]), found.shard_index, found.row_index), found))
        self.merge(())

    def merge(self, ranked: Iterable[tuple[_Rank, Found]]) -> None:
        """Takes in those that are among the first."""
        self.ranked = sorted([*self.ranked, *ranked], key=lambda each: each[0])[: self.size]


def make_galleries(columns: Sequence[str], deciding: Sequence[str], thresholds: Iterable[Rule]) -> list[Gallery]:
    """The galleries of a report, empty, lower values first; together they hold at most MAX_IMAGES samples.

    Args:
        columns: All columns.
        deciding: Those that decide: their galleries are full, the others share what is left.
        thresholds: The rules with a number.
    """
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
    found += [Gallery("Kept", RANDOM, True, KEPT), Gallery("Rejected", RANDOM, True, REJECTED)]
    for score in sorted(columns, key=lambda name: name not in deciding):
        found += [Gallery(f"Lowest {score}", score, True), Gallery(f"Highest {score}", score, False)]
    first = sum(gallery.column in ("", *deciding) for gallery in found)
    room = MAX_IMAGES
    for number, gallery in enumerate(found):
        share = first - number if number < first else len(found) - number
        gallery.size = min(MAX_IMAGES_EACH, room // share)
        room -= gallery.size
    return [gallery for gallery in found if gallery.size]


@dataclass
class Failures:
    """The first failed samples of each reason, in the order of the input.

    Attributes:
        counts: Failed samples by reason.
        found: Those that may be shown.
    """

    counts: dict[str, int] = field(default_factory=dict)
    found: dict[str, list[Found]] = field(default_factory=dict)

    def look(self, group: Group) -> None:
        """Counts the failed rows of a group, and takes in those that are among the first."""
        failed = np.flatnonzero(group.statuses[FAILED])
        named = np.array([reason or "" for reason in group.reason[failed]], object)
        for reason in sorted(set(named)):
            where = failed[named == reason]
            self._add(reason, len(where), [group.found(int(at)) for at in where[:MAX_FAILURES]])

    def merge(self, other: "Failures") -> None:
        """Takes in what others are."""
        for reason, count in other.counts.items():
            self._add(reason, count, other.found[reason])

    def _add(self, reason: str, count: int, found: Iterable[Found]) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + count
        both = [*self.found.get(reason, ()), *found]
        self.found[reason] = sorted(both, key=lambda each: (each.shard_index, each.place))[:MAX_FAILURES]

    @property
    def shown(self) -> dict[str, list[Found]]:
        """Those of the reasons that come first in the input."""
        first = sorted(self.found, key=lambda reason: (self.found[reason][0].shard_index, self.found[reason][0].place))
        return {reason: self.found[reason] for reason in first[:MAX_REASONS]}
