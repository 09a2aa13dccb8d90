"""FindCutoffs: parts of a score table in, where the rule on the whole table cuts out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import apache_beam as beam

from beam_curate.records import Removed, record
from beam_curate.scores import top
from beam_curate.scores.top import Cutoff
from beam_curate.selection.rejudging import Selection, candidates
from beam_curate.transforms.side_by_side import WithScorers


@record
class Task:
    """A part to look at: its rows that are rejected beside the rules, and whether its overlay is still to be written."""

    shard_index: int
    removed: Sequence[Removed] = ()
    pending: bool = True


@dataclass(eq=False)
class JoinTasks(beam.PTransform):
    """Joins by part the rows that are rejected beside the rules.

    In: PCollection[int], all parts of a table. Out: PCollection[Task], one each.

    Attributes:
        pending: PCollection[int], the parts whose overlays are still to be written.
        removed: PCollection[tuple[int, Removed]], several for a part are fine; None for none.
    """

    pending: beam.PCollection[int]
    removed: beam.PCollection[tuple[int, Removed]] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, everything: beam.PCollection[int]) -> beam.PCollection[Task]:
        """Groups by part."""
        doors = {
            "everything": everything | "KeyAll" >> beam.Map(_twice).with_output_types(tuple[int, int]),
            "pending": self.pending | "KeyPending" >> beam.Map(_twice).with_output_types(tuple[int, int]),
        }
        if self.removed is not None:
            same = beam.Map(lambda pair: pair).with_output_types(tuple[int, Removed])
            doors["removed"] = self.removed | "KeyRemoved" >> same
        return doors | beam.CoGroupByKey() | "Tasks" >> beam.MapTuple(_task).with_output_types(Task)


def _twice(index: int) -> tuple[int, int]:
    return index, index


def _task(index: int, joined: Mapping[str, Iterable[Any]]) -> Task:
    removed = list(joined.get("removed", ()))
    if not list(joined["everything"]):
        raise ValueError(
            f"{len(removed)} groups of rows are to be rejected in part {index}, which the table does not have"
        )
    return Task(index, removed, bool(list(joined["pending"])))


class Cutoffs(NamedTuple):
    """The value of the last row to keep, and by shard index which parts may keep how many rows of just that value."""

    cutoff: beam.PCollection[Cutoff]
    shares: beam.PCollection[tuple[int, Cutoff]]

    @property
    def sides(self) -> tuple[Any, Any]:
        """The side inputs for `own_cutoff`."""
        return beam.pvalue.AsSingleton(self.cutoff), beam.pvalue.AsDict(self.shares)


def own_cutoff(task: Task, *sides: Any) -> Cutoff | None:
    """The cutoff of a part, from the side inputs of `Cutoffs`; None without them."""
    if not sides:
        return None
    cutoff, shares = sides
    return top.share(cutoff, shares, task.shard_index)


@dataclass(eq=False)
class FindCutoffs(beam.PTransform):
    """Finds where the rule on the whole table cuts.

    In: PCollection[Task], all parts. Out: Cutoffs. The columns of the rules are read five times, see `scores.top`.

    Attributes:
        selection: The table and the rules; it has a top rule.
    """

    selection: Selection

    LOOKS: ClassVar[int] = top.PASSES + 1
    """How many times a part is looked at."""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, tasks: beam.PCollection[Task]) -> "Cutoffs":
        """A pass for each digit, and one for the rows that equal the cutoff."""
        selection, rule = self.selection, self.selection.top
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
        return Cutoffs(cutoff, shares)


class Look(WithScorers):
    """Looks at a part, with the selection's scorers."""

    def __init__(self, selection: Selection) -> None:
        super().__init__(selection.own)
        self._selection = selection

    def keys(self, task: Task) -> top.Keys:
        """The keys of the rows among which the top rule chooses."""
        return candidates(self._selection, task.shard_index, task.removed)


class _CountDigits(Look):
    def work(self, element: Task, *side: Any) -> Iterator[dict[int, int]]:
        (cutoff,) = side
        yield top.count_digits(self.keys(element), cutoff)


class _CountTies(Look):
    def work(self, element: Task, *side: Any) -> Iterator[tuple[int, int]]:
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
