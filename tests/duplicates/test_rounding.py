"""Equal embeddings are duplicates whatever rounding makes of their similarity."""

import os
import subprocess
import sys

import numpy as np
import pytest

from beam_curate.duplicates.candidates import normalised, widened
from beam_curate.duplicates.cells import Cells
from beam_curate.duplicates.clusters import Clusters
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.duplicates.near_vectors import Bucket, Meeting, Who, best_partners, near_matrix
from tests.support.made_duplicates import vector_table

NOBODY = np.zeros(0, np.int64)


def unit_rows(rows, width, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def equal_pairs_missed():
    """How many of some pairs of equal vectors are no duplicates by a tiny eps, and how many pairs of others are."""
    missed = wrong = 0
    for width in (16, 256, 512, 768, 1024):
        for rows in (1, 2, 3, 5, 8, 17, 41):
            vectors = unit_rows(rows, width, rows)
            close = vectors.copy()
            largest = np.arange(rows), np.abs(vectors).argmax(axis=1)
            close[largest] = np.nextafter(close[largest], np.float16(0))  # one step of float16 away: 1e-9 or so
            twice = np.concatenate([vectors, vectors[::-1], close])
            _, near = near_matrix(twice, twice[::-1], 1e-12)
            near = near[:, ::-1]
            equal = np.eye(3 * rows, dtype=np.bool_)
            first = np.arange(rows)
            equal[first, 2 * rows - 1 - first] = equal[2 * rows - 1 - first, first] = True
            missed += int((equal & ~near).sum())
            wrong += int((near & ~equal).sum())
    return missed, wrong


def test_equal_vectors_are_duplicates_whatever_rounding_makes_of_them():
    assert equal_pairs_missed() == (0, 0)


@pytest.mark.parametrize("kernel", ["Haswell", "Sandybridge", "Nehalem"])
def test_so_they_are_with_other_kernels_of_blas(kernel):
    code = "from tests.duplicates.test_rounding import equal_pairs_missed; print(equal_pairs_missed())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OPENBLAS_CORETYPE": kernel},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == "(0, 0)"


def test_every_finite_float16_is_the_same_number_in_float32():
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = numbers[np.isfinite(numbers)]
    wide = widened(numbers.reshape(-1, 2))
    assert wide.dtype == np.float32
    assert np.array_equal(wide.ravel().view(np.uint32), numbers.astype(np.float32).view(np.uint32))
    records = np.zeros(5, [("id", "<u8"), ("vector", "<f2", (3,))])
    records["vector"] = numbers[:15].reshape(5, 3)
    assert np.array_equal(widened(records["vector"]), records["vector"].astype(np.float32))


def test_the_limit_is_kept_to_what_float64_can_tell():
    vectors = unit_rows(300, 512, 4) + unit_rows(1, 512, 5) * np.float16(3)
    exact = vectors.astype(np.longdouble)
    exact /= np.sqrt((exact * exact).sum(axis=1, keepdims=True))
    wanted = exact @ exact.T
    pairs = np.sort(1 - wanted[np.triu_indices(300, 1)])
    for rank in (10, 1000, 20000):
        eps = float((pairs[rank] + pairs[rank + 1]) / 2)  # between two pairs that float32 may not tell apart
        similarity, near = near_matrix(vectors, vectors, eps)
        assert np.array_equal(near, wanted >= 1 - np.longdouble(eps))
        np.testing.assert_allclose(similarity, wanted.astype(np.float32), atol=2e-6)


@pytest.mark.parametrize("many", [False, True], ids=["a pair", "among many that are near"])
@pytest.mark.parametrize(
    "sides", [(3, 4, 5), (4, 3, 5), (12, 5, 13), (8, 15, 17), (24, 7, 25), (21, 20, 29), (56, 33, 65)]
)
def test_a_pair_at_the_limit_is_one_of_duplicates(sides, many):
    """The similarity is a / c to the last bit: lengths of 1 in float32 would move it by 1e-8."""
    a, b, c = sides
    vectors = np.zeros((400 if many else 2, 16), np.float16)
    vectors[0::2, 0], vectors[1::2, 0], vectors[1::2, 1] = 1, a, b
    everyone, place = np.ones(len(vectors), np.bool_), np.arange(len(vectors))
    bucket = Bucket(vectors, normalised(vectors), 16)
    for eps, partner in ((1 - a / c, 0), (1 - a / c - 1e-11, 1)):
        found = best_partners(bucket, eps, [Meeting(place, NOBODY)], Who(everyone, everyone))
        assert found.of[found.row % 2 == 1].tolist() == [partner] * (len(vectors) // 2 - partner)


@pytest.mark.parametrize(("first", "count"), [(32, 32), (64, 64), (96, 96), (64, 192), (96, 192)])
def test_what_float32_loses_in_the_directions_compared_first_loses_no_pair(first, count):
    """All lies in these directions, and each limit is that of a pair: to the last bits it is as near as it may be."""
    rng = np.random.default_rng(count)
    wide = rng.standard_normal((200, count)) * 0.1 + rng.standard_normal(count)
    vectors = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float16)
    basis = np.linalg.qr(rng.standard_normal((count, count)))[0].astype(np.float32)
    points = normalised(vectors) @ basis
    exact = vectors.astype(np.longdouble)
    exact /= np.sqrt((exact * exact).sum(axis=1, keepdims=True))
    similarity = np.tril(exact @ exact.T, -1)
    everyone = np.ones(200, np.bool_)
    for apart in np.sort(1 - similarity[np.tril_indices(200, -1)])[:60]:
        eps = float(apart) + 1e-14
        near = similarity >= 1 - np.longdouble(eps)
        found = best_partners(
            Bucket(vectors, points, first), eps, [Meeting(np.arange(200), NOBODY)], Who(everyone, everyone)
        )
        assert found.row.tolist() == np.flatnonzero(near.any(axis=1)).tolist()
        assert found.of.tolist() == near.argmax(axis=1)[near.any(axis=1)].tolist()


def test_of_equal_vectors_the_similarity_is_one():
    vectors = np.repeat(unit_rows(7, 768), 12, axis=0)
    points = np.zeros((84, 1), np.float32)
    everyone = np.ones(84, np.bool_)
    found = best_partners(
        Bucket(vectors, points, points.shape[1]), 1e-9, [Meeting(np.arange(84), NOBODY)], Who(everyone, everyone)
    )
    assert found.of.tolist() == [row // 12 * 12 for row in range(84) if row % 12]
    assert (found.similarity == 1).all()


def test_equal_vectors_are_as_near_to_a_centroid_and_meet():
    centroids = normalised(unit_rows(9, 512, 1))
    middle = centroids[0] + centroids[1]
    vectors = np.concatenate(
        [unit_rows(5, 512), np.tile((middle / np.linalg.norm(middle)).astype(np.float16), (37, 1))]
    )
    method = Semantic(1e-9, 9)
    near = method.nearness(1000, vector_table(vectors))
    assert len(set(near(vectors)[5:].tolist())) == 1
    cells = Cells(Clusters(centroids, np.ones(centroids.shape[1], np.float32)), np.arange(9) // 2)
    for width in (1e-9, 1e-6):
        row, cluster, _ = cells.visits(normalised(vectors), width)
        assert set.intersection(*({*cluster[row == place].tolist()} for place in range(5, 42)))
