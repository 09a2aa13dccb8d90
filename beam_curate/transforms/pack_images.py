"""PackImages: entries in, WebDataset shards of their images written, in the order of the input."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_curate.intake.ending import finish_packing
from beam_curate.intake.entries import NO_GROUP, Entry, PackedShard, ShardEntries
from beam_curate.intake.files import SKIPPED
from beam_curate.intake.shards import ShardWriting
from beam_curate.runs.summary import PackSummary
from beam_curate.transforms.global_window import require_global_window
from beam_curate.transforms.group_rows import GroupRows
from beam_curate.transforms.side_by_side import SideBySide

if TYPE_CHECKING:
    from beam_curate.transforms.list_images import Entries

RANGE_ROWS: Final = 50_000
"""Rows that one worker sorts at a time, about 30 MB of references."""
SAMPLED: Final = 4096
"""Orders by which the input is cut into ranges: from 200 million rows on the ranges grow."""


@dataclass(eq=False)
class PackImages(beam.PTransform):
    """Packs images into shards of `samples_per_shard` rows, in the order of the input.

    In: Entries. Out: PCollection of one PackSummary.

    The order of all rows is found as a distributed sort finds it: a sample of them cuts the input into ranges, each range is
    counted and sorted, and the counts before a range say where its rows go. So which rows a shard has follows from the input
    alone, whatever the ranges are. A shard that an earlier try finished is neither read nor written; a row that cannot be
    packed leaves its shard shorter.

    Attributes:
        writing: Where to, and how.
        about: What to add to the summary.
        by_row_group: Whether the images lie in Parquet tables: shards that begin in one row group are written one after the
            other then, so that it is read once.
        range_rows: See RANGE_ROWS.
    """

    writing: ShardWriting
    about: Mapping[str, Any] = field(default_factory=dict)
    by_row_group: bool = False
    range_rows: int = RANGE_ROWS

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, rows: "Entries") -> beam.PCollection[PackSummary]:
        """Sorts, groups by shard, writes, and sums up."""
        entries = rows.entries
        require_global_window(entries, self)
        writing, about = self.writing, dict(self.about)
        one = entries.pipeline | "One" >> beam.Create([None])
        total = entries | "Total" >> beam.combiners.Count.Globally()
        sample = entries | "Orders" >> beam.Map(_hashed) | "Sample" >> beam.combiners.Top.Smallest(SAMPLED)
        cuts = beam.pvalue.AsSingleton(
            one
            | "Cuts"
            >> beam.Map(
                lambda _, total, sample, most: cuts_of([order for _, order in sample], total, most),
                beam.pvalue.AsSingleton(total),
                beam.pvalue.AsSingleton(sample),
                self.range_rows,
            )
        )
        ranged = entries | "Range" >> beam.Map(lambda entry, cuts: (bisect_right(cuts, entry.order), entry), cuts)
        counts = (
            ranged | "Ranges" >> beam.Keys() | "CountRange" >> beam.combiners.Count.PerElement() | "Counts" >> _AsDict()
        )
        shards = (
            ranged
            | "ByRange" >> GroupRows(Entry)
            | "Place" >> beam.FlatMap(_places, beam.pvalue.AsSingleton(counts), writing.samples_per_shard)
            | "ByShard" >> GroupRows(Entry)
            | "Sorted" >> beam.Map(_shard).with_output_types(ShardEntries)
        )
        units = shards | "Unit" >> beam.Map(lambda shard: (_unit(shard) if self.by_row_group else shard.index, shard))
        if self.by_row_group:
            units = units | "ByUnit" >> GroupRows(ShardEntries)
        else:
            units = units | "Alone" >> beam.MapTuple(lambda unit, shard: (unit, [shard]))
        written = units | "Write" >> beam.ParDo(_Write(writing)).with_output_types(PackedShard)
        skipped = rows.skipped | "SumSkipped" >> beam.CombinePerKey(sum) | "Skipped" >> _AsDict()
        return one | "Finish" >> beam.Map(
            lambda _, total, shards, skipped, classes: finish_packing(
                writing.output,
                total,
                shards,
                {kind: skipped[kind] for kind in SKIPPED if skipped.get(kind)},
                sorted(classes),
                about,
            ),
            beam.pvalue.AsSingleton(total),
            beam.pvalue.AsList(written),
            beam.pvalue.AsSingleton(skipped),
            beam.pvalue.AsList(rows.classes),
        )


class _AsDict(beam.PTransform):
    """Pairs in, one dict out."""

    def expand(self, pairs: beam.PCollection[tuple[Any, Any]]) -> beam.PCollection[dict[Any, Any]]:
        return pairs | beam.combiners.ToDict()


def _hashed(entry: Entry) -> tuple[bytes, str]:
    """What samples the orders: the smallest digests, the same whenever they are looked at."""
    return hashlib.blake2b(entry.order.encode(errors="surrogatepass"), digest_size=8).digest(), entry.order


def cuts_of(sample: Iterable[str], total: int, most: int) -> list[str]:
    """Where to cut the input into ranges of about `most` rows: each range begins with one of these orders.

    Args:
        sample: Orders, evenly from all.
        total: How many rows there are.
        most: How many rows a range is to have.
    """
    orders = sorted(sample)
    ranges = min(len(orders), -(-total // most))
    return [orders[len(orders) * at // ranges] for at in range(1, ranges)]


def _places(
    ranged: tuple[int, Iterable[Entry]], counts: Mapping[int, int], samples_per_shard: int
) -> Iterator[tuple[int, Entry]]:
    """The entries of a range, each with the shard that it goes to."""
    number, entries = ranged
    first = sum(count for other, count in counts.items() if other < number)
    for at, entry in enumerate(sorted(entries, key=_order)):
        yield (first + at) // samples_per_shard, entry


def _order(entry: Entry) -> str:
    return entry.order


def _shard(grouped: tuple[int, Iterable[Entry]]) -> ShardEntries:
    index, entries = grouped
    return ShardEntries(index, sorted(entries, key=_order))


def _unit(shard: ShardEntries) -> int:
    """A number for the row group in which a shard begins."""
    first = shard.entries[0]
    if first.row_group == NO_GROUP:
        return shard.index
    return int.from_bytes(hashlib.blake2b(f"{first.row_group}/{first.image}".encode(), digest_size=7).digest(), "big")


class _Write(SideBySide):
    """Writes shards; a thread holds one image at a time, and the references of the shards of a unit."""

    def __init__(self, writing: ShardWriting) -> None:
        super().__init__()
        self._writing = writing
        self._packed = Metrics.counter("beam_curate.pack", "samples")
        self._failed = Metrics.counter("beam_curate.pack", "failed")
        self._bytes = Metrics.counter("beam_curate.pack", "bytes")

    def work(self, element: tuple[int, Sequence[ShardEntries]], *side: Any) -> Iterator[PackedShard]:
        _, shards = element
        return self._writing.write(sorted(shards, key=lambda shard: shard.index))

    def count(self, result: PackedShard) -> None:
        self._packed.inc(result.packed)
        self._failed.inc(result.failed)
        self._bytes.inc(result.size)
