"""Rows that meet in an output file: each place has one row, whatever way it came."""

import contextlib

import pyarrow as pa
import pytest

from beam_curate.records import PlacedRows
from beam_curate.runs.placed_rows import Meeting


class Source:
    """Parts of ten kept rows each, whose keys are part and rank."""

    unique_keys = True

    @contextlib.contextmanager
    def open(self, part):
        yield Opened(part.shard_index)

    def tars(self, rows):
        return pa.chunked_array([rows.column("key").combine_chunks()])


class Opened:
    def __init__(self, part):
        self._part = part

    def read_kept(self, ranks, columns=None):
        return pa.table({"key": [f"{self._part}-{rank}" for rank in ranks[ranks < 10]]})


def meeting(*pieces):
    """The keys of a file that is made of pieces: part, first rank, number, place of the first."""
    placed = [PlacedRows(part, "", b"", first, count, start, {}) for part, first, count, start in pieces]
    return Meeting(Source(), ["key"]).rows(placed).column("key").to_pylist()


def test_rows_are_in_the_order_of_their_places():
    assert meeting((1, 4, 2, 3), (0, 7, 3, 0)) == ["0-7", "0-8", "0-9", "1-4", "1-5"]


@pytest.mark.parametrize(
    "pieces", [[(0, 0, 2, 1)], [(0, 0, 2, 0), (1, 0, 2, 3)], [(0, 0, 2, 0), (1, 0, 2, 1)], [(0, 0, 2, 0), (0, 0, 2, 0)]],
    ids=["the first is missing", "a gap", "two at a place", "all twice"],
)  # fmt: skip
def test_a_place_without_a_row_or_with_two_is_an_error(pieces):
    with pytest.raises(RuntimeError, match="have gaps or meet"):
        meeting(*pieces)


def test_rows_that_are_gone_are_an_error():
    with pytest.raises(RuntimeError, match="has 1 of the 2 kept rows from number 9 on"):
        meeting((0, 9, 2, 0))
