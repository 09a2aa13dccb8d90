"""Pairs that a report shows: which ones, and what it takes to find them."""

import numpy as np
import pytest

from beam_curate.duplicates.candidates import FOREIGN, Candidates
from beam_curate.duplicates.methods import perceptual, semantic
from beam_curate.duplicates.methods.perceptual import Perceptual
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.duplicates.pairs import EACH, choose_pairs, no_pairs, pairs_of, some_rows
from beam_curate.duplicates.vector_rows import vector_row
from tests.support.made_duplicates import cosine, hash_table, search, vector_table

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
    assert not between or len(set((few["id"] & FOREIGN).tolist())) == 2
    exact, counted = semantic.similarities, []

    def counting(left, row, right, column):
        counted.append(len(row))
        return exact(left, row, right, column)

    monkeypatch.setattr(semantic, "similarities", counting)
    shown = choose_pairs(method.pairs(few, rows, None), {0: method.bands})

    def wanted(row, other):
        return row != other and (not between or bool((row ^ other) & int(FOREIGN)))

    pairs = in_longdouble(rows, few, wanted)
    assert (pairs["similarity"] > 0.8).mean() > 0.9
    assert np.array_equal(np.sort(shown), np.sort(choose_pairs(pairs, {0: method.bands})))
    assert len(shown) > 5 * EACH
    assert sum(counted) < len(pairs) / 20


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("between", [False, True])
def test_of_a_crowd_of_hashes_those_are_shown_that_all_pairs_show_and_few_are_held(mirrored, between, monkeypatch):
    """A web crawl has millions of plain surfaces, all near the few that are compared with all."""
    rng = np.random.default_rng(0)
    method = Perceptual(4, mirrored, between=between)
    ids = rng.permutation(np.arange(6000, dtype=np.uint64))
    if between:
        ids[1::2] |= np.uint64(FOREIGN)
    hashes, turned = (np.uint64(1) << rng.integers(0, 4, 6000, np.uint64) for _ in range(2))
    table = hash_table(hashes, turned)
    rows = method.spread(Candidates(ids, ids, table), method.plan(6000, table).spreading).rows
    few = some_rows(rows)
    held = []
    monkeypatch.setattr(perceptual, "pairs_of", lambda *columns: held.append(len(columns[0])) or pairs_of(*columns))
    shown = method.pairs(few, rows, None)
    faces = {int(one): [hashes[place], turned[place]] for place, one in enumerate(ids)}
    apart = [[np.bitwise_count(a ^ b) for a in [hashes, turned][: 1 + mirrored]]
             for row in few["id"].tolist() for b in faces[row][: 1 + mirrored]]  # fmt: skip
    apart = np.array(apart).reshape(len(few), -1, len(ids)).min(axis=1)
    wanted = (few["id"][:, None] ^ ids[None, :]) & FOREIGN != 0 if between else np.ones(apart.shape, np.bool_)
    row, column = np.nonzero(wanted)
    every = pairs_of(few["id"][row], ids[column], (1 - apart[row, column] / 64).astype(np.float32))
    assert np.array_equal(
        np.sort(choose_pairs(shown, {0: method.bands})), np.sort(choose_pairs(every, {0: method.bands}))
    )
    assert len(set(shown["similarity"].tolist())) == 2
    assert max(held) <= 32 * 4096 < len(few) * len(rows)


def test_where_nearly_all_are_of_the_other_dataset_pairs_with_the_few_of_ours_are_shown():
    rows = crowded(3000)
    rows["id"][20:] |= np.uint64(FOREIGN)
    few = some_rows(rows)
    assert (few["id"] & FOREIGN != 0).all()
    shown = Semantic(0.05, between=True).pairs(few, rows, None)
    assert len(choose_pairs(shown, {0: Semantic(0.05).bands})) > 3 * EACH
    assert ((shown["first"] ^ shown["second"]) & FOREIGN != 0).all()


def test_mirrored_ones_are_shown_as_near_as_the_nearest_of_their_faces():
    """Faces meet one by one: of two of them that meet the other ones may be nearer."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 1 << 62, 6, dtype=np.uint64)
    hashes, mirrored = (
        base[rng.integers(0, 6, 60)] ^ (np.uint64(1) << rng.integers(0, 8, 60, np.uint64)) for _ in range(2)
    )
    ids = np.arange(60, dtype=np.uint64)
    faces = [hashes, mirrored]
    apart = np.min([np.bitwise_count(a[:, None] ^ b[None, :]) for a in faces for b in faces], axis=0)
    method = Perceptual(4, mirrored=True)
    edges, _ = search(method, ids, ids, hash_table(hashes, mirrored))
    assert len(edges) > 40
    assert edges["similarity"].tolist() == (1 - apart[edges["row"], edges["of"]] / 64).tolist()
    plan = method.plan(60, hash_table(hashes, mirrored))
    rows = method.spread(Candidates(ids, ids, hash_table(hashes, mirrored)), plan.spreading).rows
    shown = method.pairs(rows, rows, plan.comparing)
    assert shown["similarity"].tolist() == (1 - apart[shown["first"], shown["second"]] / 64).tolist()


@pytest.mark.parametrize("eps", [1e-6, 1e-7, 1e-8])
def test_what_float32_takes_for_the_limit_is_shown_on_its_side(eps):
    """Near 1 a float32 is 6e-8 from the next one: a pair that is a little farther apart than `eps` is none of duplicates."""
    rng = np.random.default_rng(0)
    apart = np.sqrt(2 * eps / 64) * rng.uniform(0, 2, (40, 1)) * rng.standard_normal((40, 64))
    vectors = (rng.standard_normal(64) / 8 + apart).astype(np.float16)
    rows = np.zeros(40, vector_row(64))
    rows["id"], rows["vector"] = np.arange(40), vectors
    method = Semantic(eps)
    alike = cosine(vectors) >= 1 - eps
    shown = method.pairs(rows, rows, None)
    assert np.array_equal(shown["similarity"] >= np.float32(method.limit(eps)), alike[shown["first"], shown["second"]])
    assert len(set(alike[shown["first"], shown["second"]].tolist())) == 2
    edges, _ = search(Semantic(eps, border=0.5), rows["id"], rows["id"], vector_table(vectors))
    assert (edges["similarity"] >= np.float32(method.limit(eps))).all()
