"""FindDuplicates: a finished score table in, its duplicates table out."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_curate.duplicates.candidates import Ids, scattered
from beam_curate.duplicates.finding import SearchResult, is_finished, read_findings
from beam_curate.duplicates.method import HASHES, Spread
from beam_curate.duplicates.methods import number_of
from beam_curate.duplicates.search import MOST_MISSED, DuplicateSearch, Learned, in_sample, told
from beam_curate.progress import PROGRESS
from beam_curate.records import BucketRows, ScorePart
from beam_curate.runs.summary import funnel
from beam_curate.transforms.compare_buckets import CompareBuckets, bucket_key
from beam_curate.transforms.global_window import require_global_window
from beam_curate.transforms.group_rows import GroupRows
from beam_curate.transforms.join_duplicates import JoinDuplicates
from beam_curate.transforms.list_parts import ListParts

_HELD_BYTES: Final = 1 << 25
"""Rows wait in memory until there are 32 MiB of them: then those of one bucket go together."""
_SPREAD: Final = 1 << 14
"""Rows that are put into buckets at once: of a part with many rows, each in many buckets, the copies are let go on the way. With
a fourth of them finding the cells of 10^7 embeddings takes a seventh longer."""
_LOG: Final = logging.getLogger("beam_curate.duplicates")

_Drawn = tuple[Ids, pa.Table]


class PartRef(NamedTuple):
    """A part of a score table: of the other dataset or of ours, its shard's index, and how many candidates it has."""

    foreign: bool
    shard_index: int
    rows: int


@dataclass(eq=False)
class FindDuplicates(beam.PTransform):
    """Finds duplicates in a score table, or between two.

    In: PCollection[ScorePart], all parts of the table of `search.selection`. Out: PCollection of one SearchResult when
    the duplicates table lies in `output`; see `duplicates`.

    Rows go from their part to buckets through the engine, buckets are compared, and of all that is found the best edge of each
    row is combined by its part. No step reads what another one has left in files, but the hashes of images, which are made again
    if they are missing, and stay.

    Attributes:
        search: What is looked for.
        output: Folder of the duplicates table.
    """

    search: DuplicateSearch
    output: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[SearchResult]:
        """Learns from a sample, spreads the rows, compares and joins; unless a stopped run has written the table."""
        require_global_window(parts, self)
        search, output = self.search, self.output
        if is_finished(output):
            # Read when the job runs: a pipeline is also built to see whether it can be, over a table that is about to go.
            return (
                parts.pipeline | "There" >> beam.Create([output], reshuffle=False) | "Found" >> beam.Map(read_findings)
            )
        only_kept = search.selection.rules is None
        refs = parts | "Refs" >> beam.Map(_ref, False, only_kept).with_output_types(PartRef)
        if search.against is not None:
            other = parts.pipeline | "Other" >> ListParts(search.against)
            refs = (refs, other | "OtherRefs" >> beam.Map(_ref, True, True).with_output_types(PartRef)) | beam.Flatten()
        refs = refs | "SpreadRefs" >> beam.Reshuffle().with_input_types(PartRef)
        learned = self._learned(refs)
        spreading = beam.pvalue.AsSingleton(learned | "Spreading" >> beam.Map(_spreading))
        comparing = learned | "Comparing" >> beam.Map(lambda learned: [plan.comparing for plan in learned.plans])
        found = (
            refs
            | "SpreadRows"
            >> beam.ParDo(_SpreadRows(search, output), spreading).with_output_types(tuple[int, BucketRows])
            | "ByBucket" >> GroupRows(BucketRows)
            | "Compare" >> CompareBuckets(search, comparing)
        )
        return found | "Join" >> JoinDuplicates(search, output, parts)

    def _learned(self, refs: beam.PCollection[PartRef]) -> beam.PCollection[Learned]:
        search = self.search
        total = refs | "Rows" >> beam.Map(lambda part: part.rows) | "Total" >> beam.CombineGlobally(sum)
        of_all = beam.pvalue.AsSingleton(total)
        sample = refs | "Sample" >> beam.FlatMap(_sample, of_all, search)
        return (
            refs.pipeline
            | "One" >> beam.Create([None])
            | "Learn" >> beam.Map(lambda _, drawn, rows: learn(search, drawn, rows), beam.pvalue.AsList(sample), of_all)
        )


