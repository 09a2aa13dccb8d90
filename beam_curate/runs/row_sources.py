"""Where the rows that are packed come from: the score table of a run, or the tables beside a finished run's shards."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_curate.records import ScorePart, Shard
from beam_curate.runs.finished_run import (
    PackedRun,
    RunNotUsableError,
    open_samples_table,
    samples_of,
    shard_path,
    table_path,
)
from beam_curate.runs.packing import shard_name
from beam_curate.runs.run import Run
from beam_curate.runs.table_parts import TablePlace
from beam_curate.storage.files import size_of
from beam_curate.storage.parquet_reading import ParquetFile

SOURCE_PART = "source_part"
"""A column of rows under way: the index of the part that a row comes from."""
LINKS = "links"

Numbers = npt.NDArray[np.int64]


class OpenRows(Protocol):
    """A part whose kept rows can be read, in row groups."""

    @property
    def schema(self) -> pa.Schema:
        """All columns."""

    @property
    def group_rows(self) -> Sequence[int]:
        """The number of rows of each row group."""

    def kept_groups(self) -> Numbers:
        """The row group of each kept row."""

    def kept_column(self, column: str) -> list[str]:
        """One column of the kept rows, in order."""

    def read_kept(self, ranks: Numbers, columns: Sequence[str] | None = None) -> pa.Table:
        """The kept rows of these ranks, ascending; columns in the order of the schema, None for all."""


class RowSource(Protocol):
    """Where rows come from.

    Attributes:
        unique_keys: Whether keys are as they can be written, and each there once.
    """

    @property
    def unique_keys(self) -> bool:
        """See above."""

    def open(self, part: ScorePart) -> AbstractContextManager[OpenRows]:
        """Opens a part; its path and its index are enough."""

    def name(self, part: ScorePart) -> str:
        """What a user knows the part as: its shard."""

    def tars(self, rows: pa.Table) -> pa.ChunkedArray:
        """The path of the tar that each row's spans are in."""


@dataclass(frozen=True)
class TableRows:
    """The rows of a run's score table; their samples lie in the source shards.

    Attributes:
        output: The run's folder.
    """

    output: str
    unique_keys: bool = False

    def open(self, part: ScorePart) -> AbstractContextManager[OpenRows]:
        """Opens the part with the verdicts that count."""
        folder = part.path.partition("/")[0]
        if folder not in self._tables:
            self._tables[folder] = Run(self.output).table_of(part)
        return self._tables[folder].open(part.shard_index)

    @functools.cached_property
    def _tables(self) -> dict[str, TablePlace]:
        """By the folder of their parts: which table it is was settled at the run's begin, and a look reads run.json."""
        return {}

    def name(self, part: ScorePart) -> str:
        """The path of the source shard."""
        return part.shard

    def tars(self, rows: pa.Table) -> pa.ChunkedArray:
        """The source shards."""
        return rows.column("shard")


@dataclass(frozen=True)
class RunRows:
    """The rows of the samples of a finished run, which lie in its own shards.

    Attributes:
        folder: The run's folder.
    """

    folder: str
    unique_keys: bool = True

    @contextlib.contextmanager
    def open(self, part: ScorePart) -> Iterator[OpenRows]:
        """Opens the table beside a shard."""
        with open_samples_table(self.folder, part.shard_index) as file:
            yield _ShardRows(self.folder, part.shard_index, file)

    def name(self, part: ScorePart) -> str:
        """The name of the run's shard."""
        return part.shard.rpartition("/")[2]

    def tars(self, rows: pa.Table) -> pa.ChunkedArray:
        """The run's shards."""
        names = [shard_path(self.folder, index) for index in rows.column(SOURCE_PART).to_pylist()]
        return pa.chunked_array([pa.array(names, pa.string())])


def run_parts(run: PackedRun) -> Iterator[ScorePart]:
    """The shards of a finished run as parts of which all rows are kept."""
    for shard, samples, md5 in zip(run.shards, run.counts, run.digests, strict=True):
        path = f"{shard_name(shard.index)}.parquet"
        yield ScorePart(shard.index, shard.path, path, samples, samples, 0, 0, {}, footprint=md5)


class _ShardRows:
    """The rows of one shard of a finished run."""

    def __init__(self, folder: str, index: int, file: ParquetFile) -> None:
        self._folder, self._index, self._file = folder, index, file
        self.schema: pa.Schema = file.schema_arrow.remove_metadata()
        self.group_rows: Sequence[int] = [file.metadata.num_rows]

    def kept_groups(self) -> Numbers:
        """All rows are kept, and read together, since each one's span follows from those before it."""
        return np.zeros(self.group_rows[0], np.int64)

    def kept_column(self, column: str) -> list[str]:
        """One column of all rows."""
        found: list[str] = self.read_kept(np.arange(self.group_rows[0]), ["key", column]).column(column).to_pylist()
        return found

    def read_kept(self, ranks: Numbers, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of these ranks; what is a link in the source is a file of its own here."""
        names = self.schema.names if columns is None else [name for name in self.schema.names if name in columns]
        missing = [name for name in columns or () if name not in (*names, LINKS)]
        if missing:
            raise RunNotUsableError(f"{table_path(self._folder, self._index)} has no column {missing[0]!r}")
        path = shard_path(self._folder, self._index)
        shard = Shard(self._index, path, size_of(path))
        return samples_of(self._file, self._folder, shard, names).select(names).take(pa.array(ranks))
