"""What a report tells of a score table: exact histograms and a few samples, in bounded memory whatever its size.

A part gives its figures, the figures of parts are merged to those of all, in whatever order; of the rows that are shown then
the longer columns and the pictures are read. Each part is read once, with a top rule a column of it twice.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from beam_curate.records import KEPT, STATUSES, Removed
from beam_curate.report.changes import Changes
from beam_curate.report.drawn import Chances, Drawn
from beam_curate.report.origins import COLUMNS, Counted, Origin, Outcomes, add_outcomes, origins, worst
from beam_curate.report.plan import ReportPlan
from beam_curate.report.samples import Failures, Gallery, make_galleries
from beam_curate.report.shown import Shown, by_part, read_shown
from beam_curate.report.spread import Distribution, Spread
from beam_curate.report.table import Found, Place, read_group
from beam_curate.scores.top import Cutoff
from beam_curate.threads import in_threads

MAX_PICTURES: Final = 300
"""Of the samples that the sliders move from one side to the other."""


@dataclass
class Figures:
    """What was found in some parts of a score table.

    Attributes:
        parts: Their number.
        spreads: How the values of each column are spread.
        galleries: The samples to show.
        drawn: Those for the sliders.
        failures: The failed samples to show.
        statuses: Number of rows by status, and
        reasons: by reason, of those that are not kept.
        judgeable: Number of rows on which rules decide.
        changes: What differs in the other run, if there is one.
    """

    parts: int
    spreads: Mapping[str, Spread]
    galleries: list[Gallery]
    drawn: Drawn
    failures: Failures = field(default_factory=Failures)
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    judgeable: int = 0
    changes: Changes | None = None

    @classmethod
    def none(cls, plan: ReportPlan) -> "Figures":
        """Those of no part."""
        empty = {name: Spread.none(name, bounds) for name, bounds in plan.spreads().items()}
        changes = None if plan.against is None else Changes.none(plan.spreads())
        galleries = make_galleries(plan.columns, plan.deciding, plan.thresholds)
        return cls(0, empty, galleries, Drawn.none(plan.columns), changes=changes)

    def empty(self) -> "Figures":
        """Those of no part, by the same plan."""
        spreads = {name: Spread.none(name, spread.bounds) for name, spread in self.spreads.items()}
        galleries = [replace(gallery, ranked=[]) for gallery in self.galleries]
        changes = None if self.changes is None else self.changes.empty()
        return Figures(0, spreads, galleries, Drawn.none(self.drawn.columns), changes=changes)

    def merge(self, other: "Figures") -> None:
        """Adds those of other parts."""
        self.parts += other.parts
        self.spreads = {name: spread + other.spreads[name] for name, spread in self.spreads.items()}
        for gallery, found in zip(self.galleries, other.galleries, strict=True):
            gallery.merge(found.ranked)
        self.drawn = self.drawn + other.drawn
        self.judgeable += other.judgeable
        if self.changes is not None and other.changes is not None:
            self.changes.merge(other.changes)
        self.failures.merge(other.failures)
        self.statuses.update(other.statuses)
        self.reasons.update(other.reasons)


def lowest_kept(
    plan: ReportPlan, shard_index: int, removed: Iterable[Removed] | None = None, cutoff: Cutoff | None = None
) -> float:
    """The lowest value that a part's kept rows have in the top column; infinite if there is no such column, or no such row."""
    if not plan.top:
        return math.inf
    group = read_group(plan.selection, shard_index, [plan.top], removed, cutoff).group
    values = group.values[plan.top][group.statuses[KEPT]]
    return float(values[np.isfinite(values)].min(initial=math.inf))


@dataclass(frozen=True)
class Look:
    """What was found in a part: its figures, and what became of its samples by where they come from."""

    figures: Figures
    origins: Sequence[tuple[Origin, Outcomes]]


