"""Rows sorted by bucket in files, so that each bucket can be read alone: memory is bounded, and no vector is shuffled.

A run holds the rows of some parts, sorted by bucket, as plain records; beside it lies where each bucket begins. What is in a
range of buckets is one piece of each run.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_curate.storage.files import atomic_output, join
from beam_curate.storage.ranged_reading import RangeReader

WORK: Final = "duplicates/work"
"""Where the runs lie below the output folder, until the duplicates are found."""

Rows = npt.NDArray[np.void]
Counts = npt.NDArray[np.int64]


class Run(NamedTuple):
    """A run: its name below the output folder without the extension, and its number of rows."""

    name: str
    rows: int


class BucketRange(NamedTuple):
    """Buckets that are compared by one worker: `first` to `stop` - 1, and the number of their rows."""

    first: int
    stop: int
    rows: int


class Span(NamedTuple):
    """Rows `start` to `stop` - 1 of a run."""

    run: Run
    start: int
    stop: int


def write_run(output: str, name: str, buckets: npt.NDArray[np.int64], rows: Rows, n_buckets: int) -> tuple[Run, Counts]:
    """Writes rows by bucket, in their order inside each; gives the number of rows of each bucket too.

    Args:
        output: Folder.
        name: What the run is to be called: the same for the same rows.
        buckets: (N,) the bucket of each row.
        rows: (N,) records.
        n_buckets: How many buckets there are.
    """
    run = Run(f"{WORK}/{name}", len(rows))
    counts = np.bincount(buckets, minlength=n_buckets).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype("<i8")
    order = np.argsort(buckets, kind="stable")
    with atomic_output(output, f"{run.name}.rows") as stream:
        for start in range(0, len(rows), _WRITTEN_ROWS):
            stream.write(rows[order[start : start + _WRITTEN_ROWS]].tobytes())
    with atomic_output(output, f"{run.name}.starts") as stream:
        stream.write(starts.tobytes())
    return run, counts


_WRITTEN_ROWS: Final = 4096


def plan_ranges(counts: Counts, most_rows: int) -> Iterator[BucketRange]:
    """Cuts the buckets into ranges of at most so many rows; a bucket that has more is alone."""
    first, rows = 0, 0
    for bucket, count in enumerate(counts.tolist()):
        if rows + count > most_rows:
            if rows:
                yield BucketRange(first, bucket, rows)
            first, rows = bucket, 0
        rows += count
    if rows:
        yield BucketRange(first, len(counts), rows)


class RunReader:
    """Reads runs by bucket.

    Attributes:
        output: Folder.
        runs: All runs.
        dtype: Of their rows.
    """

    def __init__(self, output: str, runs: Sequence[Run], dtype: Any) -> None:
        self.output = output
        self.runs = sorted(runs)
        self.dtype = np.dtype(dtype)

    def buckets(self, wanted: BucketRange) -> Iterator[Rows]:
        """The rows of each bucket of a range that has any: the whole range is in memory."""
        for _, rows in self.numbered(wanted):
            yield rows

    def numbered(self, wanted: BucketRange) -> Iterator[tuple[int, Rows]]:
        """Likewise, with the bucket's number."""
        pieces, numbers = [], []
        for run in self.runs:
            starts = self._starts(run, wanted.first, wanted.stop)
            pieces.append(self.read([Span(run, int(starts[0]), int(starts[-1]))]))
            numbers.append(np.repeat(np.arange(len(starts) - 1), np.diff(starts)))
        number = np.concatenate(numbers)
        order = np.argsort(number, kind="stable")
        ends = np.cumsum(np.bincount(number, minlength=1))
        rows = np.concatenate(pieces)
        for place, (start, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
            if end > start:
                yield wanted.first + place, rows[order[start:end]]

    def blocks(self, bucket: int, most_rows: int) -> list[list[Span]]:
        """The rows of a bucket in blocks of at most so many, for `read`."""
        blocks: list[list[Span]] = []
        free = 0
        for run in self.runs:
            start, stop = (int(place) for place in self._starts(run, bucket, bucket + 1))
            while start < stop:
                if not free:
                    blocks.append([])
                    free = most_rows
                taken = min(free, stop - start)
                blocks[-1].append(Span(run, start, start + taken))
                start += taken
                free -= taken
        return blocks

    def read(self, spans: Sequence[Span]) -> Rows:
        """The rows of spans, one after the other."""
        size = self.dtype.itemsize
        parts = [
            np.frombuffer(self._bytes(f"{span.run.name}.rows", span.start * size, span.stop * size), self.dtype)
            for span in spans
        ]
        return np.concatenate([np.zeros(0, self.dtype), *parts])

    def _starts(self, run: Run, first: int, stop: int) -> Counts:
        starts: Counts = np.frombuffer(self._bytes(f"{run.name}.starts", 8 * first, 8 * (stop + 1)), "<i8")
        return starts

    def _bytes(self, name: str, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        with contextlib.closing(RangeReader(join(self.output, name))) as reader:
            data = reader.read(start, stop)
        if len(data) != stop - start:
            raise RuntimeError(f"{name} is shorter than when it was written: it was changed in between")
        return data
