"""JudgeParts: parts of a score table in, overlays with other verdicts on their rows out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_curate.records import Removed, ScorePart, record
from beam_curate.scores import top
from beam_curate.scores.top import Cutoff, TopRule
from beam_curate.selection.rejudging import Selection, candidates, rejudge_part
from beam_curate.transforms.global_window import require_global_window
from beam_curate.transforms.side_by_side import SideBySide


@record
class _Task:
    """A part to look at: its rows that are rejected beside the rules, and whether its overlay is still to be written."""

    shard_index: int
    removed: Sequence[Removed]
    pending: bool


@dataclass(eq=False)
class JudgeParts(beam.PTransform):
    """Judges the rows of a finished score table by other rules and writes their verdicts, without decoding or inference.

    In: PCollection[int], the parts whose overlays are still to be made, by their input shard's index. Out:
    PCollection[ScorePart], one each; the overlays are written below `output`.

    A rule on the whole table (`Selection.top`) reads its columns of all parts five times first, see `scores.top`: also of
    the parts whose overlays are there already, so that a continued run chooses the same rows.

    Attributes:
        selection: The table and the rules.
        output: Folder of the run.
        everything: PCollection[int], all parts of the table.
        removed: PCollection[tuple[int, Removed]], rows that are rejected after the rules on each row and before the one on
            the whole table, by their part; several for a part are fine. See `selection.rejudging.passing` for
            what is left to choose from. None for none.
    """

    selection: Selection
    output: str
    everything: beam.PCollection[int]
    removed: beam.PCollection[tuple[int, Removed]] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pending: beam.PCollection[int]) -> beam.PCollection[ScorePart]:
        """Joins by part what is removed, finds where the rule on the whole table cuts, and judges."""
        require_global_window(pending, self)
        selection, judge = self.selection, _Judge(self.selection, self.output)
        if selection.top is None and self.removed is None:
            tasks = pending | "Task" >> beam.Map(lambda index: _Task(index, (), True)).with_output_types(_Task)
            return tasks | "Judge" >> beam.ParDo(judge).with_output_types(ScorePart)
        doors = {
            "everything": self.everything | "KeyAll" >> beam.Map(_twice).with_output_types(tuple[int, int]),
            "pending": pending | "KeyPending" >> beam.Map(_twice).with_output_types(tuple[int, int]),
        }
        if self.removed is not None:
            same = beam.Map(lambda pair: pair).with_output_types(tuple[int, Removed])
            doors["removed"] = self.removed | "KeyRemoved" >> same
        tasks = doors | beam.CoGroupByKey() | "Tasks" >> beam.MapTuple(_task).with_output_types(_Task)
        tasks = tasks | "Spread" >> beam.Reshuffle()
        left = tasks | "Pending" >> beam.Filter(lambda task: task.pending)
        if selection.top is None:
            return left | "Judge" >> beam.ParDo(judge).with_output_types(ScorePart)
        cutoffs = tasks | "Top" >> _FindCutoffs(selection, selection.top)
        return left | "Judge" >> beam.ParDo(
            judge, beam.pvalue.AsSingleton(cutoffs.cutoff), beam.pvalue.AsDict(cutoffs.shares)
        ).with_output_types(ScorePart)


def _twice(index: int) -> tuple[int, int]:
    return index, index


def _task(index: int, joined: Mapping[str, Iterable[Any]]) -> _Task:
    removed = list(joined.get("removed", ()))
    if not list(joined["everything"]):
        raise ValueError(
            f"{len(removed)} groups of rows are to be rejected in part {index}, which the table does not have"
        )
    return _Task(index, removed, bool(list(joined["pending"])))


class _Cutoffs(NamedTuple):
    """The value of the last row to keep, and by shard index which parts may keep how many rows of just that value."""

    cutoff: beam.PCollection[Cutoff]
    shares: beam.PCollection[tuple[int, Cutoff]]


@dataclass(eq=False)
class _FindCutoffs(beam.PTransform):
    """Finds where the rule on the whole table cuts."""

    selection: Selection
    rule: TopRule

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, tasks: beam.PCollection[_Task]) -> "_Cutoffs":
        """A pass for each digit, and one for the rows that equal the cutoff."""
        selection, rule = self.selection, self.rule
        cutoff = tasks.pipeline | "NothingKnown" >> beam.Create([Cutoff()])
        for number in range(top.PASSES):
            counts = (
                tasks
                | f"Count{number}" >> beam.ParDo(_CountDigits(selection), beam.pvalue.AsSingleton(cutoff))
                | f"Sum{number}" >> beam.CombineGlobally(_add)
            )
            cutoff = cutoff | f"Narrow{number}" >> beam.Map(top.narrow, beam.pvalue.AsSingleton(counts), rule)
        tied = tasks | "Ties" >> beam.ParDo(_CountTies(selection), beam.pvalue.AsSingleton(cutoff))
        shares = cutoff | "Allot" >> beam.FlatMap(_allot, beam.pvalue.AsList(tied))
        return _Cutoffs(cutoff, shares)


class _Look(SideBySide):
    """Looks at a part, with the user's scorers set up once."""

    def __init__(self, selection: Selection) -> None:
        super().__init__(1 if selection.own else 0)  # a scorer of the user's own need not bear several threads
        self._selection = selection

    def setup(self) -> None:
        super().setup()
        self._selection.set_up()

    def keys(self, task: _Task) -> top.Keys:
        return candidates(self._selection, task.shard_index, task.removed)


class _CountDigits(_Look):
    def work(self, element: _Task, *side: Any) -> Iterator[dict[int, int]]:
        (cutoff,) = side
        yield top.count_digits(self.keys(element), cutoff)


class _CountTies(_Look):
    def work(self, element: _Task, *side: Any) -> Iterator[tuple[int, int]]:
        (cutoff,) = side
        count = top.ties(self.keys(element), cutoff)
        if count:
            yield element.shard_index, count


def _add(counts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


def _allot(cutoff: Cutoff, tied: Iterable[tuple[int, int]]) -> Iterator[tuple[int, Cutoff]]:
    yield from top.allot(cutoff, tied).items()


class _Judge(_Look):
    def __init__(self, selection: Selection, output: str) -> None:
        super().__init__(selection)
        self._output = output
        self._rows = Metrics.counter("beam_curate.select", "rows")
        self._kept = Metrics.counter("beam_curate.select", "kept")

    def work(self, element: _Task, *side: Any) -> Iterator[ScorePart]:
        cutoff = None
        if side:
            found, shares = side
            cutoff = top.share(found, shares, element.shard_index)
        yield rejudge_part(self._selection, self._output, element.shard_index, element.removed, cutoff)

    def count(self, result: ScorePart) -> None:
        self._rows.inc(result.rows)
        self._kept.inc(result.kept)
