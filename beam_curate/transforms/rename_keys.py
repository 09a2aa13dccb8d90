"""RenameKeys: parts of which rows are kept in, the new keys of kept rows that would share theirs out."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

import apache_beam as beam

from beam_curate.records import ScorePart, record
from beam_curate.runs.row_sources import RowSource
from beam_curate.tars.keys import KeyHolder, rename_shared, stem
from beam_curate.tars.writing import safe_key
from beam_curate.transforms.side_by_side import SideBySide

BUCKET_ROWS: Final = 1 << 16
"""Rows whose keys are compared together, on average: some 20 MB."""


@record
class Keys:
    """Keys of rows of a part, and the ranks of these rows among the part's kept rows."""

    shard_index: int
    ranks: Sequence[int]
    keys: Sequence[str]


@dataclass(eq=False)
class RenameKeys(beam.PTransform):
    """Finds kept rows whose keys others have too, see `tars.keys`.

    In: PCollection[ScorePart]. Out: PCollection[Keys], the new keys; there may be several for a part, and none for most.

    Rows with one stem meet in a bucket; there are as many buckets as hold BUCKET_ROWS each. What travels is the keys of a part
    that go to one bucket, together, and not an element for each row.

    Attributes:
        rows: Where the parts are.
    """

    rows: RowSource

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[Keys]:
        """Sends keys to their buckets, and compares them there; nothing is read where keys are unique already."""
        if self.rows.unique_keys:
            return parts.pipeline | "NoRenames" >> beam.Create([]).with_output_types(Keys)
        counts = parts | "Kept" >> beam.Map(lambda part: part.kept)
        kept = counts | "AllKept" >> beam.CombineGlobally(sum).as_singleton_view()
        return (
            parts
            | "SpreadParts" >> beam.Reshuffle()
            | "KeptKeys" >> beam.ParDo(_KeptKeys(self.rows), kept).with_output_types(tuple[int, Keys])
            | "ByBucket" >> beam.GroupByKey()
            | "RenameShared" >> beam.FlatMapTuple(lambda _, keys: new_keys(keys)).with_output_types(Keys)
        )


def name_renames(renamed: beam.PCollection[Keys]) -> beam.pvalue.AsSingleton:
    """One bytes, as a side input, that names all of what `RenameKeys` gives, whatever the order."""
    names = renamed | "NameRenames" >> beam.Map(_name)
    return names | "AllRenames" >> beam.CombineGlobally(_sum_of_names).as_singleton_view()


def kept_keys(source: RowSource, part: ScorePart, buckets: int) -> Iterator[tuple[int, Keys]]:
    """The keys of a part's kept rows as they would be written, by the bucket in which those of their stem meet."""
    if not part.kept:
        return
    with source.open(part) as opened:
        keys = [safe_key(key) for key in opened.kept_column("key")]
    ranks: dict[int, list[int]] = defaultdict(list)
    for rank, key in enumerate(keys):
        ranks[crc32(stem(key).encode()) % buckets].append(rank)
    for bucket, some in ranks.items():
        yield bucket, Keys(part.shard_index, some, [keys[rank] for rank in some])


def new_keys(bucket: Iterable[Keys]) -> Iterator[Keys]:
    """The new keys of those rows in a bucket that must give theirs up."""
    holders: dict[str, list[KeyHolder]] = defaultdict(list)
    for some in bucket:
        for rank, key in zip(some.ranks, some.keys, strict=True):
            holders[stem(key)].append(KeyHolder(key, some.shard_index, rank))
    renamed: dict[int, dict[int, str]] = defaultdict(dict)
    for alike in holders.values():
        for holder in rename_shared(alike) if len(alike) > 1 else ():
            renamed[holder.shard_index][holder.rank] = holder.key
    for shard_index, keys in renamed.items():
        yield Keys(shard_index, list(keys), list(keys.values()))


def _name(renamed: Keys) -> bytes:
    """Sixteen bytes that name new keys: the sum of those of each, however they come together."""
    texts = (repr((renamed.shard_index, row)).encode() for row in zip(renamed.ranks, renamed.keys, strict=True))
    return _sum_of_names(hashlib.blake2b(text, digest_size=16).digest() for text in texts)


def _sum_of_names(names: Iterable[bytes]) -> bytes:
    """Names all of them, in whatever order they come and are summed."""
    return (sum(int.from_bytes(name, "little") for name in names) % (1 << 128)).to_bytes(16, "little")


class _KeptKeys(SideBySide):
    def __init__(self, source: RowSource) -> None:
        super().__init__()
        self._source = source

    def work(self, element: ScorePart, *side: Any) -> Iterator[tuple[int, Keys]]:
        (kept,) = side
        return kept_keys(self._source, element, -(-kept // BUCKET_ROWS))
