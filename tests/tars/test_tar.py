import io
import itertools
import random
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_curate.reasons import CORRUPT_TAR, NOT_A_TAR, TRUNCATED_TAR
from beam_curate.tars.compression import open_decompressed
from beam_curate.tars.compression_kinds import CompressionError
from beam_curate.tars.events import Damage, TarEntry
from beam_curate.tars.extensions import MAX_EXTENSION_BYTES
from beam_curate.tars.headers import Header, number, parse_header, parse_pax
from beam_curate.tars.reading import TarReader
from tests.conftest import ASSETS, tar_bytes

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


class Forward(io.RawIOBase):
    """A stream that only goes forward and gives what it likes."""

    def __init__(self, data):
        self._inner = io.BytesIO(data)
        self._sizes = itertools.cycle([1, 700, 3, 5000])

    def readable(self):
        return True

    def read(self, size=-1):
        return self._inner.read(min(size, next(self._sizes)))


def read(data, **options):
    """All events of a tar, and the bodies of its members."""
    reader = TarReader(io.BytesIO(data), **options)
    events, bodies = [], []
    for event in reader.events():
        events.append(event)
        if isinstance(event, TarEntry):
            bodies.append(reader.read_body())
    return events, bodies


def spans(events):
    """The regular members as (name, offset, size)."""
    return [tuple(event[:3]) for event in events if isinstance(event, TarEntry) and event.regular and not event.sparse]


def damage(events):
    return [event for event in events if isinstance(event, Damage)]


