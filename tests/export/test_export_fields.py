import pyarrow as pa
import pytest

from beam_curate.export.fields import FIXED, Fields, choose_fields, looked_at

COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in (*FIXED, "status", "members", "exif", "caption", "aesthetic")),
        *((name, pa.list_(pa.float16(), 4)) for name in ("embedding", "embedding_vit_b_16")),
    ]
)
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
        (["*", "embedding_vit_b_16"], True, ("exif", "caption", "aesthetic", "embedding_vit_b_16"), None),
        (["key", "width"], False, (), ()),
        (["shard", "caption", "size", "index"], False, ("shard", "caption", "size", "index"), ()),
    ],
)
def test_fields(names, all_members, columns, members):
    assert choose_fields(names, COLUMNS, [SUFFIXES], all_members=all_members) == Fields(columns, members)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("captions", "did you mean caption"),
        ("json", r"did you mean \.json"),
        ("zzz", "there are: exif, caption, aesthetic, embedding, embedding_vit_b_16"),
        ("status", "there is no column 'status' to export"),
        (".cls", r"has a member \.cls; there are: \.jpg, \.json, \.txt"),
    ],
)
def test_a_field_that_is_not_there_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        choose_fields([name], COLUMNS, [SUFFIXES], all_members=True)


def test_a_member_that_the_first_shard_does_not_have_is_found_in_another_one():
    """The first one may be damaged, or of another kind. As few are read as tell it."""
    read = []

    def shards():
        for number, found in enumerate([[], ["jpg"], ["jpg", "JSON"], ["jpg", "txt"]]):
            read.append(number)
            yield found

    assert choose_fields(["*"], COLUMNS, shards(), all_members=False).members == ()
    assert read == [0]
    read.clear()
    assert choose_fields([".json", ".jpg"], COLUMNS, shards(), all_members=False).members == ("json", "jpg")
    assert read == [0, 1, 2]
    with pytest.raises(
        ValueError, match=r"no sample of the 4 shards that were looked at has a member \.cls; there are: \.jpg"
    ):
        choose_fields([".cls"], COLUMNS, shards(), all_members=False)
    with pytest.raises(ValueError, match=r"the first shard has a member \.cls; there are: none"):
        choose_fields([".cls"], COLUMNS, [[]], all_members=False)


def test_shards_are_looked_at_from_the_first_to_the_last():
    assert [looked_at(shards) for shards in (0, 1, 2, 3)] == [[], [0], [0, 1], [0, 1, 2]]
    many = looked_at(100_000)
    assert (len(many), many[0], many[-1]) == (16, 0, 99_999)


def test_members_are_told_by_their_extension_in_any_case():
    assert Fields((), None).has_member("anything")
    assert Fields((), ("txt",)).has_member("TXT")
    assert not Fields((), ("txt",)).has_member("seg.txt")


def test_the_columns_of_a_table():
    source = COLUMNS
    assert Fields(("caption", "shard"), None).schema(source, reencodes=False).names == [*FIXED, "caption"]
    names = Fields((), None).schema(source, reencodes=True).names
    assert names[-4:] == ["reencoded", "original_width", "original_height", "original_sha256"]
