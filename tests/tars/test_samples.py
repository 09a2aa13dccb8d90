import gzip
import io
import itertools
import json
import random
import re
import tarfile
import tracemalloc

import pytest
import webdataset
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_curate import reasons
from beam_curate.records import Shard
from beam_curate.tars import samples
from beam_curate.tars.member_names import encodable, skipped_as, split_name
from beam_curate.tars.samples import read_samples
from beam_curate.tars.skipped import SkippedMembers
from tests.conftest import ASSETS, tar_bytes
from tests.tars.test_tar import END, block, octal, pax_header, record

SHARD = Shard(7, "data/00007.tar", 1)


def read(data, **options):
    """All rows, after checking what holds for every shard whatever is in it."""
    rows = list(read_samples(io.BytesIO(data), SHARD, **options))
    assert rows
    rows.sort(key=lambda row: row.ref.index)  # those with links come last
    assert [row.ref.index for row in rows] == list(range(len(rows)))
    assert [row.ref.shard_rows for row in rows] == [0] * (len(rows) - 1) + [len(rows)]
    for row in rows:
        assert (row.ref.shard_index, row.ref.shard) == (7, "data/00007.tar")
        assert row.failure is None or (row.data == b"" and row.failure.step == reasons.READ)
        assert row.failure is None or row.failure.reason in reasons.DESCRIPTIONS
        assert row.failure is not None or row.ref.image
        for text in (row.ref.key, row.ref.image, row.ref.caption or "", row.ref.url or ""):
            text.encode()
        for member in row.ref.members:
            member.suffix.encode()
    return rows


def outcome(rows):
    """Key and reason of each row, empty for a good one."""
    return [(row.ref.key, row.failure.reason if row.failure else "") for row in rows]


def good(rows):
    return {row.ref.key: row for row in rows if row.failure is None}


def shard(count=4, extensions=("jpg", "json", "txt"), size=700):
    """A tar of ordinary samples `s0`, `s1`, …"""
    return [
        (f"s{index}.{extension}", random.Random(index).randbytes(size))
        for index in range(count)
        for extension in extensions
    ]


def test_a_sample():
    image = b"image bytes" * 1000
    members = [
        ("d/a.cls", b"3"),
        ("d/a.JPG", image),
        ("d/a.json", b'{"url": "http://x/\\u00e9"}'),
        ("d/a.txt", b" caption\n"),
    ]
    data = tar_bytes(members)
    (row,) = read(data)
    assert row.failure is None
    assert row.data == image
    assert (row.ref.key, row.ref.image, row.ref.caption, row.ref.url) == ("d/a", "JPG", "caption", "http://x/é")
    assert [member.suffix for member in row.ref.members] == ["cls", "JPG", "json", "txt"]
    for member, (_, content) in zip(row.ref.members, members, strict=True):
        assert data[member.offset : member.offset + member.size] == content


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("seekable", [True, False])
def test_compression_and_seeking_change_nothing(compress, seekable):
    data = tar_bytes(shard(size=80_000))
    assert read(compress(data), seekable=seekable) == read(data)


def by_webdataset(data):
    """Samples as webdataset groups them: (key, {extension: bytes})."""
    files = webdataset.tariterators.tar_file_expander([{"url": "x", "stream": io.BytesIO(data)}])
    for sample in webdataset.tariterators.group_by_keys(files):
        yield sample.pop("__key__"), {name: value for name, value in sample.items() if name != "__url__"}


def by_us(data):
    for row in read(data):
        if row.ref.key:
            yield row.ref.key, {m.suffix.lower(): data[m.offset : m.offset + m.size] for m in row.ref.members}


part = st.sampled_from(["a", "b", "B", ".", "..", "/", "__", "_", "jpg", "TXT", "é", " "])
member_names = st.lists(part, min_size=1, max_size=7).map("".join).filter(lambda name: not name.endswith("/"))


