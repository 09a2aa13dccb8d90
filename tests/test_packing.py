import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_curate.runs.packing import Packing, permuted, position_of

counts_strategy = st.lists(st.integers(0, 12), max_size=12)


def expanded(packing: Packing) -> dict[int, list[tuple[int, int]]]:
    """Output shard → its (input shard, rank) in order, checked to be without gaps."""
    shards: dict[int, dict[int, tuple[int, int]]] = {}
    for piece in packing.pieces():
        places = shards.setdefault(piece.output_index, {})
        for step in range(piece.count):
            assert piece.start + step not in places
            places[piece.start + step] = (piece.shard_index, piece.first + step)
    return {index: [places[place] for place in range(len(places))] for index, places in shards.items()}


@given(counts_strategy, st.integers(1, 9), st.none() | st.integers(0, 5))
def test_every_kept_row_goes_to_exactly_one_place(counts, per_shard, seed):
    packing = Packing(counts, per_shard, seed)
    shards = expanded(packing)
    rows = [row for index in sorted(shards) for row in shards[index]]
    assert sorted(rows) == [(shard, rank) for shard, count in enumerate(counts) for rank in range(count)]
    assert sorted(shards) == list(range(packing.shards))
    assert all(len(shards[index]) == per_shard for index in range(packing.shards - 1))
    if seed is None:
        assert rows == sorted(rows)


def test_exact_shards():
    assert expanded(Packing([3, 0, 4], 5)) == {0: [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)], 1: [(2, 2), (2, 3)]}


def test_seeds_give_different_orders_and_the_same_seed_the_same():
    orders = {seed: [permuted(place, 1000, seed) for place in range(1000)] for seed in (1, 2)}
    assert sorted(orders[1]) == sorted(orders[2]) == list(range(1000))
    assert orders[1] != orders[2] != list(range(1000))


def test_permutation_spreads_neighbours():
    order = [permuted(place, 10_000, 7) for place in range(10_000)]
    close = sum(abs(a - b) < 100 for a, b in zip(order, order[1:], strict=False))
    assert close < 400  # 2 % would be by chance


@given(st.integers(1, 300), st.integers(0, 3))
def test_permuted_is_a_bijection(total, seed):
    assert {permuted(place, total, seed) for place in range(total)} == set(range(total))


@given(st.integers(1, 300), st.integers(0, 3))
def test_position_of_is_its_inverse(total, seed):
    assert [position_of(permuted(place, total, seed), total, seed) for place in range(total)] == list(range(total))
    assert position_of(total - 1, total, None) == total - 1


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
    """Values of another implementation, of the docstring: else the same seed would give other shards."""
    assert [permuted(place, total, seed) for place in range(6)] == first


def test_refuses_empty_shards():
    with pytest.raises(ValueError, match="samples_per_shard is 0"):
        Packing([1], 0)
