"""RenameKeys: parts of which rows are kept in, the new keys of kept rows that would share theirs out."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from beam_curate.records import ScorePart
from beam_curate.runs.row_sources import RowSource
from beam_curate.tars.keys import KeyHolder, rename_shared, stem
from beam_curate.tars.writing import safe_key
from beam_curate.transforms.side_by_side import SideBySide


@dataclass(eq=False)
class RenameKeys(beam.PTransform):
    """Finds kept rows whose keys others have too, see `tars.keys`.

    In: PCollection[ScorePart]. Out: PCollection[tuple[int, tuple[int, str]]], the index of a part, the rank of a row among its
    kept rows, and the row's new key. What travels are the keys.

    Attributes:
        rows: Where the parts are.
    """

    rows: RowSource

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[tuple[int, tuple[int, str]]]:
        """Groups keys by their stems; nothing is read where keys are unique already."""
        if self.rows.unique_keys:
            return parts.pipeline | "NoRenames" >> beam.Create([]).with_output_types(tuple[int, tuple[int, str]])
        return (
            parts
            | "SpreadParts" >> beam.Reshuffle()
            | "KeptKeys" >> beam.ParDo(_KeptKeys(self.rows)).with_output_types(tuple[str, tuple[str, int, int]])
            | "ByStem" >> beam.GroupByKey()
            | "RenameShared" >> beam.FlatMapTuple(lambda _, holders: _renames(holders))
        )


@dataclass(eq=False)
class NameRenames(beam.PTransform):
    """In: what `RenameKeys` gives. Out: PCollection of one bytes, which names all of it whatever the order."""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, renamed: beam.PCollection[tuple[int, tuple[int, str]]]) -> beam.PCollection[bytes]:
        """Sums the names of all."""
        return renamed | "NameRenames" >> beam.Map(_name) | "AllRenames" >> beam.CombineGlobally(_sum_of_names)


def kept_keys(source: RowSource, part: ScorePart) -> Iterator[tuple[str, tuple[str, int, int]]]:
    """The keys of a part's kept rows as they would be written, by their stem: (stem, (key, shard index, rank))."""
    if not part.kept:
        return
    with source.open(part) as opened:
        keys = opened.kept_column("key")
    for rank, key in enumerate(keys):
        written = safe_key(key)
        yield stem(written), (written, part.shard_index, rank)


def _renames(holders: Iterable[tuple[str, int, int]]) -> Iterator[tuple[int, tuple[int, str]]]:
    for holder in rename_shared(KeyHolder(*holder) for holder in holders):
        yield holder.shard_index, (holder.rank, holder.key)


def _name(renamed: tuple[int, tuple[int, str]]) -> bytes:
    """Sixteen bytes that name a new key."""
    return hashlib.blake2b(repr(renamed).encode(), digest_size=16).digest()


def _sum_of_names(names: Iterable[bytes]) -> bytes:
    """Names all of them, in whatever order they come and are summed."""
    return (sum(int.from_bytes(name, "little") for name in names) % (1 << 128)).to_bytes(16, "little")


class _KeptKeys(SideBySide):
    def __init__(self, source: RowSource) -> None:
        super().__init__()
        self._source = source

    def work(self, element: ScorePart, *side: Any) -> Iterator[tuple[str, tuple[str, int, int]]]:
        return kept_keys(self._source, element)
