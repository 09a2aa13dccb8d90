"""PreviewSelection: the pipeline in, what a selection would keep written to a folder."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Final

import apache_beam as beam

from beam_curate.duplicates.removal import Duplicates
from beam_curate.records import Removed, record
from beam_curate.report.data import ReportData
from beam_curate.report.plan import plan_report
from beam_curate.report.preview import Preview, empty_preview, preview_part
from beam_curate.report.writing import preview_page
from beam_curate.runs.configuration import read_configuration
from beam_curate.runs.division import Division
from beam_curate.runs.whole_run import check_parts
from beam_curate.scores.rules_in_force import beside_thresholds, thresholds, top_column
from beam_curate.selection.rejudging import Selection
from beam_curate.storage.files import join, read_bytes, read_json, write_atomic, write_json
from beam_curate.transforms.collect_figures import CollectFigures
from beam_curate.transforms.find_cutoffs import FindCutoffs, JoinTasks, Look, Task, own_cutoff
from beam_curate.transforms.remove_duplicates import RemoveDuplicates

FIGURES: Final = "preview.json"
PAGE: Final = "preview.html"


@record
class _Views:
    """A part, and its duplicates: among what the rules on each row keep, and among all rows."""

    shard_index: int
    removed: Sequence[Removed] = ()
    alone: Sequence[Removed] = ()


@dataclass(eq=False)
class PreviewSelection(beam.PTransform):
    """Tries a selection's rules on all parts of a table: one after the other, and each alone.

    In: the pipeline. Out: PCollection of one Preview, when it is written to `preview.json` in the folder; and the page that the
    selection's report would be, if it is asked for, to `preview.html`. Nothing else is written.

    A part is read once for the counts. The top rule reads its columns five times for what is left by the other rules, and, if
    there are others, five times without them. The page reads the columns that it shows.

    Attributes:
        selection: The table and the rules.
        folder: Where the result is written: the workers and who reads it must reach it.
        duplicates: The duplicates to reject; None for none.
        page: Whether the page is made.
        division: Of the output.
        about: For the page: what the summary of the selection would say beside its counts.
    """

    selection: Selection
    folder: str
    duplicates: Duplicates | None = None
    page: bool = False
    division: Division = Division()
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def looks(self) -> int:
        """How many times a part is looked at."""
        tops = 0 if self.selection.top is None else 1 + bool(self.selection.rules or self.duplicates)
        return 1 + tops * FindCutoffs.LOOKS + self.page * CollectFigures.LOOKS

    def expand(self, pipeline: beam.pvalue.PBegin) -> beam.PCollection[Preview]:
        """Finds the duplicates and the cutoffs with and without the other rules, counts, and writes."""
        selection, duplicates, folder = self.selection, self.duplicates, self.folder
        parts = (
            pipeline
            | "Table" >> beam.Create([selection.table])
            | "List" >> beam.FlatMap(check_parts).with_output_types(int)
            | "Spread" >> beam.Reshuffle().with_input_types(int)
        )
        bare = replace(selection, rules=())
        removed = alone = None
        if duplicates is not None:
            removed = alone = parts | "Duplicates" >> RemoveDuplicates(selection, duplicates)
            if selection.rules:
                alone = parts | "DuplicatesOfAll" >> RemoveDuplicates(bare, duplicates)
        tasks = parts | JoinTasks(parts, removed) | "SpreadTasks" >> beam.Reshuffle().with_input_types(Task)
        sides: tuple[Any, ...] = ()
        sides_alone: tuple[Any, ...] = ()
        if selection.top is not None:
            sides = sides_alone = (tasks | "Top" >> FindCutoffs(selection)).sides
            if selection.rules or duplicates is not None:
                every = parts | "EveryRow" >> beam.Map(Task).with_output_types(Task)
                sides_alone = (every | "TopOfAll" >> FindCutoffs(bare)).sides
        views = self._views(tasks, alone)
        previews = views | "Try" >> beam.ParDo(_Try(selection, duplicates), *sides, *sides_alone)
        found = previews | "AddPreviews" >> beam.CombineGlobally(_Add(empty_preview(selection, duplicates)))
        written = found | "WriteFigures" >> beam.Map(_write_figures, folder)
        if not self.page:
            return written
        configuration = read_configuration(self.about["configuration"])
        plan = (
            parts
            | "Any" >> beam.combiners.Sample.FixedSizeGlobally(1)
            | "Plan"
            >> beam.Map(
                lambda some: plan_report(
                    selection,
                    next(iter(some), None),
                    thresholds(configuration),
                    top_column(configuration),
                    beside_thresholds(configuration),
                )
            )
        )
        data = tasks | CollectFigures(plan, sides, tuple(selection.own))
        return written | "WritePage" >> beam.Map(
            _write_page, folder, self.about, self.division, beam.pvalue.AsSingleton(data)
        )

    def _views(self, tasks: Any, alone: Any) -> Any:
        if alone is None:
            return tasks | "View" >> beam.Map(lambda task: _Views(task.shard_index)).with_output_types(_Views)
        doors = {
            "task": tasks | "KeyTasks" >> beam.Map(lambda task: (task.shard_index, task)),
            "alone": alone | "KeyAlone" >> beam.Map(lambda pair: pair).with_output_types(tuple[int, Removed]),
        }
        return doors | "JoinViews" >> beam.CoGroupByKey() | "Views" >> beam.MapTuple(_view).with_output_types(_Views)


def _view(shard_index: int, joined: Mapping[str, Iterable[Any]]) -> _Views:
    (task,) = joined["task"]
    return _Views(shard_index, task.removed, list(joined["alone"]))


class _Try(Look):
    def __init__(self, selection: Selection, duplicates: Duplicates | None) -> None:
        super().__init__(selection)
        self._duplicates = duplicates

    def work(self, element: _Views, *side: Any) -> Iterator[Preview]:
        shard_index = element.shard_index
        both, alone = (own_cutoff(Task(shard_index), *sides) for sides in (side[:2], side[2:]))
        removed = element.removed, element.alone
        yield preview_part(self._selection, shard_index, self._duplicates, removed, (both, alone))


class _Add(beam.CombineFn):
    def __init__(self, empty: Preview) -> None:
        self._empty = empty

    def create_accumulator(self) -> Preview:
        return self._empty

    def add_input(self, mutable_accumulator: Preview, element: Preview) -> Preview:
        return mutable_accumulator + element

    def merge_accumulators(self, accumulators: Iterable[Preview]) -> Preview:
        return reduce(operator.add, accumulators, self._empty)

    def extract_output(self, accumulator: Preview) -> Preview:
        return accumulator


def _write_figures(found: Preview, folder: str) -> Preview:
    write_json(folder, FIGURES, found.to_json())
    return found


def _write_page(found: Preview, folder: str, about: Mapping[str, Any], division: Division, data: ReportData) -> Preview:
    document = preview_page(data, about, division)
    write_atomic(folder, PAGE, lambda stream: stream.write(document))
    return found


def read_preview(folder: str) -> Preview:
    """What was written to the folder."""
    return Preview.from_json(read_json(join(folder, FIGURES)))


def read_preview_page(folder: str) -> bytes:
    """The page that was written to the folder."""
    return read_bytes(join(folder, PAGE))