def _ref(part: ScorePart, foreign: bool, only_kept: bool) -> PartRef:
    return PartRef(foreign, part.shard_index, part.kept if only_kept else funnel([part]).judged)


def _sample(part: PartRef, total: int, search: DuplicateSearch) -> Iterator[_Drawn]:
    """The rows of a part that are in the sample, if there is to be one."""
    wanted = search.sampled(total)
    if wanted:
        columns = [name for name in search.columns if name not in HASHES]
        found = search.rows(part.foreign).read_unranked(part.shard_index, columns)
        drawn = in_sample(found.ids, wanted, total)
        yield found.ids[drawn], found.table.filter(pa.array(drawn))


def learn(search: DuplicateSearch, drawn: Sequence[_Drawn], total: int) -> Learned:
    """Settles the search by what was drawn, in whatever order it comes, and says what it will cost.

    The first rows of the sample say more than the others: so they are of all parts, also where a dataset is sorted by its source.
    """
    if not drawn and search.sampled(total):
        return Learned((), None)  # there are no parts
    ids = np.concatenate([np.zeros(0, np.uint64), *(one for one, _ in drawn)])
    sample = (
        pa.concat_tables([table for _, table in drawn]).take(pa.array(np.argsort(scattered(ids))))
        if drawn
        else pa.table({})
    )
    learned = search.learn(total, sample)
    buckets = sum(plan.buckets for plan in learned.plans)
    Metrics.counter("beam_curate.duplicates", "buckets").inc(buckets)
    PROGRESS.add(buckets=buckets)
    for method, plan in zip(search.methods, learned.plans, strict=True):
        if plan.estimate is not None:
            _LOG.info("%s", told(method, total, plan.estimate))
            if plan.estimate.missed > MOST_MISSED:
                _LOG.warning(
                    "%s misses more than one near pair in a thousand; a larger --border misses fewer, and 0.5 misses none",
                    method.name,
                )
    return learned


def _spreading(learned: Learned) -> tuple[list[Any], Any]:
    return [plan.spreading for plan in learned.plans], learned.nearness


class _SpreadRows(beam.DoFn):
    """Reads a part once for all methods, and sends its rows to their buckets."""

    def __init__(self, search: DuplicateSearch, output: str) -> None:
        self._search = search
        self._output = output
        self._read = Metrics.counter("beam_curate.duplicates", "rows")
        self._sent = Metrics.counter("beam_curate.duplicates", "sent")

    def start_bundle(self) -> None:
        self._held: dict[int, list[Spread]] = {}
        self._bytes = 0

    def process(self, part: PartRef, learned: tuple[Sequence[Any], Any]) -> Iterator[tuple[int, BucketRows]]:
        spreading, nearness = learned
        found = self._search.read(part.shard_index, part.foreign, self._output, nearness)
        self._read.inc(len(found.ids))
        for start in range(0, len(found.ids), _SPREAD):
            some = found.slice(start, _SPREAD)
            for method, how in zip(self._search.methods, spreading, strict=True):
                spread = method.spread(some, how)
                self._sent.inc(len(spread.rows))
                self._held.setdefault(number_of(method), []).append(spread)
                self._bytes += spread.rows.nbytes
            if self._bytes >= _HELD_BYTES:
                yield from self._packed()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for packed in self._packed():
            yield GlobalWindows.windowed_value(packed)

    def _packed(self) -> Iterator[tuple[int, BucketRows]]:
        all_held, self._held, self._bytes = self._held, {}, 0
        for number, held in all_held.items():
            buckets = np.concatenate([spread.buckets for spread in held])
            rows = np.concatenate([spread.rows for spread in held])
            order = np.argsort(buckets, kind="stable")
            numbers, starts = np.unique(buckets[order], return_index=True)
            for bucket, places in zip(numbers.tolist(), np.split(order, starts[1:]), strict=False):
                yield bucket_key(number, bucket), BucketRows(rows[places].tobytes())
