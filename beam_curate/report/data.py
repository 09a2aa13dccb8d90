"""What a report tells of a score table: exact histograms and a few samples, in bounded memory whatever its size.

A part gives its figures, the figures of parts are merged to those of all, in whatever order; of the rows that are shown then
the longer columns are read. Each part is read once, with a top rule a column of it twice.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from beam_curate import reasons
from beam_curate.records import KEPT, STATUSES, Removed
from beam_curate.report.samples import Failures, Gallery, make_galleries, read_shown
from beam_curate.report.spread import Distribution, Spread
from beam_curate.report.table import read_group, stored_scores
from beam_curate.runs.table_parts import TablePlace
from beam_curate.scores.rules import Rule
from beam_curate.scores.top import Cutoff
from beam_curate.selection.rejudging import Selection
from beam_curate.threads import in_threads

AT_LEAST: Final = "≥"
BELOW: Final = "<"


@dataclass(frozen=True)
class ReportPlan:
    """What a report looks at.

    Attributes:
        selection: The table and what decides: without rules the verdicts in the table count.
        scores: The scores to draw.
        thresholds: The thresholds to draw and to look around.
        top: The column by which the best were taken; empty if they were not. Its lowest kept value is a threshold too.
    """

    selection: Selection
    scores: tuple[str, ...]
    thresholds: tuple[Rule, ...] = ()
    top: str = ""

    @property
    def columns(self) -> list[str]:
        """The columns that are drawn."""
        tops = [self.top] if self.top else []
        return list(dict.fromkeys([*self.scores, *(rule.column for rule in self.thresholds), *tops]))

    def cut_at(self, lowest_kept: float) -> "ReportPlan":
        """The plan, with the lowest kept value of the top column."""
        if not self.top or not math.isfinite(lowest_kept):
            return self
        return replace(self, thresholds=(*self.thresholds, Rule(reasons.BELOW_TOP, self.top, minimum=lowest_kept)))

    def spreads(self) -> dict[str, tuple[tuple[str, float], ...]]:
        """By column the thresholds on it, as what passes and its value."""
        return {
            name: tuple(
                (f"{name} {sign}", float(value))
                for rule in self.thresholds
                for sign, value in ((AT_LEAST, rule.minimum), (BELOW, rule.maximum))
                if rule.column == name and value is not None
            )
            for name in self.columns
        }


def plan_report(selection: Selection, part: int | None, thresholds: Sequence[Rule], top: str = "") -> ReportPlan:
    """Plans a report of a table.

    Args:
        selection: The table and what decides.
        part: The index of one of the table's parts; None if there are none.
        thresholds: The thresholds to draw and to look around; those on columns that the table does not have are left out.
        top: The column by which the best were taken, if they were.

    Raises:
        ScoreTableError: The score table is of another version, or none.
        StorageError: The part cannot be read.
    """
    stored = () if part is None else stored_scores(selection.table, part)
    scores = (*stored, *selection.added)
    known = (*scores, "side", "width", "height")
    on_known = tuple(rule for rule in thresholds if rule.column in known)
    return ReportPlan(selection, scores, on_known, top if top in known else "")


@dataclass
class Figures:
    """What was found in some parts of a score table.

    Attributes:
        parts: Their number.
        spreads: How the values of each column are spread.
        galleries: The samples to show.
        failures: The failed samples to show.
        statuses: Number of rows by status, and
        reasons: by reason, of those that are not kept.
    """

    parts: int
    spreads: Mapping[str, Spread]
    galleries: list[Gallery]
    failures: Failures = field(default_factory=Failures)
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @classmethod
    def none(cls, plan: ReportPlan) -> "Figures":
        """Those of no part."""
        empty = {name: Spread.none(name, bounds) for name, bounds in plan.spreads().items()}
        return cls(0, empty, make_galleries(plan.scores, plan.thresholds))

    def empty(self) -> "Figures":
        """Those of no part, by the same plan."""
        spreads = {name: Spread.none(name, spread.bounds) for name, spread in self.spreads.items()}
        return Figures(0, spreads, [replace(gallery, ranked=[]) for gallery in self.galleries])

    def merge(self, other: "Figures") -> None:
        """Adds those of other parts."""
        self.parts += other.parts
        self.spreads = {name: spread + other.spreads[name] for name, spread in self.spreads.items()}
        for gallery, found in zip(self.galleries, other.galleries, strict=True):
            gallery.merge(found.ranked)
        self.failures.merge(other.failures)
        self.statuses.update(other.statuses)
        self.reasons.update(other.reasons)


def lowest_kept(
    plan: ReportPlan, shard_index: int, removed: Iterable[Removed] | None = None, cutoff: Cutoff | None = None
) -> float:
    """The lowest value that a part's kept rows have in the top column; infinite if there is no such column, or no such row."""
    if not plan.top:
        return math.inf
    group = read_group(plan.selection, shard_index, [plan.top], removed, cutoff)
    values = group.values[plan.top][group.statuses[KEPT]]
    return float(values[np.isfinite(values)].min(initial=math.inf))