@given(st.lists(member_names, max_size=8))
@settings(max_examples=300, deadline=None)
def test_groups_as_webdataset_does(names):
    data = tar_bytes([(name, b"%d" % index) for index, name in enumerate(names) if not re.search(r"(^|/)\._", name)])
    try:
        expected = list(by_webdataset(data))
    except ValueError:
        failures = {reason for _, reason in outcome(read(data))}
        assert failures & {reasons.DUPLICATE_MEMBER, reasons.DUPLICATE_KEY}
    else:
        assert list(by_us(data)) == expected


@given(st.text("ab./\n_é", max_size=12))
def test_splits_names_as_webdataset_does(name):
    assert (split_name(name) or (None, None)) == webdataset.tariterators.base_plus_ext(name)


def test_splits_long_hostile_names_quickly():
    assert split_name("/" * 1_000_000) is None
    assert split_name("a/" * 500_000 + ".b") == ("a/" * 500_000, "b")


@pytest.mark.parametrize(
    "path", sorted((ASSETS / "wds").glob("**/*.tar")) if ASSETS.is_dir() else [], ids=lambda path: path.name
)
def test_groups_real_shards_as_webdataset_does(path):
    data = path.read_bytes()
    assert list(by_us(data)) == list(by_webdataset(data))


@pytest.mark.parametrize(
    ("names", "image"),
    [
        (["a.jpg"], "jpg"),
        (["a.JPeG", "a.png"], "JPeG"),
        (["a.png", "a.jpg"], "png"),
        (["a.v2.jpg"], "v2.jpg"),
        (["a.seg.png", "a.jpg"], "jpg"),
        (["a.json", "a.seg.png", "a.txt", "a.depth.png"], "seg.png"),
        *[
            ([f"a.{extension}"], extension)
            for extension in ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
        ],
    ],
)
def test_which_member_is_the_image(names, image):
    (row,) = read(tar_bytes([(name, name.encode()) for name in names]))
    assert (row.ref.image, row.data) == (image, f"a.{image}".encode())


@pytest.mark.parametrize("extension", ["seg.png", ".SEG.png"])
def test_the_image_can_be_named(extension):
    data = tar_bytes([("a.jpg", b"1"), ("a.seg.png", b"2"), ("b.jpg", b"3"), ("b.x.seg.png", b"4")])
    rows = read(data, image_extension=extension)
    assert outcome(rows) == [("a", ""), ("b", reasons.NO_IMAGE)]
    assert (rows[0].ref.image, rows[0].data) == ("seg.png", b"2")


def test_what_is_no_part_of_a_sample_is_skipped_and_counted():
    names = [
        "README",
        "d/Makefile",
        "__meta__",
        "__meta__/a.jpg",
        "__x.y__",
        "._a.jpg",
        "d/._a.jpg",
        ".jpg",
        "a.jpg",
        "a.txt",
    ]
    skipped = SkippedMembers()
    rows = read(tar_bytes([(name, b"") for name in names]), skipped=skipped)
    assert outcome(rows) == [("a", "")]
    assert skipped == rows[0].ref.skipped == {"metadata": 3, "apple_double": 2, "no_extension": 3}


def test_what_is_no_regular_file_is_skipped_and_counted():
    data = b"".join(block(b"a.jpg", kind=kind) for kind in (b"5", b"D", b"3", b"4", b"6", b"V")) + block(b"b.jpg")
    rows = read(data)
    assert outcome(rows) == [("b", "")]
    assert rows[0].ref.skipped == {"special_files": 4, "directories": 2}


def test_further_images_are_counted():
    """Names with dots make one sample of five photographs; the sample's own image is none of the further ones."""
    dotted = [(f"IMG_2020.01.{number}.jpg", b"%d" % number) for number in range(5)]
    others = [("b.jpg", b""), ("b.png", b""), ("c.txt", b""), ("d.ppm", b""), ("d.jpg", b""), ("d.seg.png", b"")]
    rows = read(tar_bytes(dotted + others))
    assert outcome(rows) == [("IMG_2020", ""), ("b", ""), ("c", reasons.NO_IMAGE), ("d", "")]
    assert rows[-1].ref.skipped == {"further_images": 6}
    assert [row.ref.skipped for row in rows[:-1]] == [{}] * 3
    rows = read(tar_bytes(others), image_extension="ppm")
    assert outcome(rows) == [("b", reasons.NO_IMAGE), ("c", reasons.NO_IMAGE), ("d", "")]
    assert rows[-1].ref.skipped == {"further_images": 2}


