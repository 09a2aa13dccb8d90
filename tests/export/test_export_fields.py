import pyarrow as pa
import pytest

from beam_curate.export.fields import FIXED, Fields, choose_fields

COLUMNS = [*FIXED, "status", "members", "exif", "caption", "aesthetic", "embedding"]
SUFFIXES = ["jpg", "TXT", "json"]


@pytest.mark.parametrize(
    ("names", "all_members", "columns", "members"),
    [
        (["*"], True, ("exif", "caption", "aesthetic"), None),
        (["*"], False, ("exif", "caption", "aesthetic"), ()),
        (["*", "embedding"], True, ("exif", "caption", "aesthetic", "embedding"), None),
        (["caption"], True, ("caption",), ()),
        (["caption", "caption", ".JSON"], True, ("caption",), ("json",)),
        (["*", ".txt"], False, ("exif", "caption", "aesthetic"), ("txt",)),
        (["key", "width"], False, (), ()),
    ],
)
def test_fields(names, all_members, columns, members):
    assert choose_fields(names, COLUMNS, SUFFIXES, all_members=all_members) == Fields(columns, members)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("captions", "did you mean caption"),
        ("json", r"did you mean \.json"),
        ("zzz", "there are: exif, caption, aesthetic, embedding"),
        ("status", "there is no column 'status' to export"),
        (".cls", r"has a member \.cls; there are: \.jpg, \.json, \.txt"),
    ],
)
def test_a_field_that_is_not_there_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        choose_fields([name], COLUMNS, SUFFIXES, all_members=True)


def test_members_are_told_by_their_extension_in_any_case():
    assert Fields((), None).has_member("anything")
    assert Fields((), ("txt",)).has_member("TXT")
    assert not Fields((), ("txt",)).has_member("seg.txt")


def test_the_columns_of_a_table():
    source = pa.schema([(name, pa.string()) for name in COLUMNS])
    assert Fields(("caption",), None).schema(source, reencodes=False).names == [*FIXED, "caption"]
    names = Fields((), None).schema(source, reencodes=True).names
    assert names[-4:] == ["reencoded", "original_width", "original_height", "original_sha256"]
