"""Duplicates without a pipeline: candidates, clusters, buckets, edges and groups."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beam_curate.duplicates import clusters, exact, groups, perceptual, semantic
from beam_curate.duplicates.candidates import FOREIGN, _nearness, better, ids_of, normalised, places_of
from beam_curate.duplicates.edges import EDGE, METHODS, best_edges, pair_edges, star_edges
from beam_curate.duplicates.image_hashes import hash_image, perceptual_hash
from beam_curate.duplicates.spilling import BucketRange, RunReader, plan_ranges, write_run


def _u8(*values):
    return np.array(values, np.uint64)


def _edge(row, of, method="semantic", similarity=0.99, ranks=None):
    ranks = ranks or {}
    edge = np.zeros(1, EDGE)
    edge["row"], edge["of"], edge["similarity"], edge["method"] = row, of, similarity, METHODS.index(method)
    edge["row_rank"], edge["of_rank"] = ranks.get(row, 100 - row), ranks.get(of, 100 - of)
    return edge


def test_an_id_tells_shard_and_index():
    ids = ids_of(7, np.array([0, 3, 2**31 - 1], np.int32)) | FOREIGN
    shards, index = places_of(ids)
    assert shards.tolist() == [7, 7, 7]
    assert index.tolist() == [0, 3, 2**31 - 1]


def test_of_two_rows_of_one_rank_the_first_is_better():
    assert better(_u8(5, 5, 4), _u8(1, 2, 1), _u8(5, 5, 5), _u8(2, 1, 9)).tolist() == [True, False, False]


class TestRuns:
    def test_buckets_are_read_from_all_runs(self, tmp_path):
        dtype = np.dtype([("id", "<u8"), ("rank", "<u8")])
        rng = np.random.default_rng(0)
        runs, counts, expected = [], 0, {}
        for number in range(3):
            rows = np.zeros(50, dtype)
            rows["id"] = np.arange(50) + 100 * number
            buckets = rng.integers(0, 7, 50)
            buckets[buckets == 3] = 4
            run, found = write_run(str(tmp_path), f"run-{number}", buckets, rows, 7)
            runs.append(run)
            counts = counts + found
            for bucket, row in zip(buckets.tolist(), rows["id"].tolist(), strict=True):
                expected.setdefault(bucket, []).append(row)
        reader = RunReader(str(tmp_path), runs, dtype)
        ranges = list(plan_ranges(counts, 60))
        assert sum(one.rows for one in ranges) == 150
        found = {number: rows["id"].tolist() for one in ranges for number, rows in reader.numbered(one)}
        assert found == expected
        assert 3 not in found

    def test_a_bucket_is_read_in_blocks(self, tmp_path):
        dtype = np.dtype([("id", "<u8")])
        runs = []
        for number in range(3):
            rows = np.zeros(10, dtype)
            rows["id"] = np.arange(10) + 10 * number
            runs.append(write_run(str(tmp_path), f"run-{number}", np.ones(10, np.int64), rows, 3)[0])
        reader = RunReader(str(tmp_path), runs, dtype)
        blocks = [reader.read(spans)["id"].tolist() for spans in reader.blocks(1, 7)]
        assert [len(block) for block in blocks] == [7, 7, 7, 7, 2]
        assert sum(blocks, []) == list(range(30))
        assert reader.blocks(0, 7) == []

    def test_a_file_that_became_shorter_is_noticed(self, tmp_path):
        rows = np.zeros(10, [("id", "<u8")])
        run, _ = write_run(str(tmp_path), "run", np.zeros(10, np.int64), rows, 1)
        path = tmp_path / f"{run.name}.rows"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(RuntimeError, match="shorter"):
            list(RunReader(str(tmp_path), [run], rows.dtype).buckets(BucketRange(0, 1, 10)))

    def test_a_bucket_that_is_too_large_is_alone(self):
        assert list(plan_ranges(np.array([1, 1, 9, 0, 2, 2, 2]), 4)) == [
            BucketRange(0, 2, 2), BucketRange(2, 3, 9), BucketRange(3, 6, 4), BucketRange(6, 7, 2)
        ]  # fmt: skip

    @given(st.lists(st.integers(0, 12), max_size=30), st.integers(1, 10))
    def test_ranges_hold_all_rows_and_large_buckets_come_first(self, counts, most):
        ranges = list(plan_ranges(np.array(counts, np.int64), most))
        assert sum(one.rows for one in ranges) == sum(counts)
        for one in ranges:
            assert one.rows == sum(counts[one.first : one.stop])
            assert one.rows <= most or (one.stop - one.first == 1)


class TestEdges:
    def test_the_surest_method_then_the_highest_similarity_counts(self):
        edges = np.concatenate(
            [_edge(5, 1, similarity=0.999), _edge(5, 2, "exact", 1.0), _edge(6, 1, similarity=0.98), _edge(6, 2)]
        )
        assert best_edges(edges)[["row", "of"]].tolist() == [(5, 2), (6, 2)]

    def test_all_that_are_alike_lead_to_the_best(self):
        edges = star_edges(np.array([0, 1, 0, 0, 2]), _u8(1, 2, 3, 4, 5), _u8(5, 5, 9, 9, 5), "exact", between=False)
        assert sorted(edges[["row", "of"]].tolist()) == [(1, 3), (4, 3)]

    def test_between_two_datasets_only_ours_lead_to_theirs(self):
        theirs = int(FOREIGN) + 1
        ids, ranks = _u8(1, 2, theirs, theirs + 1), _u8(5, 9, 2**64 - 1, 2**64 - 1)
        edges = star_edges(np.zeros(4, np.int64), ids, ranks, "exact", between=True)
        assert edges[["row", "of"]].tolist() == [(2, theirs), (1, theirs)]
        pairs = pair_edges((_u8(1, 1, theirs), _u8(5, 5, 2**64 - 1)), (_u8(2, theirs, theirs + 1), _u8(9, 2**64 - 1, 2**64 - 1)),
                           "semantic", np.ones(3, np.float32), between=True)  # fmt: skip
        assert pairs[["row", "of"]].tolist() == [(1, theirs)]


class TestGroups:
    def test_a_chain_is_one_group_with_one_root(self):
        members = groups.resolve(np.concatenate([_edge(3, 2), _edge(2, 1), _edge(9, 8)]))
        assert members[["row", "group", "place", "of"]].tolist() == [
            (1, 1, 0, 1), (2, 1, 1, 1), (3, 1, 2, 2), (8, 8, 0, 8), (9, 8, 1, 8)
        ]  # fmt: skip

    def test_samples_of_the_other_dataset_are_no_members(self):
        members = groups.resolve(_edge(3, int(FOREIGN) + 2, ranks={int(FOREIGN) + 2: 2**64 - 1}))
        assert members[["row", "group", "place"]].tolist() == [(3, int(FOREIGN) + 2, 1)]

    def test_there_may_be_none(self):
        assert len(groups.resolve(np.zeros(0, EDGE))) == 0

    @given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=80))
    def test_roots_have_no_better_partner(self, pairs):
        edges = [_edge(max(pair), min(pair)) for pair in pairs if pair[0] != pair[1]]
        members = groups.resolve(np.concatenate([np.zeros(0, EDGE), *edges]))
        has_edge = {max(pair) for pair in pairs if pair[0] != pair[1]}
        roots = {int(row["row"]) for row in members if row["of"] == row["row"]}
        assert roots == {int(row["row"]) for row in members} - has_edge
        assert {int(row["group"]) for row in members} == roots
        for row in members:
            assert (row["place"] == 0) == (row["row"] == row["group"])


class TestExact:
    def test_equal_digests_are_found_and_missing_ones_left_out(self, tmp_path):
        digests = [f"{number % 5:064x}" for number in range(20)] + [None, ""]
        ids = np.arange(22, dtype=np.uint64)
        buckets, rows = exact.make_rows(ids, ids, digests)
        assert len(rows) == 20
        run, counts = write_run(str(tmp_path), "run", buckets, rows, exact.BUCKETS)
        (wanted,) = plan_ranges(counts, 100)
        edges = exact.equal_edges(RunReader(str(tmp_path), [run], rows.dtype), wanted, "exact", between=False)
        assert sorted(edges["row"].tolist()) == list(range(15))
        assert {int(edge["of"]) for edge in edges} == {15, 16, 17, 18, 19}


class TestPerceptual:
    @settings(deadline=None, max_examples=30)
    @given(st.integers(0, perceptual.MOST_DISTANCE), st.randoms(use_true_random=False))
    def test_no_pair_within_the_distance_is_missed(self, tmp_path_factory, distance, random):
        hashes = [random.getrandbits(64) for _ in range(20)]
        for number in range(60):
            value = hashes[number % 20]
            for bit in random.sample(range(64), random.randint(0, 10)):
                value ^= 1 << bit
            hashes.append(value)
        folder = str(tmp_path_factory.mktemp("run"))
        ids = np.arange(len(hashes), dtype=np.uint64)
        buckets, rows = perceptual.make_rows(ids, ids[::-1].copy(), np.array(hashes, np.uint64), distance)
        run, counts = write_run(folder, "run", buckets, rows, perceptual.n_buckets(distance))
        reader = RunReader(folder, [run], rows.dtype)
        edges = np.concatenate(
            [perceptual.near_edges(reader, wanted, distance, False) for wanted in plan_ranges(counts, 50)]
        )
        # Lower ids are better here: a row is removed if an earlier one is within the distance.
        expected = {
            late for late in range(len(hashes))
            if any((hashes[late] ^ hashes[early]).bit_count() <= distance for early in range(late))
        }  # fmt: skip
        assert set(best_edges(edges)["row"].tolist()) == expected
        assert (edges["similarity"] >= 1 - distance / 64).all()

    def test_a_photo_and_its_copies(self):
        from skimage import data

        photo = Image.fromarray(data.astronaut())
        value = perceptual_hash(photo)
        smaller = perceptual_hash(photo.resize((200, 200), Image.Resampling.LANCZOS))
        mirrored = perceptual_hash(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        assert (value ^ smaller).bit_count() <= 4
        assert (value ^ mirrored).bit_count() > 16


def _brute_force(vectors, ids, ranks, eps):
    order = np.lexsort((ids, ~ranks))
    wide = normalised(vectors)[order]
    similarity = np.tril(wide @ wide.T, -1)
    return set(ids[order[(similarity >= np.float32(1 - eps)).any(axis=1)]].tolist())


def _data(rows, dim, duplicates, eps, seed=0):
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((40, dim))
    vectors = topics[rng.integers(0, 40, rows)] + 0.7 * rng.standard_normal((rows, dim))
    source = rng.integers(0, rows - duplicates, duplicates)
    towards = vectors[rng.integers(0, rows, duplicates)] + 0.01 * rng.standard_normal((duplicates, dim))
    unit = vectors[source] / np.linalg.norm(vectors[source], axis=1, keepdims=True)
    towards -= (towards * unit).sum(axis=1, keepdims=True) * unit
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    angle = np.arccos(rng.uniform(1 - 2 * eps, 1, duplicates))[:, None]
    vectors[rows - duplicates :] = np.cos(angle) * unit + np.sin(angle) * towards
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16), np.arange(rows, dtype=np.uint64), rng.permutation(rows).astype(np.uint64)


def _found(vectors, ids, ranks, eps, border, folder, most_rows=10**6, n_clusters=40):
    clustering = clusters.Clustering(eps, n_clusters, border)
    centroids = clusters.train(vectors, clustering.clusters_for(len(vectors)), clustering.distance)
    assigned = clusters.assign(normalised(vectors), centroids, clustering.border * clustering.distance)
    rows = semantic.make_rows(ids, ranks, vectors, assigned.row)
    run, counts = write_run(folder, "run", assigned.cluster, rows, len(centroids))
    reader = RunReader(folder, [run], rows.dtype)
    comparison = semantic.Comparison(eps)
    found = [semantic.compare_range(reader, one, comparison, most_rows) for one in plan_ranges(counts, most_rows)]
    return np.concatenate([edges for edges, _ in found]), np.concatenate([pairs for _, pairs in found]), assigned


class TestSemantic:
    def test_with_the_exact_border_no_pair_is_missed(self, tmp_path):
        vectors, ids, ranks = _data(3000, 24, 400, 0.02)
        edges, _, assigned = _found(vectors, ids, ranks, 0.02, 0.5, str(tmp_path))
        expected = _brute_force(vectors, ids, ranks, 0.02)
        assert assigned.cut == 0
        assert set(edges["row"].tolist()) == expected
        assert len(expected) > 100

    def test_a_single_assignment_misses_pairs_on_borders(self, tmp_path):
        vectors, ids, ranks = _data(3000, 24, 400, 0.02)
        edges, _, _ = _found(vectors, ids, ranks, 0.02, 0.0, str(tmp_path))
        found = set(edges["row"].tolist())
        expected = _brute_force(vectors, ids, ranks, 0.02)
        assert found < expected

    @pytest.mark.parametrize("block", [7, 64])
    def test_a_cluster_in_blocks_gives_the_same(self, tmp_path, monkeypatch, block):
        vectors, ids, ranks = _data(600, 16, 200, 0.02)
        monkeypatch.setattr(semantic, "BLOCK_ROWS", block)
        edges, _, _ = _found(vectors, ids, ranks, 0.02, 0.5, str(tmp_path), most_rows=50, n_clusters=3)
        assert set(edges["row"].tolist()) == _brute_force(vectors, ids, ranks, 0.02)

    def test_edges_lead_to_better_rows_that_are_near(self, tmp_path):
        vectors, ids, ranks = _data(2000, 24, 300, 0.02)
        edges, _, _ = _found(vectors, ids, ranks, 0.02, 0.5, str(tmp_path))
        wide = normalised(vectors)
        similarity = (wide[edges["row"].astype(int)] * wide[edges["of"].astype(int)]).sum(axis=1)
        assert (edges["of_rank"] > edges["row_rank"]).all()
        np.testing.assert_allclose(edges["similarity"], similarity, atol=1e-5)
        assert (edges["similarity"] >= 1 - 0.02).all()

    def test_copies_of_one_vector_make_one_group(self, tmp_path, monkeypatch):
        monkeypatch.setattr(semantic, "BLOCK_ROWS", 32)
        vectors = np.repeat(normalised(np.ones((1, 8), np.float16)).astype(np.float16), 500, axis=0)
        ids = np.arange(500, dtype=np.uint64)
        edges, _, _ = _found(vectors, ids, ids, 0.01, 0.35, str(tmp_path), most_rows=100)
        members = groups.resolve(edges)
        assert len(members) == 500
        assert set(members["group"].tolist()) == {499}

    def test_pairs_of_several_similarities_are_shown(self, tmp_path):
        vectors, ids, ranks = _data(3000, 24, 900, 0.02)
        _, pairs, _ = _found(vectors, ids, ranks, 0.02, 0.35, str(tmp_path))
        chosen = semantic.choose_pairs(pairs, 0.02)
        wide = normalised(vectors)
        similarity = (wide[chosen["first"].astype(int)] * wide[chosen["second"].astype(int)]).sum(axis=1)
        np.testing.assert_allclose(chosen["similarity"], similarity, atol=1e-5)
        assert (chosen["similarity"] >= 1 - 0.02).any()
        assert (chosen["similarity"] < 1 - 0.02).any()
        assert len(chosen) <= semantic.PAIRS_EACH * (len(semantic.BANDS) - 1)

    def test_a_pair_that_met_in_several_clusters_is_shown_once(self):
        pairs = np.array([(0.99, 1, 2), (0.99, 2, 1), (0.99, 1, 2), (0.9, 3, 1)], semantic.PAIR)
        chosen = semantic.choose_pairs(pairs, 0.05)
        assert chosen[["first", "second"]].tolist() == [(1, 2), (1, 3)]

    def test_only_pairs_between_the_datasets(self, tmp_path):
        vectors, ids, ranks = _data(1000, 16, 300, 0.02)
        ids[500:] |= FOREIGN
        ranks[500:] = 2**64 - 1
        centroids = clusters.train(vectors, 5, 0.2)
        assigned = clusters.assign(normalised(vectors), centroids, 0.1)
        rows = semantic.make_rows(ids, ranks, vectors, assigned.row)
        run, counts = write_run(str(tmp_path), "run", assigned.cluster, rows, len(centroids))
        reader = RunReader(str(tmp_path), [run], rows.dtype)
        comparison = semantic.Comparison(0.02, between=True)
        edges = np.concatenate(
            [semantic.compare_range(reader, one, comparison, 10**6)[0] for one in plan_ranges(counts, 10**6)]
        )
        wide = normalised(vectors)
        expected = set(ids[:500][(wide[:500] @ wide[500:].T >= np.float32(0.98)).any(axis=1)].tolist())
        assert set(edges["row"].tolist()) == expected
        assert (edges["of"] & FOREIGN != 0).all()


class TestClusters:
    def test_a_part_without_candidates(self):
        nothing = np.zeros((0, 8), np.float32)
        for width in (0.0, 0.1):
            assigned = clusters.assign(nothing, np.eye(8, dtype=np.float32), width)
            assert (len(assigned.row), len(assigned.cluster), assigned.cut) == (0, 0, 0)
        assert clusters.train(nothing.astype(np.float16), 5, 0.1).shape == (1, 8)

    def test_the_number_of_clusters(self):
        assert clusters.Clustering(0.01).clusters_for(1_000_000) == 1000
        assert clusters.Clustering(0.01, 7).clusters_for(1_000_000) == 7
        assert clusters.Clustering(0.01, 7).clusters_for(3) == 3
        assert clusters.Clustering(0.01).clusters_for(0) == 1

    def test_the_sample_depends_on_the_ids_alone(self):
        ids = np.arange(100_000, dtype=np.uint64)
        drawn = clusters.sampled(ids, 100_000, 100)
        assert 5800 < drawn.sum() < 7000
        assert (clusters.sampled(ids[::-1], 100_000, 100) == drawn[::-1]).all()
        assert clusters.sampled(ids, 50, 10).all()

    def test_training_is_repeatable(self):
        vectors, _, _ = _data(2000, 16, 100, 0.01)
        assert (clusters.train(vectors, 20, 0.1) == clusters.train(vectors, 20, 0.1)).all()

    def test_an_overfull_cluster_is_split(self):
        rng = np.random.default_rng(0)
        few = rng.standard_normal((30, 16)) * 0.02 + np.eye(16)[rng.integers(1, 16, 30)]
        many = np.eye(16)[0] + 0.3 * rng.standard_normal((3000, 16))
        vectors = np.concatenate([few, many])
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        centroids = clusters.train(vectors, 16, 0.05)
        home, _ = clusters.nearest(normalised(vectors), centroids, 1)
        assert np.bincount(home[:, 0]).max() < 8 * len(vectors) / 16

    def test_near_centroids_are_left_out(self):
        vectors = np.repeat(np.eye(8, dtype=np.float16)[:2], 50, axis=0)
        assert len(clusters.train(vectors, 20, 0.1)) == 2


class TestImageHashes:
    def test_equal_pixels_in_other_files(self):
        from io import BytesIO

        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8))

        def encoded(form, **options):
            stream = BytesIO()
            image.save(stream, form, **options)
            return stream.getvalue()

        hashes = [hash_image(encoded("PNG"), 10**6), hash_image(encoded("PNG", compress_level=1), 10**6),
                  hash_image(encoded("WEBP", lossless=True), 10**6), hash_image(encoded("JPEG"), 10**6)]  # fmt: skip
        assert hashes[0] == hashes[1] == hashes[2]
        assert hashes[3].pixels != hashes[0].pixels


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
            twice = normalised(np.concatenate([vectors, vectors[::-1], close]))
            _, near = semantic.Comparison(1e-12).similarities(twice, twice[::-1])
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
    code = "from tests.duplicates.test_duplicates import equal_pairs_missed; print(equal_pairs_missed())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OPENBLAS_CORETYPE": kernel},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == "(0, 0)"


def test_the_limit_is_kept_to_what_float64_can_tell():
    vectors = normalised(unit_rows(300, 512, 4) + unit_rows(1, 512, 5) * np.float16(3))
    exact = vectors.astype(np.longdouble)
    exact /= np.sqrt((exact * exact).sum(axis=1, keepdims=True))
    wanted = exact @ exact.T
    pairs = np.sort(1 - wanted[np.triu_indices(300, 1)])
    for rank in (10, 1000, 20000):
        eps = float((pairs[rank] + pairs[rank + 1]) / 2)  # between two pairs that float32 may not tell apart
        similarity, near = semantic.Comparison(eps).similarities(vectors, vectors)
        assert np.array_equal(near, wanted >= 1 - np.longdouble(eps))
        np.testing.assert_allclose(similarity, wanted.astype(np.float32), atol=2e-6)


def test_of_equal_partners_rounding_does_not_choose():
    vectors = normalised(np.repeat(unit_rows(7, 768), 12, axis=0))
    similarity, _ = semantic.Comparison(0.01).similarities(vectors, vectors)
    assert (similarity.reshape(7, 12, 7, 12)[np.arange(7), :, np.arange(7)] == 1).all()


def test_equal_vectors_are_as_near_to_a_centroid_and_meet():
    centroids = normalised(unit_rows(9, 512, 1))
    middle = centroids[0] + centroids[1]
    vectors = np.concatenate(
        [unit_rows(5, 512), np.tile((middle / np.linalg.norm(middle)).astype(np.float16), (37, 1))]
    )
    assert len(set(_nearness(vectors, centroids)[5:].tolist())) == 1
    for width in (1e-9, 1e-6):
        assigned = clusters.assign(normalised(vectors), centroids, width)
        met = set.intersection(*({*assigned.cluster[assigned.row == row].tolist()} for row in range(5, 42)))
        assert met