def test_the_counts_of_a_shard_are_its_own():
    skipped = SkippedMembers(metadata=3)
    (row,) = read(tar_bytes([("__meta__", b""), ("a.jpg", b"")]), skipped=skipped)
    assert row.ref.skipped == {"metadata": 1}
    assert skipped == {"metadata": 4}


def message(names, **options):
    """The message of the last failure of a shard with these members."""
    return [row.failure.message for row in read(tar_bytes([(name, b"") for name in names]), **options) if row.failure][
        -1
    ]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.heic", "a.txt"], "here: '.heic', '.txt'); name that of the images with `image_extension`"),
        (["a.txt", "b.txt"], "if they stand elsewhere in the tar, sort it by name"),
        (["d/a", "d/a.txt"], "the member 'a' has no extension, so it is not part of a sample"),
        (["a", "b", "a.txt"], "name that of the images with `image_extension`"),
        (
            ["a.jpg", "b.jpg", "a.txt"],
            "are apart from earlier ones (here: '.txt'), so they are not one sample; sort",
        ),
        (["a.txt", "b.txt", "a.jpg"], "the tar is not sorted by name"),
        (["a.1.jpg", "b.1.jpg", "a.2.jpg"], "a key ends at the first dot of the name, and here '2.jpg' follows it"),
        (["a.jpg", "a.JPG"], "upper and lower case are the same"),
        (["README", "LICENSE", "__meta__"], "no sample; what it has was skipped: 2 no_extension, 1 metadata"),
        ([f"a.{number}" for number in range(12)], "'.5' and 4 more"),
        (["a.x\n\x1b[31my"], "'.x\\n\\x1b[31my'"),
    ],
)
def test_a_message_names_the_likely_cause(names, words):
    assert words in message(names)


def test_the_message_names_the_image_extension_that_was_asked_for():
    words = "no member has the extension 'seg.png' that `image_extension` asks for (here: '.jpg', '.txt')"
    assert words in message(["a", "a.jpg", "a.txt"], image_extension="seg.png")


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        (b"", ""),
        (b"\xff \xfe \n", "\ufffd \ufffd"),
        (b"a\0b", "a\0b"),
        ("é".encode() * 20_000, "é" * 16384),
        (b"x" * ((1 << 20) + 1), None),
        ("\ufeffa dog".encode(), "a dog"),
        ("a dég\n".encode("utf-16"), "a dég"),
        ("\ufeffa dég".encode("utf-16-be"), "a dég"),
        ("a dég".encode("utf-32"), "a dég"),
        ("a dog".encode("utf-16-le"), "a dog"),
        (b"a dog\0\0", "a dog"),
        ("un café".encode("latin-1"), "un caf\ufffd"),  # no code page is guessed
        (("\ufeff" + "é" * 20_000).encode("utf-16-le"), "é" * 16384),
    ],
)
def test_captions(text, caption):
    (row,) = read(tar_bytes([("a.jpg", b""), ("a.txt", text)]))
    assert row.failure is None
    assert row.ref.caption == caption


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_json_in_every_encoding_that_its_bytes_tell(encoding):
    text = json.dumps({"caption": "\ufeffun café", "url": "u"}, ensure_ascii=False)
    (row,) = read(tar_bytes([("a.jpg", b""), ("a.json", text.encode(encoding))]))
    assert (row.ref.caption, row.ref.url) == ("un café", "u")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (b'{"url": "u"}', "u"),
        (b'{"url": 3}', None),
        (b'{"url": "\\ud800"}', "?"),
        (b'["url"]', None),
        (b"{", None),
        (b"\xff\xff", None),
        (b"[" * 500_000, None),
        (b'{"url": ' + b"1" * 10_000 + b"}", None),
        (json.dumps({"url": "u" * 9000}).encode(), None),
    ],
)
def test_urls(text, url):
    (row,) = read(tar_bytes([("a.jpg", b""), ("a.json", text)]))
    assert row.failure is None
    assert row.ref.url == url


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("0123456789abcdefABCDEF9876543210", True),
        ("0123456789abcdefABCDEF987654321", False),
        ("0123456789abcdefABCDEF98765432100", False),
        ("0123456789abcdefABCDEF98765432g0", False),
        ("0123456789abcdefABCDEF9876543210\n", False),
        ("٠" * 32, False),
        (123, False),
        (None, False),
    ],
)
def test_uids(value, found):
    (row,) = read(tar_bytes([("a.jpg", b""), ("a.json", json.dumps({"uid": value, "url": "u"}).encode())]))
    assert row.failure is None
    assert (row.ref.uid, row.ref.url) == (value if found else None, "u")


