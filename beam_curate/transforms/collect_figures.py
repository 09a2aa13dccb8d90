"""CollectFigures: parts of a score table in, what a report tells of all of them out."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam

from beam_curate.report.data import Figures, ReportPlan, figures_of, lowest_kept
from beam_curate.scores.scorers import EmbeddingsScorer
from beam_curate.transforms.find_cutoffs import Task, own_cutoff
from beam_curate.transforms.side_by_side import WithScorers


@dataclass(eq=False)
class CollectFigures(beam.PTransform):
    """Adds up the figures of parts, see `report.data`.

    In: PCollection[Task], all parts. Out: PCollection of one Figures. A part gives some KB, whatever its rows; they are the same
    in whatever order the parts come.

    Attributes:
        plan: PCollection of one ReportPlan.
        sides: Side inputs that say where the top rule cuts, of `find_cutoffs.Cutoffs`; none where the table's verdicts count.
        own: Scorers of the user's own that the plan's selection has.
    """

    plan: beam.PCollection[ReportPlan]
    sides: tuple[Any, ...] = ()
    own: tuple[EmbeddingsScorer, ...] = ()

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, tasks: beam.PCollection[Task]) -> beam.PCollection[Figures]:
        """Finds the lowest kept value first, as it is a threshold, then everything else."""
        lowest = (
            tasks
            | "Lowest" >> beam.ParDo(_Lowest(self.own), beam.pvalue.AsSingleton(self.plan), *self.sides)
            | "LowestOfAll" >> beam.CombineGlobally(_least)
        )
        whole = self.plan | "Cut" >> beam.Map(ReportPlan.cut_at, beam.pvalue.AsSingleton(lowest))
        found = tasks | "Figures" >> beam.ParDo(_Figures(self.own), beam.pvalue.AsSingleton(whole), *self.sides)
        none = whole | "None" >> beam.Map(Figures.none)
        return (none, found) | beam.Flatten() | "AddFigures" >> beam.CombineGlobally(_AddFigures()).without_defaults()


class _Look(WithScorers):
    """Looks at a part."""

    def plan(self, plan: ReportPlan) -> ReportPlan:
        """The plan, with these scorers: those that came with it are not set up."""
        return replace(plan, selection=replace(plan.selection, own=self._own))


class _Lowest(_Look):
    def work(self, element: Task, *side: Any) -> Iterator[float]:
        plan, *sides = side
        yield lowest_kept(self.plan(plan), element.shard_index, element.removed, own_cutoff(element, *sides))


class _Figures(_Look):
    def work(self, element: Task, *side: Any) -> Iterator[Figures]:
        plan, *sides = side
        yield figures_of(self.plan(plan), element.shard_index, element.removed, own_cutoff(element, *sides))


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
