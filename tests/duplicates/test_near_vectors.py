"""The best partners of rows that meet in cells: those of a comparison of all pairs that meet, and each pair is compared once."""

import numpy as np
import pytest

from beam_curate.duplicates import near_vectors
from beam_curate.duplicates.near_vectors import Bucket, Meeting, Who, best_partners

EPS = 0.05
ROWS = 1200


def bucket_of(rng, near, crowd):
    """(N, 24) vectors of length 1, a part of which is near an earlier one; the last `crowd` of a random order are alike."""
    vectors = rng.standard_normal((ROWS, 24))
    for row in np.flatnonzero(rng.random(ROWS) < near):
        vectors[row] = vectors[rng.integers(0, row + 1)] + 0.05 * rng.standard_normal(24)
    alike = rng.permutation(ROWS)[:crowd]
    vectors[alike] = rng.standard_normal(24) + 0.005 * rng.standard_normal((crowd, 24))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    return Bucket(vectors, np.ascontiguousarray(vectors[:, :16], np.float32), 8)


def meetings_of(rng, cells):
    """Every row is at home in one cell, and visits others; in some cells the members have met before."""
    homes = rng.integers(0, cells, ROWS)
    for cell in range(cells):
        visitors = np.flatnonzero((homes != cell) & (rng.random(ROWS) < 0.3))
        yield Meeting(np.flatnonzero(homes == cell), visitors, bool(cell % 3 == 2))


def expected(bucket, meetings, who, known):
    """By the definition: of the rows that answer, are better, near, and met, the best one."""
    vectors = bucket.vectors.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    meets = np.zeros((ROWS, ROWS), np.bool_)
    for members, visitors, met in meetings:
        if not met:
            meets[np.ix_(members, members)] = True
        meets[np.ix_(visitors, members)] = meets[np.ix_(members, visitors)] = True
    good = meets & (vectors @ vectors.T >= 1 - EPS) & who.asks[:, None] & who.answers[None, :]
    good &= np.arange(ROWS)[None, :] < np.minimum(np.arange(ROWS), known)[:, None]
    return {row: int(good[row].argmax()) for row in np.flatnonzero(good.any(axis=1)).tolist()}


@pytest.mark.parametrize(("near", "crowd"), [(0.0, 0), (0.3, 0), (0.9, 0), (0.1, 300), (0.1, ROWS)])
@pytest.mark.parametrize("asked", [1, 16, 128])
@pytest.mark.parametrize("between", [False, True])
def test_the_best_partners_are_those_of_all_pairs_that_meet(near, crowd, asked, between, monkeypatch):
    monkeypatch.setattr(near_vectors, "ASKED", asked)
    monkeypatch.setattr(near_vectors, "_ASKING", 200)
    rng = np.random.default_rng(crowd + asked)
    bucket, everyone = bucket_of(rng, near, crowd), np.ones(ROWS, np.bool_)
    asks = rng.random(ROWS) < 0.5
    who = Who(asks, ~asks) if between else Who(everyone, everyone)
    known = np.where(rng.random(ROWS) < 0.2, rng.integers(0, ROWS, ROWS), ROWS)
    meetings = [*meetings_of(rng, 7)]
    found = best_partners(bucket, EPS, meetings, who, known)
    wanted = expected(bucket, meetings, who, known)
    assert dict(zip(found.row.tolist(), found.of.tolist(), strict=True)) == wanted
    assert bool(wanted) == bool(near or crowd)


def test_a_visitor_and_a_member_are_compared_once():
    bucket = bucket_of(np.random.default_rng(1), 0, 0)
    everyone = np.ones(ROWS, np.bool_)
    mixed = np.random.default_rng(2).permutation(ROWS)
    members, visitors = np.sort(mixed[:200]), np.sort(mixed[200:])
    found = best_partners(bucket, EPS, [Meeting(members, visitors, True)], Who(everyone, everyone))
    assert not len(found.row)
    assert found.comparisons <= 200 * 1000


def test_a_crowd_of_visitors_and_members_is_hardly_compared():
    bucket = bucket_of(np.random.default_rng(1), 0, ROWS)
    everyone = np.ones(ROWS, np.bool_)
    mixed = np.random.default_rng(2).permutation(ROWS)
    members, visitors = np.sort(mixed[:600]), np.sort(mixed[600:])
    found = best_partners(bucket, EPS, [Meeting(members, visitors)], Who(everyone, everyone))
    assert len(found.row) == ROWS - 1
    assert found.comparisons < 3 * 128 * ROWS