def cut(data, keep):
    return data[:keep]


ORDINARY = tar_bytes(shard(3))  # members of 700 bytes: three blocks each with the header
SPARSE = pax_header(record(b"GNU.sparse.major", b"1")) + block(b"b.txt", octal(5)) + b"abcde" + bytes(507)
FAILURES = {
    reasons.NO_IMAGE: (tar_bytes([("a.jpg", b""), ("b.txt", b"")]), [("a", ""), ("b", reasons.NO_IMAGE)]),
    reasons.DUPLICATE_KEY: (
        tar_bytes([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3"), ("c.jpg", b"4")]),
        [("a", ""), ("b", ""), ("a", reasons.DUPLICATE_KEY), ("c", "")],
    ),
    reasons.DUPLICATE_MEMBER: (
        tar_bytes([("a.jpg", b"1"), ("a.JPG", b"2"), ("b.jpg", b"")]),
        [("a", reasons.DUPLICATE_MEMBER), ("b", "")],
    ),
    reasons.TOO_MANY_MEMBERS: (
        tar_bytes([("a.jpg", b""), *((f"a.{index}", b"") for index in range(4100)), ("b.jpg", b"")]),
        [("a", reasons.TOO_MANY_MEMBERS), ("b", "")],
    ),
    reasons.MEMBER_TOO_LARGE: (
        tar_bytes([("a.jpg", bytes(100_001)), ("b.jpg", bytes(100_000)), ("c.txt", bytes(200_000)), ("c.jpg", b"")]),
        [("a", reasons.MEMBER_TOO_LARGE), ("b", ""), ("c", "")],
    ),
    reasons.UNSUPPORTED_MEMBER: (
        block(b"a.jpg") + block(b"b.jpg") + SPARSE + block(b"c.jpg") + END,
        [("a", ""), ("b", reasons.UNSUPPORTED_MEMBER), ("c", "")],
    ),
    reasons.TRUNCATED_TAR: (ORDINARY[: 5 * 1536 - 600], [("s0", ""), ("s1", reasons.TRUNCATED_TAR)]),
    reasons.CORRUPT_TAR: (
        ORDINARY[: 4 * 1536] + b"\xaa" * 512 + ORDINARY[4 * 1536 + 512 :],
        [("s0", ""), ("s1", reasons.CORRUPT_TAR), ("s2", "")],
    ),
    reasons.UNRESOLVED_LINK: (
        block(b"a.jpg") + block(b"b.jpg", kind=b"1") + block(b"c.jpg") + END,
        [("a", ""), ("b", reasons.UNRESOLVED_LINK), ("c", "")],
    ),
    reasons.NOT_A_TAR: (b"\x89PNG" * 1000, [("", reasons.NOT_A_TAR)]),
    reasons.EMPTY_SHARD: (b"", [("", reasons.EMPTY_SHARD)]),
    reasons.CORRUPT_COMPRESSION: (
        gzip.compress(ORDINARY)[: len(gzip.compress(ORDINARY)) // 2],
        [("s0", ""), ("s1", reasons.CORRUPT_COMPRESSION), ("", reasons.CORRUPT_COMPRESSION)],
    ),
    reasons.UNSUPPORTED_COMPRESSION: (b"BZh91AY&SY" + bytes(1000), [("", reasons.UNSUPPORTED_COMPRESSION)]),
    reasons.SHARD_TOO_LARGE: (
        gzip.compress(tar_bytes([("a.jpg", b""), ("b.jpg", bytes(5_000_000))])),
        [("a", ""), ("b", reasons.SHARD_TOO_LARGE), ("", reasons.SHARD_TOO_LARGE)],
    ),
}


@pytest.mark.parametrize("reason", FAILURES)
def test_one_input_for_each_reason(reason):
    data, expected = FAILURES[reason]
    assert outcome(read(data, max_member_bytes=100_000, max_shard_bytes=1_000_000)) == expected


@pytest.mark.parametrize(
    "data", [bytes(1024), bytes(10_752), tar_bytes([]), tar_bytes([("README", b"")]), gzip.compress(b"", mtime=0)]
)
def test_other_empty_shards(data):
    assert outcome(read(data)) == [("", reasons.EMPTY_SHARD)]


def test_names_that_webdataset_uses_itself_fail():
    for name in ("__key__", "__url__", "__bad__"):
        data = tar_bytes([("a.jpg", b""), (f"a.{name}", b"x")])
        assert outcome(read(data)) == [("a", reasons.DUPLICATE_MEMBER)]


@pytest.mark.parametrize("length", [4097, 100_000])
def test_absurd_names_fail_and_cost_nothing_else(length):
    name = b"n" * length + b".jpg"
    data = block(b"a.jpg") + pax_header(record(b"path", name)) + block() + block(b"b.jpg")
    rows = read(data)
    assert [reason for _, reason in outcome(rows)] == ["", reasons.UNSUPPORTED_MEMBER, ""]
    assert len(rows[1].ref.key) <= 4096


def test_keys_are_text_from_which_the_bytes_can_be_told():
    names = [b"\xff", b"\\xff", b"\\x5cxff", b"a\0b", b"\xed\xa0\x80", "é\\é".encode(), b"\\\xff", b"\\x\xff", b"\\"]
    data = b"".join(pax_header(record(b"path", name + b".jpg")) + block() for name in names)
    rows = read(data)
    keys = [row.ref.key for row in rows]
    assert all(row.failure is None for row in rows)
    assert keys[0] == r"\xff"
    assert (keys[3], keys[5], keys[8]) == ("a\0b", "é\\é", "\\")
    back = [re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), key.encode()) for key in keys]
    assert back == names


@given(
    st.lists(
        st.one_of(st.sampled_from([b"\\", b"x", b"5c", b"ff", b"\xff", b"\xc3", b"\xa9"]), st.binary(max_size=3)),
        max_size=8,
    ).map(b"".join)
)
def test_encodable_is_reversible(name):
    text = encodable(name.decode("utf-8", "surrogateescape"))
    assert re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode()) == name


