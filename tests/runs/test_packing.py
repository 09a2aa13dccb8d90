import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_curate.records import ScorePart
from beam_curate.runs.division import Division
from beam_curate.runs.packing import Packing, positions_of

counts_strategy = st.lists(st.integers(0, 12), max_size=12)


def permuted(position, total, seed):
    """The sample that a seed puts at a position, by the definition: four Feistel rounds forward, walked until inside."""
    half = max(1, ((total - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = position
    while True:
        left, right = value >> half, value & mask
        for turn in range(4):
            digest = hashlib.blake2b(f"{seed}/{turn}/{right}".encode(), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        value = left << half | right
        if value < total:
            return value


def packing(counts, per_shard, seed=None):
    return Packing(range(len(counts)), counts, Division(per_shard, seed))


def expanded(packed: Packing) -> dict[int, list[tuple[int, int]]]:
    """Output shard → its (input shard, rank) in order, checked to be without gaps."""
    shards: dict[int, dict[int, tuple[int, int]]] = {}
    for index in packed.indexes:
        files, places = packed.places(index)
        for rank, (file, place) in enumerate(zip(files.tolist(), places.tolist(), strict=True)):
            assert place not in shards.setdefault(file, {})
            shards[file][place] = (index, rank)
    return {index: [places[place] for place in range(len(places))] for index, places in shards.items()}


@given(counts_strategy, st.integers(1, 9), st.none() | st.integers(0, 5))
def test_every_kept_row_goes_to_exactly_one_place(counts, per_shard, seed):
    packed = packing(counts, per_shard, seed)
    shards = expanded(packed)
    rows = [row for index in sorted(shards) for row in shards[index]]
    assert sorted(rows) == [(shard, rank) for shard, count in enumerate(counts) for rank in range(count)]
    assert sorted(shards) == list(range(packed.shards))
    assert [len(shards[index]) for index in sorted(shards)] == [packed.samples(index) for index in range(packed.shards)]
    assert all(len(shards[index]) == per_shard for index in range(packed.shards - 1))
    if seed is None:
        assert rows == sorted(rows)


def test_exact_shards():
    assert expanded(packing([3, 0, 4], 5)) == {0: [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)], 1: [(2, 2), (2, 3)]}


def test_parts_without_a_gap_in_their_numbers_are_not_needed():
    assert expanded(Packing([2, 9], [1, 2], Division(2))) == {0: [(2, 0), (9, 0)], 1: [(9, 1)]}


@given(st.integers(1, 300), st.integers(0, 3))
def test_a_seed_permutes_as_its_definition_says(total, seed):
    order = positions_of(np.array([permuted(place, total, seed) for place in range(total)]), total, seed)
    assert order.tolist() == list(range(total))


def test_large_positions_are_permuted_as_the_definition_says():
    total, places = 10**9, [0, 1, 999_999_999, 123_456_789]
    sources = np.array([permuted(place, total, 7) for place in places])
    assert positions_of(sources, total, 7).tolist() == places


def test_without_a_seed_the_order_stays():
    assert positions_of(np.arange(5, 9), 9, None).tolist() == [5, 6, 7, 8]


def test_seeds_give_different_orders():
    orders = [positions_of(np.arange(1000), 1000, seed).tolist() for seed in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(1000))
    assert orders[0] != orders[1] != list(range(1000))


def test_permutation_spreads_neighbours():
    order = positions_of(np.arange(10_000), 10_000, 7)
    assert (np.abs(np.diff(order)) < 100).sum() < 400  # 2 % would be by chance


@pytest.mark.parametrize(
    ("total", "seed", "first"),
    [
        (1000, 1, [195, 723, 384, 26, 615, 968]),
        (1000, 2, [371, 90, 784, 755, 648, 535]),
        (7, 3, [2, 6, 5, 3, 4, 0]),
        (100_003, 123, [57749, 50612, 52068, 65628, 33090, 19804]),
    ],
)
def test_the_order_of_a_seed_stays_what_it_was(total, seed, first):
    """Values of version 0.1.0, by another implementation: else the same seed would give other shards."""
    assert positions_of(np.array(first), total, seed).tolist() == list(range(6))


def parts(*counts, changed=None):
    return [
        ScorePart(index, f"{index}.tar", f"scores/part-{index:05d}.parquet", 10, count, 10 - count, 0, {},
                  footprint="other" if index == changed else "same")
        for index, count in enumerate(counts)
    ]  # fmt: skip


def plans(some, per_shard=5, seed=None, about=""):
    packed = Packing.of(some, Division(per_shard, seed), about)
    return [packed.plan(index) for index in range(packed.shards)]


def test_a_plan_names_all_that_decides_a_file():
    before = plans(parts(4, 6, 4))
    assert len(set(before)) == 3
    assert plans(list(reversed(parts(4, 6, 4)))) == before
    # In source order a part decides the files from its first row on, and no other.
    same = [before == after for before, after in zip(before, plans(parts(4, 6, 4, changed=2)), strict=True)]
    assert same == [True, True, False]
    same = [before == after for before, after in zip(before, plans(parts(4, 6, 4, changed=1)), strict=True)]
    assert same == [False, False, False]
    assert plans(parts(4, 6, 9))[:2] == before[:2]


def test_a_plan_is_another_one_for_other_options():
    before = plans(parts(4, 6, 4))
    for other in (plans(parts(4, 6, 4), per_shard=4), plans(parts(4, 6, 4), seed=1), plans(parts(4, 6, 4), about="x")):
        assert not set(before) & set(other)
    shuffled = plans(parts(4, 6, 4), seed=1)
    assert not set(shuffled) & set(plans(parts(4, 6, 4, changed=2), seed=1))


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_what_is_left_out_changes_the_plans_from_there_on_and_no_other(counts, per_shard, random):
    rows = [(part, rank) for part, count in enumerate(counts) for rank in range(count)]
    out = sorted(random.sample(rows, random.randint(0, len(rows))))

    def files(left_out):
        packed = Packing.of(parts(*counts), Division(per_shard), "", random.sample(left_out, len(left_out)))
        found = {}
        for part, count in enumerate(counts):
            places = zip(
                packed.ranks(part, count).tolist(), *(each.tolist() for each in packed.places(part)), strict=True
            )
            for rank, file, place in places:
                found.setdefault(file, []).append((place, part, rank))
        assert sorted(found) == list(range(packed.shards))
        return [(packed.plan(file), sorted(found[file])) for file in sorted(found)]

    before, after = files([]), files(out)
    assert [row[1:] for _, some in after for row in some] == [row for row in rows if row not in out]
    for (plan, some), (plan_after, some_after) in zip(before, after, strict=False):
        assert (plan == plan_after) == (some == some_after)


def test_the_plans_of_a_division_stay_what_they_were():
    """Noted digests: with others, each file of a run that is continued would be written again."""
    assert plans(parts(4, 6, 4)) == [
        "8ded6e2b6ab6ab32e89a614ededa9cd8", "ea4075edc4336c5414b75d7e69fede2d", "619eb227f0c4df6c55e07ce7af6726d5"
    ]  # fmt: skip
    assert plans(parts(4, 6, 4), per_shard=8, seed=3) == [
        "835a8dd6e415f970cb82dd568c92d73f", "45bdd4aefda05b92508046adc2c8865c"
    ]  # fmt: skip
