"""Rows of the score table on their way from their part to their output file, and their meeting there.

What travels: a row by itself, with the columns that the format of the files needs, if those of one file lie apart in the part,
as in a shuffle; else, as in source order, a reference to rows that lie together, and the file's writer reads them. Each part
chooses what costs fewer bytes of the table: it is never read more than twice in all.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zstandard

from beam_curate.records import PlacedRows, ScorePart
from beam_curate.runs.packing import Packing
from beam_curate.runs.row_sources import SOURCE_PART, OpenRows, RowSource
from beam_curate.runs.score_table import SCHEMA_VERSION
from beam_curate.tars.writing import safe_key

SOURCE_KEY: Final = "source_key"
SOURCE_RANK: Final = "source_rank"
SOURCE_TAR: Final = "source_tar"
OF_THE_WAY: Final = (SOURCE_KEY, SOURCE_PART, SOURCE_RANK, SOURCE_TAR)
"""Columns more than in the score table: the key as it stands in the source, the part, the row's rank among the part's kept
rows, and the tar that its spans are in."""
_FILE: Final = "output_file"
_PLACE: Final = "output_place"
_LEVEL: Final = 1
_MOST_READS: Final = 2
"""How often the table is read, at most."""
_METADATA: Final = {"beam_curate.schema_version": SCHEMA_VERSION}

Places = npt.NDArray[np.int64]
T = TypeVar("T")


class Kept(NamedTuple):
    """Kept rows of a part: (K,) their ranks among all of its kept rows, the files they go to, and their places there."""

    ranks: Places
    files: Places
    places: Places


@dataclass(frozen=True)
class Loose:
    """Rows that travel by themselves: a table of the columns that travel, those of OF_THE_WAY, the file and the place."""

    part: ScorePart
    table: pa.Table


def place_part(
    source: RowSource,
    part: ScorePart,
    packing: Packing,
    renamed: Mapping[int, str],
    finished: npt.NDArray[np.int64],
    columns: Sequence[str] | None = None,
) -> Iterator["Loose | tuple[int, PlacedRows]"]:
    """Sends the kept rows of a part on their way.

    Args:
        source: Where the part is.
        part: The part.
        packing: Where its rows go.
        renamed: The new keys of rows that must give theirs up, by rank.
        finished: The output files that are there already, ascending: their rows stay.
        columns: What travels of a row; None: all.

    Yields:
        References with their files, or the rows themselves.
    """
    ranks = packing.ranks(part.shard_index, part.kept)
    files, places = packing.places(part.shard_index)
    there = np.append(finished, -1)[np.searchsorted(finished, files)] == files
    left = np.flatnonzero(~there)
    kept = Kept(ranks[left], files[left], places[left])
    if not len(left):
        return
    # Rows of a file lie together unless one between them is left out.
    starts = np.flatnonzero((np.diff(kept.files, prepend=-1) != 0) | (np.diff(kept.ranks, prepend=-1) != 1))
    runs = [Kept(*(column[start:stop] for column in kept)) for start, stop in _pairs(starts, len(left))]
    if packing.division.seed is None and len(runs) <= _MOST_READS:  # wherever they lie: there is nothing to look up
        yield from (_reference(part, run, renamed) for run in runs)
        return
    with source.open(part) as opened:
        groups = opened.kept_groups()
        if len(groups) != part.kept:
            raise RuntimeError(f"{part.path} holds {len(groups)} kept rows, and {part.kept} were counted in it")
        if packing.division.seed is None and _is_cheap(runs, groups, np.array(opened.group_rows)):
            yield from (_reference(part, run, renamed) for run in runs)
            return
        rows = written(opened.read_kept(kept.ranks, columns), part.shard_index, kept.ranks, renamed)
    rows = rows.append_column(_FILE, pa.array(kept.files)).append_column(_PLACE, pa.array(kept.places))
    yield Loose(part, rows)


def _pairs(starts: Places, stop: int) -> Iterable[tuple[int, int]]:
    return zip(starts.tolist(), [*starts[1:].tolist(), stop], strict=True)


def _is_cheap(runs: Sequence[Kept], groups: Places, group_rows: Places) -> bool:
    """Whether reading each run by itself reads no row group more than _MOST_READS times, on average."""
    touched = [np.unique(groups[run.ranks]) for run in runs]
    apart = sum(int(group_rows[some].sum()) for some in touched)
    together = int(group_rows[np.unique(np.concatenate(touched))].sum())
    return apart <= _MOST_READS * together


def _reference(part: ScorePart, run: Kept, renamed: Mapping[int, str]) -> tuple[int, PlacedRows]:
    first, count = int(run.ranks[0]), len(run.ranks)
    keys = {rank: renamed[rank] for rank in run.ranks.tolist() if rank in renamed} if renamed else {}
    rows = PlacedRows(part.shard_index, part.path, b"", first, count, int(run.places[0]), keys)
    return int(run.files[0]), rows


def written(rows: pa.Table, part: int, ranks: Places, renamed: Mapping[int, str]) -> pa.Table:
    """Rows with the column `key` as it is to be written, and what names them in the source, see OF_THE_WAY.

    Args:
        rows: Kept rows of a part.
        part: Its index.
        ranks: Theirs among the part's kept rows.
        renamed: See `place_part`.
    """
    keys = [safe_key(key) for key in rows.column("key").to_pylist()]
    if renamed:
        keys = [renamed.get(rank, key) for rank, key in zip(ranks.tolist(), keys, strict=True)]
    rows = rows.append_column(SOURCE_KEY, rows.column("key"))
    rows = rows.append_column(SOURCE_PART, pa.array(np.full(len(ranks), part, np.int64)))
    rows = rows.append_column(SOURCE_RANK, pa.array(ranks, pa.int64()))
    return rows.set_column(rows.schema.get_field_index("key"), "key", pa.array(keys, pa.string()))


def packed(loose: Iterable[Loose]) -> Iterator[tuple[int, PlacedRows]]:
    """Rows of some parts of the same columns, by the file that they go to."""
    some = list(loose)
    if not some:
        return
    table = pa.concat_tables([one.table.replace_schema_metadata() for one in some])
    files = table.column(_FILE).to_numpy()
    order = np.lexsort((table.column(_PLACE).to_numpy(), files))
    table = table.drop_columns([_FILE]).take(pa.array(order)).combine_chunks()
    files = files[order]
    compress = zstandard.ZstdCompressor(_LEVEL).compress
    part = some[0].part
    for start, stop in _pairs(np.flatnonzero(np.diff(files, prepend=-1)), len(files)):
        # A slice is written with the buffers of its rows alone.
        batch = table.slice(start, stop - start).combine_chunks().to_batches()[0]
        rows = compress(batch.serialize().to_pybytes())
        yield int(files[start]), PlacedRows(part.shard_index, part.path, rows, count=stop - start)


class Meeting:
    """Brings the rows of output files together.

    The columns of rows that travel are those of the parts they come from: one part is opened to learn them, once.
    """

    def __init__(self, source: RowSource, columns: Sequence[str] | None = None) -> None:
        """Says where the rows come from, and what is read of them; None: all columns."""
        self._source = source
        self._columns = columns
        self._schema: pa.Schema | None = None

    def rows(self, parts: Iterable[PlacedRows]) -> pa.Table:
        """The rows of an output file, in their order.

        Raises:
            RuntimeError: A row is missing or doubled: the table was changed in between.
        """
        tables = [self._referred(placed) if not placed.rows else self._loose(placed) for placed in parts]
        table = pa.concat_tables(tables)
        places = table.column(_PLACE).to_numpy()
        order = np.argsort(places)
        if not np.array_equal(places[order], np.arange(len(places))):
            raise RuntimeError(
                f"the rows of an output file have gaps or meet: {len(places)} rows, to place {places.max()}"
            )
        rows = table.drop_columns([_PLACE]).take(pa.array(order)).combine_chunks()
        rows = rows.append_column(SOURCE_TAR, self._source.tars(rows))
        return rows.replace_schema_metadata(_METADATA)

    def _referred(self, placed: PlacedRows) -> pa.Table:
        ranks = np.arange(placed.first, placed.first + placed.count)
        rows = self._open(placed, lambda part: part.read_kept(ranks, self._columns))
        if rows.num_rows != placed.count:
            raise RuntimeError(
                f"{placed.path} has {rows.num_rows} of the {placed.count} kept rows from number {placed.first} on that it counted"
            )
        rows = written(rows, placed.shard_index, ranks, placed.renamed)
        places = np.arange(placed.start, placed.start + placed.count)
        return rows.append_column(_PLACE, pa.array(places)).replace_schema_metadata()

    def _loose(self, placed: PlacedRows) -> pa.Table:
        if self._schema is None:
            self._schema = self._open(placed, self._way_schema)
        data = pa.py_buffer(zstandard.ZstdDecompressor().decompress(placed.rows))
        return pa.Table.from_batches([pa.ipc.read_record_batch(data, self._schema)])

    def _way_schema(self, part: OpenRows) -> pa.Schema:
        fields = [field for field in part.schema if self._columns is None or field.name in self._columns]
        numbers = [pa.field(name, pa.int64()) for name in (SOURCE_PART, SOURCE_RANK, _PLACE)]
        return pa.schema([*fields, pa.field(SOURCE_KEY, pa.string()), *numbers])

    def _open(self, placed: PlacedRows, read: Callable[[OpenRows], T]) -> T:
        with self._source.open(ScorePart(placed.shard_index, "", placed.path, 0, 0, 0, 0, {})) as opened:
            return read(opened)