def whole_members(data):
    """What the samples of an undamaged tar consist of."""
    return {row.ref.key: [member.suffix for member in row.ref.members] for row in read(data)}


def check_damaged(data, rows, whole):
    """No good row may lack a member, and no sample may be gone without a trace."""
    for key, row in good(rows).items():
        assert [member.suffix for member in row.ref.members] == whole[key]
    assert len(rows) >= len(whole) or any(row.failure for row in rows)


@pytest.mark.parametrize("extensions", [("jpg",), ("jpg", "txt"), ("cls", "jpg", "txt")])
@pytest.mark.parametrize("how", ["flip", "garbage"])
def test_good_neighbours_survive_a_damaged_header_and_cut_samples_do_not_pass(extensions, how):
    """Whichever header is hit, exactly its sample fails, and it is never kept without the member."""
    data = tar_bytes(shard(4, extensions))
    whole = whole_members(data)
    for member in range(len(extensions) * 4):
        offset = member * 1536
        damaged = bytearray(data)
        if how == "flip":
            damaged[offset + 150] ^= 0x40
        else:
            damaged[offset : offset + 512] = b"\xaa" * 512
        rows = read(bytes(damaged))
        hit = f"s{member // len(extensions)}"
        check_damaged(damaged, rows, whole)
        assert set(good(rows)) == set(whole) - {hit}
        failed = [(key, reason) for key, reason in outcome(rows) if reason]
        assert failed == [("" if len(extensions) == 1 else hit, reasons.CORRUPT_TAR)]