def look_at(
    plan: ReportPlan, shard_index: int, removed: Iterable[Removed] | None = None, cutoff: Cutoff | None = None
) -> Look:
    """Looks at a part.

    Args:
        plan: What to look at, with the lowest kept value of the top column.
        shard_index: The part.
        removed: Its rows that are rejected beside the rules.
        cutoff: Where the top rule cuts in it.
    """
    more = () if plan.against is None else ("key",)
    rows = read_group(
        plan.selection, shard_index, plan.columns, removed, cutoff, rest=plan.rest, more=(*COLUMNS, *more)
    )
    group, found = rows.group, Figures.none(plan)
    found.parts = 1
    found.spreads = {name: Spread.of(name, bounds, group) for name, bounds in plan.spreads().items()}
    for gallery in found.galleries:
        gallery.look(group)
    found.drawn = Drawn.of(plan.columns, group)
    found.judgeable = int(np.count_nonzero(group.judgeable))
    found.failures.look(group)
    found.statuses.update({name: int(np.count_nonzero(flags)) for name, flags in group.statuses.items()})
    found.reasons.update({reason: count for reason, count in Counter(group.reason.tolist()).items() if reason})
    if plan.against is not None:
        found.changes = Changes.of(plan.spreads(), rows, plan.against)
    return Look(found, origins(rows))


def shown_rows(figures: Figures) -> list[Found]:
    """The rows that are shown, each once: those with a picture first, the static ones before those of the sliders."""
    galleries = [*figures.galleries, *(figures.changes.galleries if figures.changes is not None else ())]
    several = [found for gallery in galleries for _, found in gallery.ranked]
    several += figures.drawn.spread(MAX_PICTURES)
    several += [found for some in figures.failures.shown.values() for found in some]
    return list({(found.shard_index, found.row_index): found for found in reversed(several)}.values())[::-1]


@dataclass(frozen=True)
class ReportData:
    """What a report tells of a score table.

    Attributes:
        plan: What was looked at.
        parts: Number of its parts.
        distributions: Of each column, those that decide first.
        galleries: The samples.
        drawn: Those for the sliders, with their chances.
        pictured: Those of them with a picture.
        judgeable: Number of rows on which rules decide.
        failures: The failed samples.
        statuses: Number of rows by status, and
        reasons: by reason, of those that are not kept: the most frequent first.
        origins: By kind the origins with the most samples that are not kept.
        changes: What differs in the other run, if there is one.
        shown: What is known of the samples that are shown, by place.
    """

    plan: ReportPlan
    parts: int
    distributions: Sequence[Distribution]
    galleries: Sequence[Gallery]
    drawn: Chances
    pictured: Sequence[Place]
    judgeable: int
    failures: Failures
    statuses: Mapping[str, int]
    reasons: Mapping[str, int]
    origins: Mapping[str, Sequence[Counted]]
    changes: Changes | None
    shown: Mapping[Place, Shown]

    @classmethod
    def of(
        cls,
        plan: ReportPlan,
        figures: Figures,
        origins: Mapping[str, Sequence[Counted]],
        shown: Iterable[Shown],
    ) -> "ReportData":
        """What a report tells, of the figures of all parts.

        Args:
            plan: What was looked at, with all thresholds.
            figures: The figures.
            origins: By kind the origins that are shown.
            shown: The rows of `shown_rows`, in whatever order.
        """
        return cls(
            plan,
            figures.parts,
            [spread.distribution() for spread in figures.spreads.values()],
            figures.galleries,
            figures.drawn.drawn(),
            [found.at for found in figures.drawn.spread(MAX_PICTURES)],
            figures.judgeable,
            figures.failures,
            {status: figures.statuses[status] for status in STATUSES},
            dict(sorted(figures.reasons.items(), key=lambda each: (-each[1], each[0]))),
            origins,
            figures.changes,
            {each.row.place: each for each in shown},
        )


def collect(plan: ReportPlan, shards: Sequence[int]) -> ReportData:
    """Reads a score table in this process; `transforms.collect_figures` does the same on a runner.

    Raises:
        ScoreTableError: A part of the table is missing or damaged.
        StorageError: It cannot be read.
    """
    if plan.top:
        plan = plan.cut_at(min(in_threads(lambda shard: lowest_kept(plan, shard), shards), default=math.inf))
    figures = Figures.none(plan)
    counted: dict[Origin, Outcomes] = {}
    for look in in_threads(lambda shard: look_at(plan, shard), shards):
        figures.merge(look.figures)
        for origin, outcomes in look.origins:
            counted[origin] = add_outcomes([counted.get(origin, Counter()), outcomes])
    parts = by_part(shown_rows(figures))
    shown = [
        each
        for some in in_threads(lambda part: read_shown(plan.selection.table, part, plan.max_pixels), parts)
        for each in some
    ]
    return ReportData.of(plan, figures, worst(counted), shown)
