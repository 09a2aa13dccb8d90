"""Rows with an embedding: put in order as records are, and held twice at most."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from apache_beam.pvalue import TaggedOutput

from beam_curate.duplicates.cells import Cells
from beam_curate.duplicates.clusters import Clusters
from beam_curate.duplicates.methods import number_of
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.duplicates.settling import Spreading
from beam_curate.duplicates.vector_rows import in_order, vector_row
from beam_curate.records import BlockRows, BucketRows
from beam_curate.transforms import compare_buckets
from beam_curate.transforms.compare_buckets import bucket_key

DIM = 768
BYTES = vector_row(DIM).itemsize
CELLS = Cells(Clusters(np.eye(30, 64, dtype=np.float32), np.ones(64, np.float32)), np.zeros(30, np.int64))
HOW = Spreading(np.eye(DIM, 64, dtype=np.float32), 64, CELLS, 0.25 * Semantic(1e-6).settling.distance)


def made(count, dim, first=0, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, vector_row(dim))
    rows["id"] = np.arange(first, first + count, dtype=np.uint64)
    rows["rank"] = rng.integers(0, max(1, count // 3), count)
    rows["cell"] = rows["id"] % 30
    rows["vector"] = np.random.default_rng(first).standard_normal((count, dim))
    return rows


@pytest.mark.parametrize(("asking", "answering"), [(0, 0), (5, 0), (0, 5), (300, 200)])
def test_each_row_once_the_best_one_first_and_its_vector_with_it(asking, answering):
    everything = np.random.default_rng(1).permutation(made(400, 4))
    asks, answers = everything[:asking], everything[400 - answering :]  # a hundred of the last ones are in both
    found = in_order(np.array_split(asks, 3), np.array_split(answers, 2), 4)
    wanted = np.unique(np.concatenate([asks, answers]))
    wanted = wanted[np.lexsort((wanted["id"], ~wanted["rank"]))]
    for name in ("id", "rank", "cell"):
        assert found.heads[name].tolist() == wanted[name].tolist()
    assert np.array_equal(found.vectors, wanted["vector"])
    assert found.asks.tolist() == np.isin(wanted["id"], asks["id"]).tolist()
    assert found.answers.tolist() == np.isin(wanted["id"], answers["id"]).tolist()


def test_pieces_that_ask_and_answer_are_read_once():
    pieces = np.array_split(np.random.default_rng(2).permutation(made(100, 4)), 3)
    found = in_order(pieces, pieces, 4)
    assert len(found.heads) == 100
    assert found.asks.all()
    assert found.answers.all()


def whole(count):
    """Compares a bucket as one, which comes in pieces from the disk."""
    sent = (BucketRows(made(64, DIM, first).tobytes()) for first in range(0, count, 64))
    buckets = compare_buckets._CompareBuckets([Semantic(1e-6)])
    buckets.start_bundle()
    return buckets.process((bucket_key(number_of(Semantic), 0), sent), [HOW])


def in_blocks(count):
    """Compares two blocks, which come in pieces from the disk."""
    key = bucket_key(number_of(Semantic), 0)
    sent = (BlockRows(key, 1, 0, first % 128 > 0, made(64, DIM, first).tobytes()) for first in range(0, count, 64))
    blocks = compare_buckets._CompareBlocks([Semantic(1e-6)])
    blocks.start_bundle()
    return blocks.process((1, sent), [HOW])


def peak(compare, count):
    tracemalloc.start()
    try:
        list(compare(count))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("compare", "times"), [(whole, 3), (in_blocks, 3)])
def test_a_bucket_lies_in_memory_twice_and_its_projection_some_times(compare, times):
    few, many = 8192, 16384  # what is held for a fixed number of rows at once is in both
    peak(compare, few)  # what is imported at first use
    each = (peak(compare, many) - peak(compare, few)) / (many - few)
    assert 1 < each / BYTES < times


class Pieces:
    """Rows of a bucket in pieces from the disk, which can be gone through again: one in thirty is at home in the bucket."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return (BucketRows(made(64, DIM, first).tobytes()) for first in range(0, self.count, 64))


def test_of_a_bucket_of_visitors_no_more_lie_in_memory_however_many_there_are(monkeypatch):
    monkeypatch.setattr(Semantic, "block_rows", 2048)
    how = HOW._replace(cells=replace(HOW.cells, groups=np.minimum(np.arange(30), 1)))

    def streamed(count):
        buckets = compare_buckets._CompareBuckets([Semantic(1e-6)])
        buckets.start_bundle()
        yield from buckets.process((bucket_key(number_of(Semantic), 0), Pieces(count)), [how])
        yield from buckets.finish_bundle()

    few, many = 8192, 24576
    peak(streamed, few)
    # Of those at home, a thirtieth, and of what is found there is more.
    assert (peak(streamed, many) - peak(streamed, few)) / (many - few) / BYTES < 0.3
    assert not [one for one in streamed(few) if isinstance(one, TaggedOutput) and one.tag == compare_buckets._BLOCKS]
