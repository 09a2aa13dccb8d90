"""Large buckets in blocks: how many pairs of blocks there are, and who is in them."""

import numpy as np
import pytest

from beam_curate.duplicates import blocks
from beam_curate.duplicates.candidates import FOREIGN
from beam_curate.duplicates.cells import Cells
from beam_curate.duplicates.clusters import Clusters
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.duplicates.settling import Spreading

ROW = np.dtype([("id", "<u8"), ("rank", "<u8")])


def rows_of(ranks, foreign=0):
    rows = np.zeros(len(ranks), ROW)
    rows["id"], rows["rank"] = np.arange(len(ranks)), ranks
    rows["id"][len(ranks) - foreign :] |= FOREIGN if foreign else np.uint64(0)
    return rows


def cut(rows, left, size, between=False, pieces=3):
    """By pair of blocks the ids that ask and those that answer."""
    found = {}
    answering = blocks.keys(rows[(rows["id"] & FOREIGN) != 0] if between else rows)
    split = np.array_split(rows, pieces)
    for block in blocks.pairs_of_blocks(split, blocks.keys(left), answering, size, between):
        found.setdefault((block.asking, block.answering), ([], []))[block.answers].extend(block.rows["id"].tolist())
    return found


@pytest.mark.parametrize("kinds", [1, 7, 1000])
def test_each_row_that_is_left_meets_each_better_one(kinds):
    rng = np.random.default_rng(kinds)
    rows = rows_of(rng.integers(0, kinds, 300))
    left = rows[rng.random(300) < 0.4]
    met = set()
    for asking, answering in cut(rows, left, 50).values():
        assert len(asking) <= 50
        assert len(answering) <= 50
        assert set(asking) <= set(left["id"].tolist())
        met |= {(one, other) for one in asking for other in answering}
    rank = rows["rank"].astype(int)
    better = {
        (int(one), other)
        for one in left["id"]
        for other in range(300)
        if (rank[other], -other) > (rank[int(one)], -int(one))
    }
    assert better <= met


def test_the_number_of_pairs_is_that_of_the_rows_left():
    rows = rows_of(np.arange(1000))
    assert len(cut(rows, rows, 100)) == 55  # of 100: each block asks itself and those that are better
    assert len(cut(rows, rows[:100], 100)) == 10  # the worst ones
    assert len(cut(rows, rows[450:550], 100)) == 6
    assert cut(rows, rows[-1:], 100) == {}  # the best one has nobody to ask
    assert cut(rows, rows[:0], 100) == {}


def test_between_datasets_those_of_the_other_one_answer():
    rows = rows_of(np.concatenate([np.arange(200, dtype=np.uint64), np.full(100, 2**64 - 1, np.uint64)]), foreign=100)
    found = cut(rows, rows[:120], 50, between=True)
    assert sorted(found) == [(one, other) for one in range(3) for other in range(2)]
    for asking, answering in found.values():
        assert all(one < 120 for one in asking)
        assert all(one & int(FOREIGN) for one in answering)


def test_leaders_are_the_best_that_may_answer(monkeypatch):
    monkeypatch.setattr(blocks, "LEADERS", 10)
    rows = rows_of(np.random.default_rng(0).permutation(100))
    assert blocks.leaders(np.array_split(rows, 7), False)["rank"].tolist() == list(range(99, 89, -1))
    assert len(blocks.leaders([rows], True)) == 0


@pytest.mark.parametrize("method", [Semantic(0.01)])
def test_four_hundred_thousand_equal_embeddings_make_no_pairs_of_blocks(method):
    vectors = np.ones((400_000, 8), np.float16) / np.float16(8**0.5)
    one_cell = Cells(Clusters(np.zeros((1, 8), np.float32), np.ones(8, np.float32)), np.zeros(1, np.int64))
    how = Spreading(np.eye(8, dtype=np.float32), 8, one_cell, 0.0)
    rows = np.zeros(len(vectors), method.dtype(how))
    rows["id"], rows["rank"] = np.arange(len(rows)), np.random.default_rng(0).permutation(len(rows))
    rows["vector"] = vectors
    pieces = np.array_split(rows, 20)
    best = blocks.leaders(pieces, False)
    led = [blocks.asked(method, 0, piece, best, how) for piece in pieces]
    left = np.concatenate([one.left for one in led])
    assert left["rank"].tolist() == [399_999]
    assert sum(one.found.comparisons for one in led) <= 400_000 * blocks.LEADERS
    assert list(blocks.pairs_of_blocks(pieces, left, blocks.keys(rows), 1 << 16, False)) == []
    best_id = int(left["id"][0])
    assert all((one.found.edges["of"] == best_id).all() for one in led)
    assert sum(len(one.found.edges) for one in led) == 399_999
