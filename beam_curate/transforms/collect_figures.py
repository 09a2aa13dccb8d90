"""CollectFigures: parts of a score table in, what a report tells of all of them out."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import apache_beam as beam

from beam_curate.report.data import Figures, Look, ReportData, look_at, lowest_kept, shown_rows
from beam_curate.report.origins import MAX_ORIGINS, Counted, Origin, Outcomes, add_outcomes
from beam_curate.report.plan import ReportPlan
from beam_curate.report.shown import Part, Shown, by_part, read_shown
from beam_curate.scores.scorers import EmbeddingsScorer
from beam_curate.transforms.find_cutoffs import Task, own_cutoff
from beam_curate.transforms.side_by_side import SideBySide, WithScorers


@dataclass(eq=False)
class CollectFigures(beam.PTransform):
    """Adds up the figures of parts, and reads what is shown of the samples, see `report.data`.

    In: PCollection[Task], all parts. Out: PCollection of one ReportData. Of a part at most so many rows go on as sliders need of
    the whole table; all is the same in whatever order the parts come.

    Attributes:
        plan: PCollection of one ReportPlan.
        sides: Side inputs that say where the top rule cuts, of `find_cutoffs.Cutoffs`; none where the table's verdicts count.
        own: Scorers of the user's own that the plan's selection has.
    """

    plan: beam.PCollection[ReportPlan]
    sides: tuple[Any, ...] = ()
    own: tuple[EmbeddingsScorer, ...] = ()

    LOOKS: ClassVar[int] = 2
    """How many times a part is looked at."""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, tasks: beam.PCollection[Task]) -> beam.PCollection[ReportData]:
        """Finds the lowest kept value first, as it is a threshold, then everything else."""
        lowest = (
            tasks
            | "Lowest" >> beam.ParDo(_Lowest(self.own), beam.pvalue.AsSingleton(self.plan), *self.sides)
            | "LowestOfAll" >> beam.CombineGlobally(_least).as_singleton_view()
        )
        whole = self.plan | "Cut" >> beam.Map(ReportPlan.cut_at, lowest)
        looks = tasks | "Look" >> beam.ParDo(_Look(self.own), beam.pvalue.AsSingleton(whole), *self.sides)
        # Straight into the sum: it is begun where the parts are looked at, so that the figures of single parts go nowhere.
        figures = (
            looks
            | "Figures" >> beam.Map(lambda look: look.figures)
            | "AddFigures" >> beam.CombineGlobally(_AddFigures()).without_defaults()
        )
        worst = (
            looks
            | "Origins" >> beam.FlatMap(lambda look: look.origins).with_output_types(tuple[Origin, Outcomes])
            | "AddOutcomes" >> beam.CombinePerKey(add_outcomes)
            | "ByKind" >> beam.MapTuple(_by_kind)
            | "Worst" >> beam.combiners.Top.PerKey(MAX_ORIGINS, key=_worth)
        )
        shown = (
            figures
            | "ByPart" >> beam.FlatMap(lambda figures: by_part(shown_rows(figures))).with_output_types(Part)
            | "SpreadShown" >> beam.Reshuffle().with_input_types(Part)
            | "ReadShown" >> beam.ParDo(_ReadShown(), beam.pvalue.AsSingleton(whole))
        )
        asked = (
            beam.pvalue.AsSingleton(figures, default_value=None),
            beam.pvalue.AsDict(worst),
            beam.pvalue.AsIter(shown),
        )
        return whole | "Report" >> beam.Map(_report, *asked)


class _Looking(WithScorers):
    """Looks at a part."""

    def plan(self, plan: ReportPlan) -> ReportPlan:
        """The plan, with these scorers: those that came with it are not set up."""
        return replace(plan, selection=replace(plan.selection, own=self._own))


class _Lowest(_Looking):
    def work(self, element: Task, *side: Any) -> Iterator[float]:
        plan, *sides = side
        yield lowest_kept(self.plan(plan), element.shard_index, element.removed, own_cutoff(element, *sides))


class _Look(_Looking):
    def work(self, element: Task, *side: Any) -> Iterator[Look]:
        plan, *sides = side
        yield look_at(self.plan(plan), element.shard_index, element.removed, own_cutoff(element, *sides))


class _ReadShown(SideBySide):
    def work(self, element: Part, *side: Any) -> Sequence[Shown]:
        (plan,) = side
        return read_shown(plan.selection.table, element, plan.max_pixels)


def _report(plan: ReportPlan, figures: Any, *more: Any) -> ReportData:
    """What a report tells; the figures are None where there are no parts.

    They are of any type for Beam (2.77): of `Figures | None` it makes a schema, and fails when it takes the class before the
    None, which depends on the hash of the process.
    """
    return ReportData.of(plan, figures or Figures.none(plan), *more)


def _by_kind(origin: Origin, outcomes: Outcomes) -> tuple[str, Counted]:
    kind, name = origin
    return kind, Counted(name, outcomes)


def _worth(counted: Counted) -> tuple[int, str]:
    return counted.worth


def _least(values: Iterable[float]) -> float:
    return min(values, default=math.inf)


class _AddFigures(beam.CombineFn):
    """Adds into figures of its own: what comes in may be used again by the runner."""

    def create_accumulator(self) -> list[Figures]:
        return []

    def add_input(self, mutable_accumulator: list[Figures], element: Figures) -> list[Figures]:
        if mutable_accumulator:
            mutable_accumulator[0].merge(element)
            return mutable_accumulator
        own = element.empty()
        own.merge(element)
        return [own]

    def merge_accumulators(self, accumulators: Iterable[list[Figures]]) -> list[Figures]:
        merged: list[Figures] = []
        for one in accumulators:
            for figures in one:
                merged = self.add_input(merged, figures)
        return merged

    def extract_output(self, accumulator: list[Figures]) -> Figures:
        return accumulator[0]
