"""Embeddings that are compared with none: those with NaN or infinity, and those of zeros alone."""

import numpy as np
import pytest

from beam_curate.duplicates.candidates import with_direction
from beam_curate.duplicates.methods.semantic import Semantic
from tests.support.made_duplicates import cosine, embeddings, expected, partners, search, vector_table

HOLES = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0], ids=str)


def with_holes(value):
    """Every seventh embedding is all zeros, or has the value in one place, the same in all."""
    vectors, ids, ranks = embeddings(300, 16, 60, 0.02)
    vectors[::7, 3 if value else slice(None)] = value
    return vectors, ids, ranks


def test_what_has_a_direction():
    numbers = np.array([[0, -0.0], [0, -6e-8], [np.nan, 1], [1, -np.inf], [-65504, 65504], [0, 1]], np.float16)
    assert with_direction(numbers).tolist() == [False, True, False, False, True, True]
    assert with_direction(numbers[:0]).tolist() == []


@HOLES
@pytest.mark.parametrize("border", [0.5, None])
def test_they_are_duplicates_of_none_and_others_are_found_as_without_them(value, border):
    vectors, ids, ranks = with_holes(value)
    others = np.arange(300) % 7 > 0
    wanted = expected(ids[others], ranks[others], cosine(vectors[others]) >= 1 - 0.02)
    edges, _ = search(Semantic(0.02, n_clusters=5, border=border), ids, ranks, vector_table(vectors))
    assert len(wanted) > 10
    assert partners(edges) == wanted


@HOLES
def test_they_have_no_place_between_hard_and_easy(value):
    vectors, _, _ = with_holes(value)
    others = np.arange(300) % 7 > 0
    method = Semantic(0.02, n_clusters=5)
    near = method.nearness(300, vector_table(vectors))(vectors)
    assert np.isnan(near[~others]).all()
    without = method.nearness(300, vector_table(vectors[others]))(vectors[others])
    np.testing.assert_allclose(near[others], without, atol=1e-6)


def test_any_number_of_zeros_costs_no_comparison():
    """They lie in one place in every projection, and no two of them are a pair."""
    vectors = np.zeros((3000, 16), np.float16)
    vectors[-1, 0] = 1
    ids = np.arange(3000, dtype=np.uint64)
    edges, comparisons = search(Semantic(0.02), ids, ids, vector_table(vectors))
    assert len(edges) == 0
    assert comparisons <= 1
