import io
import tarfile

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from beam_curate.intake.naming import extension_of, is_text, key_of, split_name
from beam_curate.tars.writing import write_end, write_member
from tests.conftest import encoded, photo


@pytest.mark.parametrize(
    ("path", "stem", "suffix"),
    [("a/b.jpg", "a/b", "jpg"), ("a/b.v2.JPG", "a/b.v2", "JPG"), ("a.d/b", "a.d/b", ""), (".jpg", ".jpg", "")],
)
def test_a_path_is_split_at_its_last_dot(path, stem, suffix):
    assert split_name(path) == (stem, suffix)


@pytest.mark.parametrize(
    ("stem", "key"),
    [("a/b", "a/b"), ("d.v1/b.v2", "d.v1/b~2e~v2"), ("__x__/a", "~5f~_x__/a"), ("../a", ".~2e~/a"), ("/a", "a")],
)
def test_keys_are_those_that_webdataset_reads_back(stem, key):
    assert key_of(stem) == key
    out = io.BytesIO()
    write_member(out, f"{key}.jpg", b"x")
    write_end(out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        names = archive.getnames()
    (sample,) = webdataset.tariterators.group_by_keys([{"fname": name, "data": b"x", "__url__": ""} for name in names])
    assert (sample["__key__"], sample["jpg"]) == (key, b"x")


@given(st.lists(st.text("ab.~/2e_", min_size=1, max_size=8), max_size=6))
def test_a_key_stays_one_and_has_no_dot_in_its_name(stems):
    for stem in stems:
        key = key_of(stem)
        assert key_of(key) == key
        assert "." not in key.rpartition("/")[2]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000"])
def test_the_first_bytes_tell_the_extension(format):
    ends = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}
    assert extension_of(encoded(photo(1), format)) == ends.get(format, format.lower())
    assert extension_of(b"<html>") == ""


def test_names_that_are_no_text():
    assert is_text("日本")
    assert not is_text("a\udcff")
