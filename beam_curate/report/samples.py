"""The samples that a report shows: near each threshold, at the ends of each score, by chance, and those that failed."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from beam_curate.records import FAILED, KEPT, REJECTED
from beam_curate.report.table import RANDOM, Found, Group, read_details
from beam_curate.runs.table_parts import TablePlace
from beam_curate.scores.rules import Rule
from beam_curate.threads import in_threads

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
        rows: The same with all that is shown of them, when that is read.
    """

    title: str
    column: str
    ascending: bool
    status: str = ""
    low: float = -math.inf
    high: float = math.inf
    size: int = MAX_IMAGES_EACH
    ranked: list[tuple[_Rank, Found]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

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


@dataclass
class Failures:
    """The first failed samples of each reason, in the order of the input.

    Attributes:
        counts: Failed samples by reason.
        found: Those that may be shown.
        rows: Those that are shown, when that is read.
    """

    counts: dict[str, int] = field(default_factory=dict)
    found: dict[str, list[Found]] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)

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


def read_shown(table: TablePlace, galleries: Iterable[Gallery], failures: Failures) -> None:
    """Reads what is shown of the samples: of their parts alone, and there of their row groups."""
    galleries, failed = list(galleries), failures.shown
    wanted: dict[int, dict[int, Found]] = {}
    for found in [*(found for gallery in galleries for _, found in gallery.ranked), *itertools.chain(*failed.values())]:
        wanted.setdefault(found.shard_index, {})[found.place] = found

    def read(shard_index: int) -> list[tuple[tuple[int, int], Row]]:
        some = [found for _, found in sorted(wanted[shard_index].items())]
        details = read_details(table, shard_index, DETAILS, [found.place for found in some])
        return [
            ((shard_index, found.place), make_row(found, detail)) for found, detail in zip(some, details, strict=True)
        ]

    rows = {place: row for some in in_threads(read, sorted(wanted)) for place, row in some}
    for gallery in galleries:
        gallery.rows = [rows[found.shard_index, found.place] for _, found in gallery.ranked]
    for reason, several in failed.items():
        failures.rows[reason] = [rows[found.shard_index, found.place] for found in several]


def make_row(found: Found, detail: dict[str, Any], other: bool = False) -> Row:
    """A row that is shown.

    Args:
        found: The row.
        detail: Its DETAILS.
        other: See Place.
    """
    image = next((member for member in detail["members"] if member["suffix"] == detail["image"]), None)
    return Row(
        key=detail["key"],
        shard=detail["shard"],
        shard_index=found.shard_index,
        index=found.row_index,
        status=found.status,
        reason=found.reason,
        step=detail["step"] or "",
        message=(detail["error_message"] or "")[:_TEXT],
        caption=(detail["caption"] or "")[:_TEXT],
        width=detail["width"] or 0,
        height=detail["height"] or 0,
        image=detail["image"] or "",
        offset=image["offset"] if image else 0,
        size=image["size"] if image else -1,
        sha256=detail["sha256"] or "",
        values=found.values,
        other=other,
    )
