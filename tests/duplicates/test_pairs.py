"""Pairs that a report shows: which ones, and what it takes to find them."""

import numpy as np
import pytest

from beam_curate.duplicates.candidates import FOREIGN
from beam_curate.duplicates.methods import semantic
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.duplicates.pairs import EACH, choose_pairs, no_pairs, pairs_of, some_rows
from beam_curate.duplicates.vector_rows import vector_row

BANDS = {0: [2.0, 0.9, 0.8, 0.5]}


def made(count):
    first, second = np.random.default_rng(0).integers(0, 60, (2, count)).astype(np.uint64)
    value = (np.minimum(first, second) * np.uint64(61) + np.maximum(first, second)) % np.uint64(997)
    return pairs_of(first, second, (value / 997).astype(np.float32))


def test_a_few_of_each_band():
    chosen = choose_pairs(made(500), BANDS)
    counts = np.histogram(chosen["similarity"], [0, 0.5, 0.8, 0.9, 2])[0]
    assert counts.tolist() == [0, EACH, EACH, EACH]


def test_choosing_among_chosen_ones_is_choosing_among_all():
    pairs = made(500)
    once = [choose_pairs(some, BANDS) for some in np.array_split(pairs, 7)]
    assert np.array_equal(choose_pairs(np.concatenate(once), BANDS), choose_pairs(pairs, BANDS))


def test_a_pair_that_was_found_twice_is_shown_once_and_none_with_itself():
    first, second = np.array([1, 2, 3], np.uint64), np.array([2, 1, 3], np.uint64)
    pairs = pairs_of(first, second, np.ones(3, np.float32))
    assert choose_pairs(pairs, BANDS)[["first", "second"]].tolist() == [(1, 2)]
    assert len(choose_pairs(no_pairs(), BANDS)) == 0


def crowded(count, dim=64):
    """Rows of one topic: nearly all pairs have a similarity between 0.8 and 1."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal(dim) + 0.35 * rng.random((count, 1)) * rng.standard_normal((count, dim))
    rows = np.zeros(count, vector_row(dim))
    rows["id"], rows["vector"] = rng.permutation(count), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows


def in_longdouble(rows, few, wanted):
    """All pairs of some rows with all of them, compared without a product of matrices."""
    wide = rows["vector"].astype(np.longdouble)
    wide /= np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    place = {int(row): number for number, row in enumerate(rows["id"])}
    found = []
    for row in few["id"].tolist():
        similarity = (wide * wide[place[row]]).sum(axis=1)
        others = np.array([wanted(row, other) for other in rows["id"].tolist()])
        one = np.full(int(others.sum()), row, np.uint64)
        found.append(pairs_of(one, rows["id"][others], similarity[others].astype(np.float32)))
    return np.concatenate(found)


@pytest.mark.parametrize("between", [False, True])
def test_of_a_crowd_those_are_shown_that_all_pairs_show_and_few_are_computed_exactly(monkeypatch, between):
    rows = crowded(3000)
    if between:
        rows["id"][1::2] |= np.uint64(FOREIGN)
    method = Semantic(0.05, between=between)
    few = some_rows(rows)
    exact, counted = semantic.similarities, []

    def counting(left, row, right, column):
        counted.append(len(row))
        return exact(left, row, right, column)

    monkeypatch.setattr(semantic, "similarities", counting)
    shown = choose_pairs(method.pairs(few, rows, None), {0: method.bands})

    def wanted(row, other):
        return row != other and (not between or bool(other & ~row & int(FOREIGN)))

    pairs = in_longdouble(rows, few, wanted)
    assert (pairs["similarity"] > 0.8).mean() > 0.9
    assert np.array_equal(np.sort(shown), np.sort(choose_pairs(pairs, {0: method.bands})))
    assert len(shown) > 5 * EACH
    assert sum(counted) < len(pairs) / 20