class WithMagic(tarfile.TarInfo):
    """As tarfile, but that the prefix field counts only with ustar's magic, as tar(1) has it."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        info = super().frombuf(buf, encoding, errors)
        prefix = buf[345:500].split(b"\0")[0]
        if prefix and buf[257:263] != b"ustar\0" and info.type not in (b"L", b"K", b"S"):
            info.name = info.name.removeprefix(prefix.decode(encoding, errors) + "/")
        return info


def reference(data, ignore_zeros=False):
    """What tarfile says of the regular members up to where it gives up."""
    members = []
    options = {"tarinfo": WithMagic, "ignore_zeros": ignore_zeros}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", **options) as tar:
        try:
            members.extend((m.name, m.offset_data, m.size) for m in tar if m.isreg() and m.sparse is None)
        except tarfile.ReadError:
            members = [(m.name, m.offset_data, m.size) for m in tar.members if m.isreg() and m.sparse is None]
    return members


def block(name=b"a.jpg", size=b"00000000000\0", kind=b"0", magic=b"ustar\x0000", prefix=b"", signed=False):
    """A header block made by hand."""
    raw = bytearray(512)
    raw[0 : len(name)] = name
    raw[124:136] = size
    raw[156:157] = kind
    raw[257 : 257 + len(magic)] = magic
    raw[345 : 345 + len(prefix)] = prefix
    raw[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte >= 128 else byte for byte in raw)
    raw[148:156] = b"%06o\0 " % total
    return bytes(raw)


def octal(size):
    return b"%011o\0" % size


def pax_header(payload, kind=b"x"):
    return block(b"pax", octal(len(payload)), kind) + payload + bytes(-len(payload) % 512)


def record(keyword, value):
    body = b" " + keyword + b"=" + value + b"\n"
    size = len(body)
    while len(b"%d" % size) + len(body) != size:
        size = len(b"%d" % size) + len(body)
    return b"%d" % size + body


END = bytes(1024)
names = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=30)
paths = st.lists(names, min_size=1, max_size=8).map("/".join)


@given(
    st.lists(st.tuples(paths, st.integers(0, 3000)), max_size=6),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
@settings(max_examples=150, deadline=None)
def test_agrees_with_tarfile_on_what_tarfile_writes(members, format):
    data = tar_bytes([(name, bytes([index % 251]) * size) for index, (name, size) in enumerate(members)], format)
    events, bodies = read(data)
    assert spans(events) == reference(data)
    assert [event.name for event in events] == [name for name, _ in members]
    assert bodies == [bytes([index % 251]) * size for index, (_, size) in enumerate(members)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("options", [{}, {"seekable": True}])
def test_agrees_with_tarfile_on_all_formats(format, options):
    members = [("a.jpg", b"1" * 700_000), ("d/" * 40 + "n" * 90 + ".txt", b"2"), ("é.json", b"")]
    data = tar_bytes(members, format)
    events, bodies = read(data, **options)
    assert spans(events) == reference(data)
    assert bodies == [body for _, body in members]
    for event, (_, body) in zip(events, members, strict=True):
        assert data[event.offset : event.offset + event.size] == body
    assert spans(TarReader(io.BytesIO(data), **options).events()) == reference(data)
    assert spans(TarReader(Forward(data)).events()) == reference(data)


def test_spans_count_from_where_the_stream_stands():
    stream = io.BytesIO(b"before" + tar_bytes([("a.jpg", b"x" * 100_000), ("b.jpg", b"")]))
    stream.seek(6)
    assert spans(TarReader(stream, seekable=True).events()) == [("a.jpg", 512, 100_000), ("b.jpg", 101_376, 0)]


def test_agrees_with_tarfile_on_links_directories_and_devices():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for index, kind in enumerate(b"0123456"):
            info = tarfile.TarInfo(f"m{index}.jpg")
            info.type, info.linkname = bytes([kind]), "m0.jpg"
            tar.addfile(info)
    events, _ = read(out.getvalue())
    assert spans(events) == reference(out.getvalue()) == [("m0.jpg", 512, 0)]
    assert [event.name.rstrip("/") for event in events] == [f"m{index}.jpg" for index in range(7)]


TORTURE = sorted((ASSETS / "torture_tars").glob("*")) if ASSETS.is_dir() else []


@pytest.mark.parametrize("path", TORTURE, ids=lambda path: path.name)
def test_agrees_with_tarfile_on_every_torture_tar_that_it_reads(path):
    try:
        with path.open("rb") as raw:
            data = open_decompressed(raw).read()
        expected = reference(data, ignore_zeros=path.name == "libarchive__test_read_format_tar_concatenated.tar")
    except CompressionError:
        pytest.skip("compressed in a way that is not read")
    except (tarfile.ReadError, ValueError, OverflowError):
        # tarfile cannot read a single member, or (the two others) raises because of a negative size.
        assert damage(read(data)[0])
        return
    events, _ = read(data)
    if path.name == "gotar__gnu-long-nul.tar":
        # A long name with a NUL in it: a name cut short by damage looks the same.
        assert [event.reason for event in damage(events)] == [CORRUPT_TAR]
        return
    assert spans(events) == expected
    assert spans(TarReader(io.BytesIO(data), seekable=True).events()) == expected
    assert spans(TarReader(Forward(data)).events()) == expected


HAND_MADE = {
    "ustar prefix": block(b"b.jpg", prefix=b"dir"),
    "v7": block(magic=b"", kind=b"\0"),
    "v7 directory": block(b"d.x/", magic=b"", kind=b"\0"),
    "signed checksum": block("é.jpg".encode("latin-1"), signed=True),
    "not utf-8": block(b"\xff\xfe.jpg"),
    "base-256 size": block(size=b"\x80" + (3).to_bytes(11, "big")) + b"abc" + bytes(509),
    "octal size with spaces": block(size=b"         3 \0") + b"abc" + bytes(509),
    "contiguous": block(kind=b"7"),
    "unknown type with a body": block(kind=b"Q", size=octal(3)) + b"abc" + bytes(509) + block(b"b.jpg"),
    "link with a size": block(kind=b"1", size=octal(3)) + block(b"b.jpg"),
    "long name": block(b"l", octal(200), b"L") + b"n" * 199 + bytes(313) + block(),
    "long link": block(b"l", octal(200), b"K") + b"n" * 199 + bytes(313) + block(kind=b"2") + block(b"b.jpg"),
    "two long names": block(b"l", octal(2), b"L") + b"x\0" + bytes(510) + block(b"l", octal(2), b"L") + b"y\0"
    + bytes(510) + block(),
    "pax path": pax_header(record(b"path", "日本.jpg".encode())) + block(),
    "pax path not utf-8": pax_header(record(b"path", b"\xff.jpg")) + block(),
    "pax path with nul": pax_header(record(b"path", b"a\0b.jpg")) + block(),
    "pax path with newline": pax_header(record(b"path", b"a\n9 b.jpg")) + block(),
    "pax size": pax_header(record(b"size", b"3")) + block() + b"abc" + bytes(509) + block(b"b.jpg"),
    "pax other": pax_header(record(b"mtime", b"1.5") + record(b"comment", b"")) + block(),
    "pax over long name": pax_header(record(b"path", b"p")) + block(b"l", octal(2), b"L") + b"y\0" + bytes(510) + block(),
    "pax solaris": pax_header(record(b"path", b"p.jpg"), b"X") + block(),
    "pax empty": pax_header(b"") + block(),
    "pax global": pax_header(record(b"comment", b"x" * 600), b"g") + block(),
    "pax then global": pax_header(record(b"path", b"p.jpg")) + pax_header(record(b"comment", b"x"), b"g") + block(),
    "no name": block(b""),
    "label": block(b"label", kind=b"V") + block(),
}  # fmt: skip


@pytest.mark.parametrize("end", [END, b"", bytes(512), bytes(700), bytes(10752)])
@pytest.mark.parametrize("name", HAND_MADE)
def test_agrees_with_tarfile_on_hand_made_dialects(name, end):
    data = block(b"first.jpg") + HAND_MADE[name] + end
    events, _ = read(data)
    assert spans(events) == reference(data)
    assert not damage(events)


@pytest.mark.parametrize(("end", "marker"), [(END, True), (bytes(512), True), (b"", False), (bytes(100), False)])
def test_tells_whether_there_was_an_end_marker(end, marker):
    reader = TarReader(io.BytesIO(block() + end))
    assert not damage(reader.events())
    assert reader.end_marker is marker


def sparse_tars():
    old = bytearray(block(size=octal(512), kind=b"S", magic=b"ustar  \0"))
    old[482] = 1
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    sparse_map = bytearray(512)
    sparse_map[504] = 1
    pax = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.name", b"real.jpg") + record(b"path", b"made/up.jpg")
    return {
        "a.jpg": bytes(old) + bytes(sparse_map) + bytes(512) + b"x" * 512,
        "real.jpg": pax_header(pax) + block(size=octal(5)) + b"abcde" + bytes(507),
    }


@pytest.mark.parametrize("name", ["a.jpg", "real.jpg"])
def test_sparse_members_are_recognised_and_passed(name):
    events, _ = read(sparse_tars()[name] + block(b"b.jpg") + END)
    assert [(event.name, event.sparse) for event in events] == [(name, True), ("b.jpg", False)]


@pytest.mark.parametrize("data", [b"", bytes(512), bytes(1024), bytes(10752), bytes(100)])
def test_nothing_is_no_damage(data):
    assert read(data) == ([], [])


@pytest.mark.parametrize(
    "data", [b"x", b"not a tar" * 1000, b"\x89PNG" + bytes(2000), block(magic=b"")[:-1] + b"!" * 600]
)
def test_what_is_no_tar(data):
    events, _ = read(data)
    assert [event.reason for event in events] == [NOT_A_TAR if len(data) >= 512 else TRUNCATED_TAR]


def flip(data, position):
    damaged = bytearray(data)
    damaged[position] ^= 0x10
    return bytes(damaged)


GOOD = tar_bytes([(f"{index}.jpg", random.Random(index).randbytes(3000)) for index in range(5)])


@pytest.mark.parametrize("hit", range(5))
@pytest.mark.parametrize("how", ["flip", "zeros", "garbage"])
def test_goes_on_after_a_damaged_header(hit, how):
    offset = hit * 3584
    if how == "flip":
        data = flip(GOOD, offset + 130)
    else:
        data = GOOD[:offset] + (bytes(512) if how == "zeros" else b"\xaa" * 512) + GOOD[offset + 512 :]
    events, bodies = read(data)
    assert [(event.offset, event.reason) for event in damage(events)] == [(offset, CORRUPT_TAR)]
    assert [event.name for event in damage(events)] == [f"{hit}.jpg" if how == "flip" else None]
    assert spans(events) == [span for span in spans(read(GOOD)[0]) if span[0] != f"{hit}.jpg"]
    assert all(body == GOOD[span[1] : span[1] + 3000] for span, body in zip(spans(events), bodies, strict=True))


def test_goes_on_after_damage_in_a_tar_without_magic():
    data = b"".join(block(b"%d.jpg" % index, magic=b"", kind=b"\0") for index in range(3)) + END
    events, _ = read(flip(data, 512 + 130))
    assert [event[0] for event in spans(events)] == ["0.jpg", "2.jpg"]
    assert len(damage(events)) == 1


@pytest.mark.parametrize("size", [b"-0000000001\0", b"\xff" * 12, b"abcdefghijk\0"])
def test_a_negative_or_senseless_size_is_damage(size):
    events, _ = read(block(b"0.jpg") + block(size=size) + block(b"2.jpg") + END)
    assert spans(events) == [("0.jpg", 512, 0), ("2.jpg", 1536, 0)]
    assert [event.reason for event in damage(events)] == [CORRUPT_TAR]


@pytest.mark.parametrize("size", [octal(513), octal(8**11 - 1), b"\x80" + b"\xff" * 11])
@pytest.mark.parametrize("seekable", [True, False])
def test_a_size_beyond_the_end_is_truncation_and_costs_no_memory(size, seekable):
    data = block(b"0.jpg") + block(b"1.jpg", size=size) + bytes(512)
    tracemalloc.start()
    events, _ = read(data, seekable=seekable)
    skipped = list(TarReader(io.BytesIO(data), seekable=seekable).events())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert events == skipped
    assert [event.name for event in events] == ["0.jpg", "1.jpg", "1.jpg"]
    assert events[-1].reason == TRUNCATED_TAR
    assert peak < 4 << 20


@pytest.mark.parametrize(
    "payload",
    [
        b"5 a=",
        b"99 path=x\n",
        b"10 path=x.",
        b"6 path=\n",
        b"junk",
        b"0 a=b\n",
        record(b"size", b"-1"),
        b"9" * 5000 + b" a=b\n",
    ],
)
def test_a_malformed_pax_header_costs_its_member_alone(payload):
    assert parse_pax(payload) is None
    events, _ = read(
        block(b"0.jpg") + pax_header(payload) + block(size=octal(3)) + b"abc" + bytes(509) + block(b"2.jpg") + END
    )
    assert [event[0] for event in spans(events)] == ["0.jpg", "2.jpg"]
    assert [event.reason for event in damage(events)] == [CORRUPT_TAR]


@pytest.mark.parametrize("kind", [b"L", b"x", b"X"])
def test_an_endless_extended_header_costs_its_member_alone(kind):
    size = MAX_EXTENSION_BYTES + 1
    huge = block(b"h", octal(size), kind) + bytes(size + -size % 512)
    events, _ = read(block(b"0.jpg") + huge + block() + block(b"2.jpg") + END)
    assert [event[0] for event in spans(events)] == ["0.jpg", "2.jpg"]
    assert [event.reason for event in damage(events)] == [CORRUPT_TAR]


def test_a_member_whose_extended_header_is_damaged_is_left_out():
    """Its name in the plain header is only a stand-in."""
    members = [(f"{'é' * 60}{index}.jpg", b"x" * 600) for index in range(4)]
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = tar_bytes(members, format)
        second = read(data)[0][1].offset - 3 * 512
        for broken in (flip(data, second + 130), data[:second] + b"\xaa" * 512 + data[second + 512 :]):
            events, _ = read(broken)
            assert [event[0] for event in spans(events)] == [members[index][0] for index in (0, 2, 3)]
            assert len(damage(events)) == 1


@pytest.mark.parametrize("end", [END, bytes(512)])
def test_an_extended_header_without_a_member_is_damage(end):
    events, _ = read(block() + pax_header(record(b"path", b"p.jpg")) + end)
    assert [(event.reason, event.name) for event in damage(events)] == [(CORRUPT_TAR, "p.jpg")]
    events, _ = read(block() + pax_header(record(b"path", b"p.jpg")))
    assert [(event.reason, event.name) for event in damage(events)] == [(TRUNCATED_TAR, "p.jpg")]


def test_many_extended_headers_need_no_recursion():
    events, _ = read((block(b"l", octal(2), b"L") + b"x\0" + bytes(510)) * 5000 + block() + END)
    assert [event.name for event in events] == ["x"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_truncation_ends_and_loses_nothing_before_it(format):
    data = tar_bytes([("a.jpg", b"1" * 700), ("b" * 101 + "/c.jpg", b"2" * 600), ("d.txt", b"3")], format)
    whole = spans(read(data)[0])
    content = whole[-1][1] + 512
    for cut in sorted({max(0, edge + step) for edge in range(0, content + 513, 512) for step in (-1, 0, 1)}):
        events, bodies = read(data[:cut])
        assert spans(events) == whole[: len(spans(events))]
        complete = [span for span in whole if span[1] + span[2] <= cut]
        assert sum(len(body) == span[2] for body, span in zip(bodies, whole, strict=False)) == len(complete)
        torn = 0 < cut < content and cut % 512 != 0
        assert not torn or [event.reason for event in damage(events)] == [TRUNCATED_TAR]


@given(st.binary(max_size=3000))
@settings(deadline=None)
def test_any_bytes_end(data):
    events, _ = read(data)
    assert all(isinstance(event, Damage) or event.offset + event.size >= event.offset for event in events)
    assert len(events) <= len(data) // 512 + 2


@given(st.lists(st.sampled_from([*HAND_MADE.values(), bytes(512), b"\xaa" * 512, b"ustar" * 103, END]), max_size=12))
@settings(deadline=None)
def test_any_blocks_end_and_agree_with_seeking(blocks):
    data = b"".join(blocks)
    events, _ = read(data)
    assert list(TarReader(io.BytesIO(data), seekable=True).events()) == events
    assert list(TarReader(Forward(data)).events()) == events
    assert len(events) <= 2 * len(data) // 512 + 1


def test_header_fields():
    assert parse_header(block(b"n", octal(7), b"5")) == Header("n", 7, b"5")
    assert parse_header(flip(block(), 3)) is None
    assert number(b"\x80\0\0\x01") == 1
    assert number(b"\xff\xff\xff\xfe") == -2
    assert number(b"  12 \0") == 10
    assert number(b"\0\0\0\0") == 0
