from hypothesis import given
from hypothesis import strategies as st

from beam_curate.tars.keys import KeyHolder, rename_shared, stem

key_strategy = st.sampled_from(["a", "a-s00000", "a-s00001", "a-s00002", "a-s00001-s00001"])
holders_strategy = st.lists(st.tuples(key_strategy, st.integers(0, 3)), unique=True, max_size=12)


def test_the_first_keeps_its_key():
    holders = [KeyHolder("000012", 3, 7), KeyHolder("000012", 0, 1), KeyHolder("000012", 12, 0)]
    assert set(rename_shared(holders)) == {KeyHolder("000012-s00003", 3, 7), KeyHolder("000012-s00012", 12, 0)}


def test_unique_keys_stay():
    assert list(rename_shared([KeyHolder("a", 0, 0), KeyHolder("a-s00001", 0, 1)])) == []


def test_a_new_key_never_takes_a_real_one():
    holders = [KeyHolder("a", 0, 0), KeyHolder("a", 1, 0), KeyHolder("a-s00001", 2, 0)]
    assert list(rename_shared(holders)) == [KeyHolder("a-s00001-s00001", 1, 0)]


@given(holders_strategy, st.randoms())
def test_unique_and_independent_of_order(pairs, random):
    holders = [KeyHolder(key, shard, rank) for rank, (key, shard) in enumerate(pairs)]
    renamed = {(new.shard_index, new.rank): new.key for new in rename_shared(holders)}
    final = [renamed.get((holder.shard_index, holder.rank), holder.key) for holder in holders]
    assert len(set(final)) == len(final)
    # Keys that can clash are always looked at together.
    assert {stem(key) for key in final} <= {stem(holder.key) for holder in holders}
    shuffled = list(holders)
    random.shuffle(shuffled)
    assert {(new.shard_index, new.rank): new.key for new in rename_shared(shuffled)} == renamed
