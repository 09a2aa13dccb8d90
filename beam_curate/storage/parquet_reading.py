"""Parquet files, of which exactly the columns that are wanted are fetched."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.storage.ranged_reading import RangeReader, RangeStream

MAX_GAP_BYTES: Final = 1 << 16
"""Unwanted bytes between two column chunks that are fetched rather than asked around, 64 KiB: what 1 ms brings at 64 MB/s,
where a request takes 50 ms. pyarrow's own choice for its pre-buffering is 8 KiB; that reads in threads of its own, see below."""


class _Held(NamedTuple):
    """A piece of the file."""

    start: int
    data: bytes


class _Ranges(RangeStream):
    """A file of which pieces can be fetched before they are read.

    pyarrow reads the footer with one read of 64 KiB from the end, and then each column chunk with one read. The end of the file
    stays in memory: it is the whole of a small one, as overlays are, of which nothing then is asked for twice.
    """

    def __init__(self, path: str) -> None:
        self._end: _Held | None = None
        self._held: list[_Held] = []
        super().__init__(RangeReader(path))

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetches pieces, given as start and stop, and holds them in place of those before."""
        self._held = [
            _Held(start, self._reader.read(start, stop)) for start, stop in ranges if self._holding(start, stop) is None
        ]

    def release(self) -> None:
        """Forgets what was fetched."""
        self._held = []

    def fetched(self, start: int, stop: int) -> bytes:
        """The bytes of a range, from a piece that is held or by a request."""
        held = self._holding(start, stop)
        if held is not None:
            # A view, which pyarrow takes like bytes: copying an embedding column costs a third of decoding it.
            return cast(bytes, memoryview(held.data)[start - held.start : stop - held.start])
        data = super().fetched(start, stop)
        if self._end is None and stop >= self._reader.size:
            self._end = _Held(start, data)
        return data

    def _holding(self, start: int, stop: int) -> _Held | None:
        several = self._held if self._end is None else [self._end, *self._held]
        return next((one for one in several if one.start <= start and stop <= one.start + len(one.data)), None)


class ParquetFile(pq.ParquetFile):
    """A Parquet file that fetches the wanted column chunks of a row group together, and nothing else.

    Everything is read in the calling thread. Arrow's own threads would call the Python stream, and one that still holds it when
    the interpreter ends aborts the process ("terminate called without an active exception", seen once in a short command);
    hence no pre-buffering either.
    """

    def __init__(self, stream: _Ranges, buffer_bytes: int = 0) -> None:
        """Opens the file; with a buffer, `iter_batches` reads column chunks in pieces of its size."""
        self._ranges = stream
        super().__init__(stream, buffer_size=buffer_bytes, pre_buffer=False)

    @functools.cached_property
    def schema_arrow(self) -> pa.Schema:
        """The columns; pyarrow makes them anew each time it is asked."""
        return super().schema_arrow

    def read_row_group(self, i: int, columns: Sequence[str] | None = None, **_: Any) -> pa.Table:
        """Reads the columns of a row group; None: all."""
        self._ranges.fetch(_merged(_chunks(self.metadata.row_group(i), columns)))
        try:
            return super().read_row_group(i, columns=None if columns is None else list(columns), use_threads=False)
        finally:
            self._ranges.release()

    def read(self, columns: Sequence[str] | None = None, **_: Any) -> pa.Table:
        """Reads the columns of all rows; None: all."""
        groups = [self.read_row_group(group, columns) for group in range(self.num_row_groups)]
        if groups:
            return pa.concat_tables(groups)
        return super().read(columns=None if columns is None else list(columns), use_threads=False)


def _chunks(group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> Iterator[tuple[int, int]]:
    """Start and stop of the wanted column chunks of a row group."""
    wanted = None if columns is None else set(columns)
    for number in range(group.num_columns):
        chunk = group.column(number)
        path = chunk.path_in_schema
        if wanted is None or path in wanted or path.partition(".")[0] in wanted:
            start = chunk.data_page_offset
            if chunk.dictionary_page_offset is not None:
                start = min(start, chunk.dictionary_page_offset)
            yield start, start + chunk.total_compressed_size


def _merged(chunks: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(chunks):
        if merged and start - merged[-1][1] <= MAX_GAP_BYTES:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


@contextlib.contextmanager
def open_parquet(path: str, buffer_bytes: int = 0) -> Iterator[ParquetFile]:
    """Opens a Parquet file.

    Args:
        path: The file.
        buffer_bytes: What `iter_batches` reads of a column chunk at a time; 0: all of it.

    Raises:
        StorageError: It cannot be opened or, later, read.
        pa.ArrowInvalid: It is none.
    """
    with contextlib.closing(_Ranges(path)) as stream:
        yield ParquetFile(stream, buffer_bytes)
