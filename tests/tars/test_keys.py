import pathlib
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_curate.tars.keys import KeyHolder, place, rename_shared, stem
from beam_curate.tars.member_names import extracted_path
from beam_curate.tars.writing import safe_key
from tests.conftest import tar_bytes

key_strategy = st.sampled_from(
    ["a", "./a", "a-s00000", "a-s00001", ".//a-s00001", "a-s00002", "a-s00001-s00001", "a/", "./a/"]
)
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
    assert len({place(key) for key in final}) == len(final)
    # Keys that can clash are always looked at together.
    assert {stem(key) for key in final} <= {stem(holder.key) for holder in holders}
    shuffled = list(holders)
    random.shuffle(shuffled)
    assert {(new.shard_index, new.rank): new.key for new in rename_shared(shuffled)} == renamed


def test_keys_that_are_one_path_are_shared():
    keys = ["a/b", "a//b", "a/./b", "./a/b", ".//a/././/b"]
    renamed = list(rename_shared(KeyHolder(key, 3, rank) for rank, key in enumerate(keys)))
    assert [holder.key for holder in renamed] == [
        "a//b-s00003",
        "a/./b-s00003-s00003",
        "./a/b-s00003-s00003-s00003",
        ".//a/././/b-s00003-s00003-s00003-s00003",
    ]
    assert {stem(key) for key in keys} == {"a/b"}


def test_other_paths_are_not_shared():
    keys = ["a", "a/", "A", "b/a", "a/a", "a/.~2e~/a", " a", "a ", "a\u0301", "\xe1"]
    assert list(rename_shared(KeyHolder(key, 0, rank) for rank, key in enumerate(keys))) == []


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.jpg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("a//b.jpg", "a/b.jpg"),
        ("/a/./b.jpg", "a/b.jpg"),
        ("a./b.jpg", "a./b.jpg"),
        ("a/../b.jpg", "b.jpg"),
        ("a/..", ""),
        ("../b.jpg", None),
        ("a/../../b.jpg", None),
    ],
)
def test_where_a_member_is_extracted(name, path):
    assert extracted_path(name) == path


@given(st.lists(st.sampled_from(["a", "b", ".", "..", "/", "c"]), min_size=1, max_size=8).map("".join))
def test_two_safe_keys_have_one_place_exactly_if_their_files_are_one(tail):
    keys = sorted({safe_key(key) for key in (tail, tail.replace("/", "//"), f"./{tail}", f"b/{tail}", tail + "/")})
    files = {key: str(pathlib.PurePosixPath("root", f"{key}.x")) for key in keys}
    for one in keys:
        for other in keys:
            assert (place(one) == place(other)) is (files[one] == files[other])


def test_all_files_are_there_after_extraction(tmp_path):
    keys = ["a/b", "a//b", "a/./b", "./a/b", "c", "./c", "c/"]
    renamed = {
        holder.rank: holder.key for holder in rename_shared(KeyHolder(key, 0, rank) for rank, key in enumerate(keys))
    }
    names = [f"{renamed.get(rank, key)}.jpg" for rank, key in enumerate(keys)]
    (tmp_path / "a.tar").write_bytes(tar_bytes([(name, name.encode()) for name in names]))
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.extractall(tmp_path / "out", filter="data")
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*")) == len(keys)