def test_every_flipped_header_byte_is_accounted_for():
    data = tar_bytes(shard(4, ("jpg", "txt")))
    whole = whole_members(data)
    generator = random.Random(1)
    for member, position in itertools.product(range(8), range(0, 512, 3)):
        damaged = bytearray(data)
        damaged[member * 1536 + position] ^= 1 << generator.randrange(8)
        rows = read(bytes(damaged))
        check_damaged(damaged, rows, whole)
        if len(good(rows)) < len(whole):
            assert len(good(rows)) >= len(whole) - 1
            assert any(row.failure for row in rows)


def test_a_cut_sample_in_a_shard_of_mixed_samples_does_not_pass():
    members = [("a.jpg", b""), ("b.jpg", b""), ("b.txt", b""), ("c.jpg", b""), ("c.txt", b""), ("d.jpg", b"")]
    data = bytearray(tar_bytes(members))
    data[4 * 512 : 5 * 512] = b"\xaa" * 512  # c.txt
    rows = outcome(read(bytes(data)))
    assert rows[:3] == [("a", ""), ("b", ""), ("c", reasons.CORRUPT_TAR)]


def test_a_cut_sample_does_not_pass_though_the_damaged_name_is_garbled():
    """No other sample has a text so far, but a text must have been somebody's."""
    data = bytearray(tar_bytes([("a.jpg", b""), ("b.jpg", b""), ("b.txt", b""), ("c.jpg", b"")]))
    data[2 * 512] ^= 0x10  # b.txt becomes r.txt
    assert outcome(read(bytes(data)))[:2] == [("a", ""), ("b", reasons.CORRUPT_TAR)]


def test_damage_between_members_of_one_sample():
    data = bytearray(tar_bytes(shard(3)))
    data[4 * 1536 + 130] ^= 0xFF
    assert outcome(read(bytes(data))) == [("s0", ""), ("s1", reasons.CORRUPT_TAR), ("s2", "")]


def test_two_damaged_spots_in_a_row():
    members = [("a.jpg", b""), ("x/", b""), ("b.jpg", b""), ("x/", b""), ("c.jpg", b"")]
    raw = b"".join(block(name.encode(), kind=b"5" if name == "x/" else b"0") for name, _ in members)
    bad = b"\xaa" * 512
    data = raw[:512] + bad + raw[512:1024] + bad + raw[1024:]
    rows = outcome(read(data))
    assert sorted(key for key, _ in rows) == ["", "", "a", "b", "c"]
    assert [reason for key, reason in rows if not key] == [reasons.CORRUPT_TAR] * 2