def figures_of(
    plan: ReportPlan, shard_index: int, removed: Iterable[Removed] | None = None, cutoff: Cutoff | None = None
) -> Figures:
    """The figures of a part.

    Args:
        plan: What to look at, with the lowest kept value of the top column.
        shard_index: The part.
        removed: Its rows that are rejected beside the rules.
        cutoff: Where the top rule cuts in it.
    """
    group = read_group(plan.selection, shard_index, plan.columns, removed, cutoff)
    found = Figures.none(plan)
    found.parts = 1
    found.spreads = {name: Spread.of(name, bounds, group) for name, bounds in plan.spreads().items()}
    for gallery in found.galleries:
        gallery.look(group)
    found.failures.look(group)
    found.statuses.update({name: int(np.count_nonzero(flags)) for name, flags in group.statuses.items()})
    found.reasons.update(reason for reason in group.reason if reason)
    return found


@dataclass(frozen=True)
class ReportData:
    """What a report tells of a score table.

    Attributes:
        parts: Number of its parts.
        distributions: Of each column.
        galleries: The samples.
        failures: The failed samples.
        statuses: Number of rows by status, and
        reasons: by reason, of those that are not kept: the most frequent first.
    """

    parts: int
    distributions: Sequence[Distribution]
    galleries: Sequence[Gallery]
    failures: Failures
    statuses: Mapping[str, int]
    reasons: Mapping[str, int]


def report_data(table: TablePlace, figures: Figures) -> ReportData:
    """What a report tells, of the figures of all parts; reads what is shown of the samples.

    Raises:
        ScoreTableError: A part of the table is missing or damaged.
        StorageError: It cannot be read.
    """
    galleries = [replace(gallery) for gallery in figures.galleries]
    failures = Failures(figures.failures.counts, figures.failures.found)
    read_shown(table, galleries, failures)
    return ReportData(
        figures.parts,
        [spread.distribution() for spread in figures.spreads.values()],
        galleries,
        failures,
        {status: figures.statuses[status] for status in STATUSES},
        dict(sorted(figures.reasons.items(), key=lambda each: (-each[1], each[0]))),
    )


def collect(plan: ReportPlan, shards: Sequence[int]) -> tuple[ReportPlan, ReportData]:
    """Reads a score table in this process; `transforms.collect_figures` does the same on a runner.

    Returns:
        The plan with all thresholds, and what was found.
    """
    if plan.top:
        plan = plan.cut_at(min(in_threads(lambda shard: lowest_kept(plan, shard), shards), default=math.inf))
    figures = Figures.none(plan)
    for found in in_threads(lambda shard: figures_of(plan, shard), shards):
        figures.merge(found)
    return plan, report_data(plan.selection.table, figures)
