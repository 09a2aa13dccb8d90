"""Each method against a comparison of all rows with all: the same rows are removed, for the same better ones."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_curate.duplicates import blocks, clusters, forecast, near_vectors, settling
from beam_curate.duplicates.candidates import FOREIGN, Candidates
from beam_curate.duplicates.cells import Cells
from beam_curate.duplicates.methods import all_methods, method_named, number_of
from beam_curate.duplicates.methods import perceptual as perceptual_hashes
from beam_curate.duplicates.methods.exact import Exact
from beam_curate.duplicates.methods.perceptual import MOST_DISTANCE, Perceptual
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.transforms import compare_buckets
from tests.support.made_duplicates import (
    cosine,
    embeddings,
    expected,
    hash_table,
    partners,
    search,
    vector_table,
)

PIECES = pytest.mark.parametrize("pieces", [1, 3])


def bits(hashes):
    return np.bitwise_count(hashes[:, None] ^ hashes[None, :])


def near_hashes(random, rows=80):
    """A fourth of them at random, the others a few bits from one of these."""
    hashes = [random.getrandbits(64) for _ in range(rows // 4)]
    while len(hashes) < rows:
        value = hashes[len(hashes) % (rows // 4)]
        for bit in random.sample(range(64), random.randint(0, 10)):
            value ^= 1 << bit
        hashes.append(value)
    return np.array(hashes, np.uint64)


def crowd(rows, apart, dim=32):
    """Embeddings that are all alike: equal, or nearly so."""
    vectors = np.ones((rows, dim)) + apart * np.random.default_rng(0).standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_the_methods_are_the_files_of_their_folder():
    assert [kind.name for kind in all_methods()] == ["exact", "pixels", "perceptual", "semantic"]
    assert [number_of(kind) for kind in all_methods()] == [0, 1, 2, 3]
    assert method_named("perceptual") is Perceptual


class TestExact:
    @PIECES
    @pytest.mark.parametrize("between", [False, True])
    def test_each_row_leads_to_the_best_one_of_its_digest(self, pieces, between):
        import pyarrow as pa

        rng = np.random.default_rng(1)
        value = rng.integers(0, 40, 300)
        ids, ranks = np.arange(300, dtype=np.uint64), rng.integers(0, 5, 300).astype(np.uint64)
        if between:
            ids[200:] |= FOREIGN
            ranks[200:] = 2**64 - 1
        digests = [None if number == 7 else f"{number:064x}" for number in value.tolist()]
        edges, _ = search(Exact(between=between), ids, ranks, pa.table({"sha256": digests}), pieces)
        alike = (value[:, None] == value[None, :]) & (value != 7)[:, None]
        assert partners(edges) == expected(ids, ranks, alike)
        assert (edges["similarity"] == 1).all()

    def test_there_are_more_buckets_where_there_are_more_rows(self):
        assert [Exact().plan(rows, None).spreading for rows in (0, 10, 10**6, 10**9)] == [1, 1, 16, 15259]


class TestPerceptual:
    @settings(deadline=None, max_examples=25)
    @given(st.integers(0, MOST_DISTANCE), st.randoms(use_true_random=False), st.booleans())
    def test_no_pair_within_the_distance_is_missed(self, distance, random, blocks):
        hashes = near_hashes(random)
        ids, ranks = np.arange(80, dtype=np.uint64), np.array([random.randint(0, 20) for _ in range(80)], np.uint64)
        edges, _ = search(Perceptual(distance), ids, ranks, hash_table(hashes), 2, 10 if blocks else None)
        assert partners(edges) == expected(ids, ranks, bits(hashes) <= distance)
        assert (edges["similarity"] >= 1 - distance / 64).all()

    @settings(deadline=None, max_examples=10)
    @given(st.randoms(use_true_random=False))
    def test_with_more_parts_likewise(self, random):
        hashes = near_hashes(random)
        ids, ranks = np.arange(80, dtype=np.uint64), np.arange(80, dtype=np.uint64)
        for total in (10**3, 10**8, 10**11):
            method = Perceptual(4)
            plan = method.plan(total, None)
            spread = method.spread(Candidates(ids, ranks, hash_table(hashes)), plan.spreading)
            edges = [
                method.compare(bucket, [spread.rows[spread.buckets == bucket]], plan.comparing).edges
                for bucket in np.unique(spread.buckets).tolist()
            ]
            assert {row for some in edges for row in partners(some)} == set(expected(ids, ranks, bits(hashes) <= 4))

    def test_buckets_grow_with_the_rows(self):
        values = [
            min(mask.bit_count() for mask in perceptual_hashes.Buckets.of(rows, 4).masks)
            for rows in (10**5, 10**8, 10**10)
        ]
        assert values[0] == 12
        assert values[0] < values[1] < values[2]

    def test_large_runs_of_one_value(self, monkeypatch):
        monkeypatch.setattr(perceptual_hashes, "_SMALL", 4)
        monkeypatch.setattr(perceptual_hashes, "_ASKED", 16)
        rng = np.random.default_rng(0)
        hashes = np.bitwise_or.reduce(np.uint64(1) << rng.integers(30, 44, (600, 4)).astype(np.uint64), axis=1)
        ids, ranks = np.arange(600, dtype=np.uint64), rng.integers(0, 100, 600).astype(np.uint64)
        ids[400:] |= FOREIGN
        ranks[400:] = 2**64 - 1
        for between, rows in ((False, 400), (True, 600)):
            edges, _ = search(Perceptual(2, between=between), ids[:rows], ranks[:rows], hash_table(hashes[:rows]))
            assert partners(edges) == expected(ids[:rows], ranks[:rows], bits(hashes[:rows]) <= 2)

    def test_variants_of_one_picture_cost_their_number_and_not_their_pairs(self):
        comparisons = []
        for unstable in (13, 14):
            hashes = np.arange(1 << unstable, dtype=np.uint64) << np.uint64(40)
            ids = np.arange(len(hashes), dtype=np.uint64)
            edges, compared = search(Perceptual(), ids, np.random.default_rng(0).permutation(ids), hash_table(hashes))
            assert len(edges) > 0.99 * len(ids)
            comparisons.append(compared / len(hashes))
        assert comparisons[1] < 3000 < 3 * (1 << 14) / 2  # of each row, where three of its buckets hold all others
        assert comparisons[1] < 1.3 * comparisons[0]

    @settings(deadline=None, max_examples=20)
    @given(st.randoms(use_true_random=False))
    def test_mirror_images_are_alike_if_that_is_asked_for(self, random):
        hashes = near_hashes(random)
        mirrored = near_hashes(random)
        mirrored[::3] = hashes[random.sample(range(80), 27)]
        ids, ranks = np.arange(80, dtype=np.uint64), np.array([random.randint(0, 20) for _ in range(80)], np.uint64)
        faces = [hashes, mirrored]
        alike = np.any([np.bitwise_count(a[:, None] ^ b[None, :]) <= 3 for a in faces for b in faces], axis=0)
        edges, _ = search(Perceptual(3, mirrored=True), ids, ranks, hash_table(hashes, mirrored))
        assert partners(edges) == expected(ids, ranks, alike)
        edges, _ = search(Perceptual(3), ids, ranks, hash_table(hashes, mirrored))
        assert partners(edges) == expected(ids, ranks, bits(hashes) <= 3)


class TestSemantic:
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch):
        """Several buckets, and blocks of partners, already with thousands of rows."""
        monkeypatch.setattr(settling, "HOME_ROWS", 500)
        monkeypatch.setattr(near_vectors, "ASKED", 16)
        monkeypatch.setattr(blocks, "LEADERS", 16)

    @pytest.mark.parametrize("dim", [24, 96])
    @pytest.mark.parametrize("eps", [0.01, 0.05])
    def test_with_the_exact_border_it_is_all_pairs(self, eps, dim):
        vectors, ids, ranks = embeddings(2500, dim, 400, eps)
        method = Semantic(eps, n_clusters=40, border=0.5)
        edges, compared = search(method, ids, ranks, vector_table(vectors), 3)
        similarity = cosine(vectors)
        wanted = expected(ids, ranks, similarity >= 1 - eps)
        assert partners(edges) == wanted
        assert len(wanted) > 100
        assert compared < 2500 * 2500 / 2
        np.testing.assert_allclose(
            edges["similarity"], similarity[edges["row"].astype(int), edges["of"].astype(int)], atol=1e-6
        )

    def test_the_default_border_misses_less_than_one_in_a_thousand(self):
        vectors, ids, ranks = embeddings(6000, 32, 2000, 0.02)
        edges, _ = search(Semantic(0.02, n_clusters=90), ids, ranks, vector_table(vectors))
        wanted = expected(ids, ranks, cosine(vectors) >= 1 - 0.02)
        found = partners(edges)
        assert found.keys() <= wanted.keys()
        assert len(found) >= 0.999 * len(wanted)

    def test_a_single_assignment_misses_pairs_on_borders(self):
        vectors, ids, ranks = embeddings(3000, 24, 400, 0.02)
        edges, _ = search(Semantic(0.02, n_clusters=150, border=0), ids, ranks, vector_table(vectors))
        assert partners(edges).keys() < expected(ids, ranks, cosine(vectors) >= 1 - 0.02).keys()

    @pytest.mark.parametrize("block_rows", [50, 300])
    def test_a_bucket_in_blocks_gives_the_same(self, block_rows):
        vectors, ids, ranks = embeddings(700, 16, 200, 0.02)
        method = Semantic(0.02, n_clusters=9, border=0.5)
        edges, _ = search(method, ids, ranks, vector_table(vectors), 1, block_rows)
        assert partners(edges) == expected(ids, ranks, cosine(vectors) >= 1 - 0.02)

    @pytest.mark.parametrize("between", [False, True])
    @pytest.mark.parametrize("most", [450, 600])
    def test_visitors_of_a_bucket_stream_by(self, most, between, monkeypatch):
        """In turns with all that are at home: what is found is the same, and no pair is compared in two turns."""
        vectors, ids, ranks = embeddings(1500, 24, 300, 0.02)
        if between:
            ids[750:] |= FOREIGN
            ranks[750:] = 2**64 - 1
        monkeypatch.setattr(settling, "HOME_ROWS", 150)
        monkeypatch.setattr(near_vectors, "ASKED", 1)  # so no row asks a worse one
        monkeypatch.setattr(near_vectors, "_ASKING", 16)  # and hardly one that has a partner is compared with others
        method = Semantic(0.2, n_clusters=30, border=0.5, between=between)
        whole, compared = search(method, ids, ranks, vector_table(vectors), 40)
        turns = []
        monkeypatch.setattr(Semantic, "block_rows", most)
        one_turn = Semantic._compared
        monkeypatch.setattr(Semantic, "_compared", lambda *given, **named: turns.append(1) or one_turn(*given, **named))
        found, again = search(method, ids, ranks, vector_table(vectors), 40)
        assert len(turns) > 10  # in ten buckets
        assert partners(found) == partners(whole) == expected(ids, ranks, cosine(vectors) >= 1 - 0.2)
        assert compared <= again < 1.02 * compared  # who is at home may ask one before a better one has come

    @pytest.mark.parametrize("block_rows", [None, 200])
    def test_only_pairs_between_the_datasets(self, block_rows):
        vectors, ids, ranks = embeddings(1200, 16, 300, 0.02)
        ids[600:] |= FOREIGN
        ranks[600:] = 2**64 - 1
        method = Semantic(0.02, n_clusters=15, border=0.5, between=True)
        edges, _ = search(method, ids, ranks, vector_table(vectors), 1, block_rows)
        wanted = expected(ids, ranks, cosine(vectors) >= 1 - 0.02)
        assert partners(edges) == wanted
        assert wanted

    @pytest.mark.parametrize("block_rows", [None, 400])
    @pytest.mark.parametrize("apart", [0.0, 0.02])
    def test_rows_that_are_all_alike_cost_their_number_and_not_their_pairs(self, apart, block_rows):
        compared = []
        for rows in (1000, 4000):
            vectors = crowd(rows, apart)
            ids = np.arange(rows, dtype=np.uint64)
            edges, comparisons = search(Semantic(0.01, 1), ids, ids, vector_table(vectors), 3, block_rows)
            assert set(partners(edges).values()) == {rows - 1}
            compared.append(comparisons / rows)
        # Each asks the 16 best ones, of which the first is the partner of all.
        assert max(compared) <= 16

    @pytest.mark.parametrize("block_rows", [None, 200])
    def test_a_crowd_among_others_is_all_pairs(self, block_rows):
        vectors, ids, ranks = embeddings(1500, 24, 300, 0.02)
        vectors[::2] = crowd(750, 0.02, 24)
        method = Semantic(0.02, n_clusters=15, border=0.5)
        edges, compared = search(method, ids, ranks, vector_table(vectors), 2, block_rows)
        assert partners(edges) == expected(ids, ranks, cosine(vectors) >= 1 - 0.02)
        assert compared < 1500 * 1500 / 2

    def test_a_crowd_takes_one_cluster_and_goes_to_few(self):
        vectors, ids, ranks = embeddings(4000, 24, 10, 0.01)
        vectors[: 3 * 1000] = crowd(3000, 0.0, 24)
        method = Semantic(0.01, 20, border=0.25)
        table = vector_table(vectors)
        spread = method.spread(Candidates(ids, ranks, table), method.plan(4000, table).spreading)
        assert (np.bincount(spread.rows["id"].astype(int))[:3000] <= 2).all()

    def test_rows_that_are_near_in_few_directions_alone_are_no_crowd(self):
        """Nearly all are near in the directions of the cells, and none in all: they have as many cells as are wanted, not one."""
        rng = np.random.default_rng(0)
        vectors = rng.standard_normal((6000, 256)) / 32
        vectors[:, 0] += 1
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        method = Semantic(0.1, n_clusters=40, border=0.1)
        how = method.plan(10**6, vector_table(vectors)).spreading
        points = settling.project(vectors[:400], how.directions[:, :64])
        assert (((points[:, None] - points[None]) ** 2).sum(axis=2) < method.settling.distance**2).mean() > 0.9
        assert (cosine(vectors[:400]) < 1 - 0.1).sum() == 400 * 399
        assert len(how.cells) >= 35
        homes = np.bincount(how.cells.homes(settling.project(vectors, how.directions[:, :64])))
        assert homes.max() < 6 * homes.mean()

    def test_the_plan_depends_on_the_sample_alone(self):
        vectors, _, _ = embeddings(2000, 80, 100, 0.01)
        plans = [Semantic(0.01, 5).plan(10**6, vector_table(vectors)) for _ in range(2)]
        assert np.array_equal(plans[0].spreading.cells.clusters.centroids, plans[1].spreading.cells.clusters.centroids)
        assert np.array_equal(plans[0].comparing.directions, plans[1].comparing.directions)

    def test_the_number_of_cells(self):
        assert [Semantic().settling.cells_for(rows) for rows in (0, 100, 10**6, 10**9)] == [1, 1, 3907, 1 << 16]
        assert Semantic().settling.cells_for(1 << 22) == (1 << 14) * 2**0.5 // 1 + 1
        assert [Semantic(n_clusters=7).settling.cells_for(rows) for rows in (0, 3, 10**6)] == [1, 3, 7]

    def test_a_bucket_is_of_some_cells_for_some_rows(self, monkeypatch):
        monkeypatch.setattr(settling, "HOME_ROWS", 1 << 15)
        vectors, _, _ = embeddings(8000, 24, 10, 0.05)
        plan = Semantic().plan(10**6, vector_table(vectors))
        assert 31 <= plan.buckets <= 42  # where there are too many cells in one it is cut
        assert len(plan.spreading.cells) == pytest.approx(3907, rel=0.05)
        plan = Semantic(n_clusters=9).plan(10**6, vector_table(vectors))
        assert 9 <= plan.buckets == len(plan.spreading.cells) <= 10  # a cell each

    def test_a_bucket_of_a_topic_is_no_crowd(self, monkeypatch):
        """Of a topic of a fourth of all rows the buckets are large. As pairs of blocks they would take several times as long."""
        monkeypatch.setattr(settling, "HOME_ROWS", 1 << 15)
        monkeypatch.setattr(settling, "CELL_ROWS", 1 << 10)
        total, spread = 10**6, np.arange(1, 65) ** -0.5
        rng = np.random.default_rng(1)
        topics = rng.standard_normal((300, 64)) * spread
        vectors = topics[rng.zipf(1.3, 24_000) % 300] + 0.8 * spread * rng.standard_normal((24_000, 64))
        vectors[:, 0] += 3
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        how = Semantic(0.05, border=0.1).plan(total, vector_table(vectors[:8000])).spreading
        assert np.bincount(how.cells.groups).max() <= 1.5 * settling.Settling(0.05, 0, 0.1).cells_for(total) / 31
        homes = how.cells.homes(
            settling.project(vectors[8000:], how.directions[:, :64])
        )  # of rows that no cell was made of
        home = np.bincount(how.cells.groups[homes]) * total / 16_000
        assert 1 << 15 < home.max() < compare_buckets._HOME * Semantic.block_rows

    def test_the_sample_is_bounded(self):
        assert [Semantic().sampled(rows) for rows in (100, 10**6, 10**7, 10**10)] == [1 << 15, 62512, 1 << 19, 1 << 19]

    def test_what_is_compared_depends_on_the_cells_and_not_on_the_buckets(self):
        vectors, ids, ranks = embeddings(3000, 24, 40, 0.02)
        table = vector_table(vectors)
        how = Semantic(0.02, 60).plan(3000, table).spreading
        compared = []
        for each in (1, 2, 60):  # cells of a bucket
            grouped = how._replace(cells=replace(how.cells, groups=np.arange(len(how.cells)) // each))
            found = Semantic(0.02).spread(Candidates(ids, ranks, table), grouped)
            buckets = [found.rows[found.buckets == bucket] for bucket in range(grouped.cells.buckets)]
            made = [Semantic(0.02).compare(bucket, [rows], grouped) for bucket, rows in enumerate(buckets)]
            compared.append(sum(one.comparisons for one in made))
        assert compared == pytest.approx(
            [compared[0]] * 3, rel=0.02
        )  # who has found a partner asks no more in its bucket

    def test_what_is_found_does_not_depend_on_the_directions_in_which_pairs_are_compared_first(self):
        vectors, ids, ranks = embeddings(1500, 160, 300, 0.02)
        table = vector_table(vectors)
        how = Semantic(0.02, 10, border=0.5).plan(1500, table).spreading
        axes = clusters.directions(vectors.astype(np.float32), 160)
        found, passed = [], []
        for first, count in ((64, 64), (96, 96), (64, 160), (96, 160), (160, 160)):
            all_of_them = np.concatenate([how.directions[:, :64], axes[:, 64:count]], axis=1)
            how = how._replace(directions=all_of_them, first=first)
            spread = Semantic(0.02).spread(Candidates(ids, ranks, table), how)
            buckets = [spread.rows[spread.buckets == bucket] for bucket in range(how.cells.buckets)]
            edges = [Semantic(0.02).compare(bucket, [rows], how).edges for bucket, rows in enumerate(buckets)]
            found.append(partners(np.concatenate(edges)))
            passed.append((how.first, how.directions.shape[1]))
        assert passed == [(64, 64), (96, 96), (64, 160), (96, 160), (160, 160)]
        assert found == [expected(ids, ranks, cosine(vectors) >= 1 - 0.02)] * 5

    def test_cells_lie_in_the_first_of_the_directions_in_which_pairs_are_compared(self):
        vectors, _, _ = embeddings(3000, 160, 300, 0.02)
        for rows, dim in ((vectors, 160), (vectors[:, :20], 20)):
            how = Semantic(0.02, 10).plan(10**6, vector_table(rows)).spreading
            assert how.cells.directions == min(dim, clusters.DIRECTIONS)
            assert how.directions.shape[0] == dim
            assert how.cells.directions <= how.first <= min(dim, forecast.MOST_FIRST)
            assert how.first <= how.directions.shape[1] <= min(dim, forecast.MOST_COMPARED)

    def test_no_rows_at_all(self):
        nothing = vector_table(np.zeros((0, 80), np.float16))
        none = np.zeros(0, np.uint64)
        plan = Semantic().plan(0, nothing)
        assert len(Semantic().spread(Candidates(none, none, nothing), plan.spreading).rows) == 0


class TestClusters:
    def test_a_projection_makes_no_distance_longer(self):
        vectors, _, _ = embeddings(500, 200, 50, 0.02)
        wide = vectors.astype(np.float32)
        axes = clusters.directions(wide, 10)
        np.testing.assert_allclose(axes.T @ axes, np.eye(10), atol=1e-5)
        points = wide @ axes
        short = np.linalg.norm(points[:, None] - points[None], axis=2)
        assert (short <= np.linalg.norm(wide[:, None] - wide[None], axis=2) + 1e-4).all()

    @pytest.mark.parametrize("count", [3, 6, 64])
    def test_directions_come_with_the_largest_variance_first_however_many_there_are(self, count):
        wide = np.random.default_rng(0).standard_normal((4000, 6)).astype(np.float32) * [0.1, 3, 0.5, 0.2, 2, 1]
        axes = clusters.directions(wide.astype(np.float32), count)
        assert np.abs(axes).argmax(axis=0).tolist() == [1, 4, 5, 2, 3, 0][:count]

    def test_of_two_near_points_one_visits_the_home_of_the_other(self):
        rng = np.random.default_rng(0)
        points = rng.standard_normal((4000, 6)).astype(np.float32) / 4
        moved = rng.standard_normal((4000, 6)).astype(np.float32)
        others = points + 0.1 * moved / np.linalg.norm(moved, axis=1, keepdims=True)
        found = Cells.train(points, 30, 4, np.ones(6, np.float32))
        met, homes = [], [found.homes(points), found.homes(others)]
        for some in (points, others):
            row, cluster, _ = found.visits(some, 0.05)
            visited = np.zeros((4000, len(found)), np.bool_)
            visited[row, cluster] = True
            met.append(visited)
        assert (homes[0] != homes[1]).sum() > 100
        at = np.arange(4000)
        assert (met[0][at, homes[1]] | met[1][at, homes[0]]).all()
        assert met[0].sum() < 4000 * 6


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (Perceptual, {"distance": -1}),
        (Perceptual, {"distance": MOST_DISTANCE + 1}),
        (Semantic, {"eps": 0}),
        (Semantic, {"eps": 1}),
        (Semantic, {"eps": float("nan")}),
        (Semantic, {"n_clusters": -1}),
        (Semantic, {"border": 0.6}),
    ],
)
def test_a_wrong_argument_of_a_method_is_named(method, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"`{name}` is {value}; give "):
        method(**wrong)