def test_every_truncation_is_accounted_for():
    data = tar_bytes(shard(3, ("jpg", "txt")))
    whole = whole_members(data)
    for cut_at in sorted({max(0, edge + step) for edge in range(0, 6 * 1536 + 1, 512) for step in (-1, 0, 1)}):
        rows = read(data[:cut_at])
        kept = good(rows)
        assert all(len(data[:cut_at]) >= m.offset + m.size for row in kept.values() for m in row.ref.members)
        if cut_at > 2 * 1536:
            for key, row in kept.items():
                assert [member.suffix for member in row.ref.members] == whole[key]
        # Of the complete samples the last may be in doubt: whether it had another member.
        assert len(kept) >= min(cut_at // 3072, 3) - 1
        if cut_at % 512 and cut_at < 6 * 1536:
            assert [row.failure.reason for row in rows if row.failure] == [reasons.TRUNCATED_TAR]


def test_the_sample_in_which_the_shard_ends_fails_and_those_before_it_are_good():
    data = tar_bytes(shard(3, ("jpg", "txt")))
    # In the header of s2.jpg; its name is known from it.
    assert outcome(read(data[: 4 * 1536 + 511])) == [("s0", ""), ("s1", ""), ("s2", reasons.TRUNCATED_TAR)]
    # In the padding after s1.jpg, and right after it: the others have a text.
    for cut_at in (3 * 1536 - 1, 3 * 1536):
        assert outcome(read(data[:cut_at])) == [("s0", ""), ("s1", reasons.TRUNCATED_TAR)]
    # A writer that puts no end marker is no damage.
    assert outcome(read(data[: 6 * 1536])) == [("s0", ""), ("s1", ""), ("s2", "")]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_every_truncation_of_a_compressed_shard_is_accounted_for(compress):
    data = compress(tar_bytes(shard(3, ("jpg", "txt"))))
    for cut_at in range(0, len(data), 97):
        rows = read(data[:cut_at])
        failures = [row.failure.reason for row in rows if row.failure]
        # The end of the archive comes before the end of the compressed stream.
        assert failures or len(rows) == 3
        if 512 < cut_at < len(data) // 2:
            assert failures[-1] == reasons.CORRUPT_COMPRESSION


TWO = tar_bytes([("a.jpg", b"x" * 100), ("a.txt", b"y"), ("b.jpg", b"z" * 600)], tarfile.PAX_FORMAT)[:6144]


@given(
    st.lists(st.tuples(st.integers(0, len(TWO) - 1), st.integers(0, 7)), max_size=6),
    st.sampled_from([bytes, gzip.compress]),
)
@settings(max_examples=300, deadline=None)
def test_any_flipped_bits_give_rows(flips, compress):
    damaged = bytearray(compress(TWO))
    for position, bit in flips:
        damaged[position % len(damaged)] ^= 1 << bit
    read(bytes(damaged))


@given(st.binary(max_size=2000))
@settings(deadline=None)
def test_any_bytes_give_rows(data):
    assert all(row.failure for row in read(data))


@pytest.mark.parametrize(
    "path", sorted((ASSETS / "torture_tars").glob("*")) if ASSETS.is_dir() else [], ids=lambda path: path.name
)
def test_torture_tars_give_rows(path):
    rows = read(path.read_bytes())
    if path.suffix in (".bz2", ".Z", ".lz4", ".lzo", ".lz", ".lzma"):
        assert outcome(rows) == [("", reasons.UNSUPPORTED_COMPRESSION)]
    if path.name == "pillow__hopper.tar":
        assert outcome(rows) == [("hopper", "")]


def test_storage_errors_are_no_rows():
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 2000:
                raise OSError("the disk is gone")
            return super().read(size)

    with pytest.raises(OSError, match="the disk is gone"):
        list(read_samples(Broken(tar_bytes(shard())), SHARD))


def test_at_most_two_images_are_held():
    size = 4 << 20
    members = [(f"{index}.jpg", bytes(size)) for index in range(6)]
    data = bytearray(tar_bytes(members))
    data[size + 512 + 130] ^= 0xFF  # a damaged header makes the sample before it wait
    stream = io.BytesIO(data)
    del data, members
    tracemalloc.start()
    count = 0
    for row in read_samples(stream, SHARD):
        count += row.failure is None
        del row
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5
    # Two images, and the one being read in pieces is joined to a second copy.
    assert peak < 3.5 * size


def test_rows_come_while_the_shard_is_read():
    """The lookahead is one row: the first is there before the third sample is read."""
    stream = io.BytesIO(tar_bytes(shard(100, ("jpg",))))
    rows = read_samples(stream, SHARD)
    next(rows)
    assert stream.tell() <= 3 * 1536
    assert samples.DEFAULT_MAX_MEMBER_BYTES == 1 << 27


def test_skipped_as_reasons():
    assert skipped_as("a.jpg") is None
    assert skipped_as("d/__x__.jpg") is None
    assert skipped_as("__x__.jpg") is None
