import hashlib
import io
import os
import tarfile

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_curate.tars.writing import member_header, safe_key, write_end, write_member


def archive(members) -> bytes:
    out = io.BytesIO()
    written = sum(write_member(out, name, data) for name, data in members) + write_end(out)
    assert written == len(out.getvalue())
    return out.getvalue()


NAMES = [
    "a.jpg",
    "dir/b.json",
    "x" * 90 + "/" + "y" * 90 + ".txt",
    "z" * 300 + ".png",
    "日本/é.jpg",
    "n" * 99 + "ü.jpg",
]


def test_tarfile_reads_it_back_with_fixed_metadata():
    members = [(name, os.urandom(size)) for name, size in zip(NAMES, (0, 1, 511, 512, 513, 5000), strict=True)]
    with tarfile.open(fileobj=io.BytesIO(archive(members))) as tar:
        infos = tar.getmembers()
        assert [(info.name, tar.extractfile(info).read()) for info in infos] == members
    for info in infos:
        assert (info.mode, info.mtime, info.uid, info.gid, info.uname, info.gname) == (0o444, 0, 0, 0, "", "")
        assert info.isreg()


def test_bytes_are_the_same_on_every_python():
    """The digest was taken on Python 3.10, 3.11, 3.12 and 3.13."""
    data = archive([(name, name.encode()) for name in NAMES])
    assert hashlib.sha256(data).hexdigest() == "c5a765732379d0b2ca2dd4a4512075b518593a3171d7da30cdba8833bb7bf4c0"


def test_ustar_where_it_fits_and_pax_elsewhere():
    assert len(member_header("a.jpg", 5)) == 512
    assert len(member_header("x" * 90 + "/" + "y" * 90, 5)) == 512
    assert len(member_header("x" * 101, 5)) == 1536
    assert len(member_header("é.jpg", 5)) == 1536
    assert tarfile.TarInfo.frombuf(member_header("a.jpg", 8**11 - 1), "utf-8", "strict").size == 8**11 - 1
    assert len(member_header("a.jpg", 8**11)) == 1536


@given(st.text(st.characters(min_codepoint=1, max_codepoint=200), min_size=1, max_size=110), st.integers(0, 8**11 + 5))
def test_a_short_header_is_the_one_of_the_standard_library(name, size):
    name = safe_key(name)
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    ustar = name.isascii() and len(name) <= 100 and size < 8**11
    expected = info.tobuf(tarfile.USTAR_FORMAT if ustar else tarfile.PAX_FORMAT)
    # Longer ASCII names may still be split at a slash, which the other tests look at.
    assert member_header(name, size) == expected or (name.isascii() and len(name) > 100)


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "dir/sub/000123",
        "a b",
        "日本/é",
        "xy:1",
        "a~b",
        "%2e%2e",
        "..a",
        "a..",
        ".../x",
        "a//b",
        "./a",
        "__x__",
        "d/",
    ],
)
def test_ordinary_keys_stay(key):
    assert safe_key(key) == key


@pytest.mark.parametrize(
    ("key", "safe"),
    [
        ("/etc/passwd", "etc/passwd"),
        ("///a", "a"),
        ("../a", ".~2e~/a"),
        ("a/../../b", "a/.~2e~/.~2e~/b"),
        ("a/..", "a/.~2e~"),
        ("..", ".~2e~"),
        ("/../a", ".~2e~/a"),
        ("a\0b\nc\x7f\x85", "a~00~b~0a~c~7f~~85~"),
        ("..\\..\\a", "..~5c~..~5c~a"),
        ("C:/a", "C~3a~/a"),
        ("/c:a", "c~3a~a"),
        ("x:1", "x~3a~1"),
        ("a\ud800b", "a~d800~b"),
        ("/__x__/a", "~5f~_x__/a"),
        ("/", "~2f~"),
    ],
)
def test_hostile_keys_are_escaped(key, safe):
    assert safe_key(key) == safe


hostile = st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "C:", "\0", "__", "\n", "é", "~"]), max_size=8).map(
    "".join
)


@given(st.one_of(hostile, st.text()))
def test_no_key_escapes_and_safe_is_safe(key):
    safe = safe_key(key)
    assert safe_key(safe) == safe
    assert safe
    safe.encode()
    assert "\\" not in safe
    assert not safe.startswith("/")
    assert ".." not in safe.split("/")


@given(hostile, st.sampled_from(["jpg", ".", "", "..", "x\\y"]))
def test_no_written_name_escapes(tmp_path_factory, key, suffix):
    """With tarfile's own check: its data filter refuses names that lead outside."""
    with tarfile.open(fileobj=io.BytesIO(archive([(f"{key}.{suffix}", b"")]))) as tar:
        (info,) = tar.getmembers()
    tarfile.data_filter(info, "/somewhere/else")
    assert tarfile.data_filter(info, "/somewhere/else").name == info.name


@given(
    st.lists(
        st.tuples(
            st.text(
                st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="./\\"), min_size=1, max_size=120
            ),
            st.binary(max_size=2000),
        ),
        max_size=5,
        unique_by=lambda member: member[0],
    )
)
@settings(max_examples=50, deadline=None)
def test_webdataset_reads_the_same_samples(samples):
    samples = [(safe_key(key), data) for key, data in samples]
    data = archive([(f"{key}.bin", data) for key, data in samples])
    source = [{"url": "x", "stream": io.BytesIO(data)}]
    read = webdataset.tariterators.group_by_keys(webdataset.tariterators.tar_file_expander(source))
    assert [(sample["__key__"], sample["bin"]) for sample in read] == samples
