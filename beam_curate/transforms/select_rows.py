"""SelectRows: a finished score table in, a new one with other verdicts out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_curate import score_table, top
from beam_curate.records import ScorePart, Shard
from beam_curate.rejudging import Selection, candidates, rejudge_part
from beam_curate.run_state import input_shards
from beam_curate.top import Cutoff, TopRule


@dataclass(eq=False)
class SelectRows(beam.PTransform):
    """Judges the rows of a finished score table by other rules, without decoding or inference.

    In: PCollection[Shard], the input shards of the run in `output` whose parts are still to be made. Out:
    PCollection[ScorePart], one each; the parts are written below `output`.

    A rule on the whole table (`Selection.top`) reads its columns of all parts four times first, see `top`: also of the parts
    that are made already, so that a continued run chooses the same rows.

    Attributes:
        selection: The source and the rules.
        output: Folder of the new run, made ready by `run_state.prepare_output` with the source's input shards.
    """

    selection: Selection
    output: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[ScorePart]:
        """Finds the cutoff of each part where there is a rule on the whole table, and judges."""
        selection, output, rule = self.selection, self.output, self.selection.top
        if rule is None:
            return shards | "Judge" >> beam.ParDo(_Judge(selection, output)).with_output_types(ScorePart)
        cutoffs = shards.pipeline | "Top" >> _FindCutoffs(selection, rule, output)
        return shards | "Judge" >> beam.ParDo(
            _Judge(selection, output), beam.pvalue.AsSingleton(cutoffs.cutoff), beam.pvalue.AsDict(cutoffs.shares)
        ).with_output_types(ScorePart)


class _Cutoffs(NamedTuple):
    """The value of the last row to keep, and by shard index which parts may keep how many rows of just that value."""

    cutoff: beam.PCollection[Cutoff]
    shares: beam.PCollection[tuple[int, Cutoff]]


@dataclass(eq=False)
class _FindCutoffs(beam.PTransform):
    """Finds where the rule on the whole table cuts."""

    selection: Selection
    rule: TopRule
    output: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pipeline: beam.pvalue.PBegin) -> "_Cutoffs":
        """A pass for each digit, and one for the rows that equal the cutoff."""
        selection, rule = self.selection, self.rule
        parts = (
            pipeline
            | "Run" >> beam.Create([self.output])
            | "List" >> beam.FlatMap(_part_numbers).with_output_types(tuple[int, str])
            | "Spread" >> beam.Reshuffle()
        )
        cutoff = pipeline | "NothingKnown" >> beam.Create([Cutoff()])
        for number in range(top.PASSES):
            counts = (
                parts
                | f"Count{number}" >> beam.ParDo(_CountDigits(selection), beam.pvalue.AsSingleton(cutoff))
                | f"Sum{number}" >> beam.CombineGlobally(_add)
            )
            cutoff = cutoff | f"Narrow{number}" >> beam.Map(top.narrow, beam.pvalue.AsSingleton(counts), rule)
        tied = parts | "Ties" >> beam.ParDo(_CountTies(selection), beam.pvalue.AsSingleton(cutoff))
        shares = cutoff | "Allot" >> beam.FlatMap(_allot, beam.pvalue.AsList(tied))
        return _Cutoffs(cutoff, shares)


def _part_numbers(output: str) -> Iterator[tuple[int, str]]:
    for shard in input_shards(output):
        yield shard.index, score_table.part_name(shard.index)


class _Look(beam.DoFn):
    """Looks at the candidates of a part, with the user's scorers set up once."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection

    def setup(self) -> None:
        self._selection.set_up()


class _CountDigits(_Look):
    def process(self, part: tuple[int, str], cutoff: Cutoff) -> Iterator[dict[int, int]]:
        yield top.count_digits(candidates(self._selection, part[1]), cutoff)


class _CountTies(_Look):
    def process(self, part: tuple[int, str], cutoff: Cutoff) -> Iterator[tuple[int, int]]:
        count = top.ties(candidates(self._selection, part[1]), cutoff)
        if count:
            yield part[0], count


def _add(counts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


def _allot(cutoff: Cutoff, tied: Iterable[tuple[int, int]]) -> Iterator[tuple[int, Cutoff]]:
    yield from top.allot(cutoff, tied).items()


class _Judge(beam.DoFn):
    def __init__(self, selection: Selection, output: str) -> None:
        self._selection = selection
        self._output = output
        self._rows = Metrics.counter("beam_curate.select", "rows")
        self._kept = Metrics.counter("beam_curate.select", "kept")

    def setup(self) -> None:
        self._selection.set_up()

    def process(
        self, shard: Shard, cutoff: Cutoff | None = None, shares: Mapping[int, Cutoff] | None = None
    ) -> Iterator[ScorePart]:
        if cutoff is not None and shares is not None:
            cutoff = top.share(cutoff, shares, shard.index)
        part = rejudge_part(self._selection, self._output, shard.index, cutoff)
        self._rows.inc(part.rows)
        self._kept.inc(part.kept)
        yield part
