"""Holes, noise and sizes that lie: what is whole is read, what is missing is told of, and nothing is made up."""

import gzip
import io
import itertools
import random
import shutil
import subprocess
import tarfile

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_curate import reasons
from beam_curate.records import Shard
from beam_curate.tars.blocks import MAX_STEPS_BACK
from beam_curate.tars.events import Damage, EndMark, TarEntry
from beam_curate.tars.headers import BLOCK, swallowed_header
from beam_curate.tars.reading import MAX_END_BYTES, RECORD, TarReader
from beam_curate.tars.samples import read_samples
from tests.conftest import tar_bytes
from tests.tars.test_tar import END, Forward, block, octal, pax_header, record

COMPRESSIONS = [bytes, gzip.compress, zstandard.compress]


def body(seed, size):
    """Random bytes that do not end in a zero: whether a hole begins in a body that does cannot be told."""
    return random.Random(seed).randbytes(size - 1) + b"\x7f"


class Made:
    """A shard of samples with an image and a text, and where everything lies in it."""

    def __init__(self, format=tarfile.USTAR_FORMAT, count=5, sizes=(1500, 400, 2600), name="s{:03d}", texts=True):
        sizes = itertools.cycle(sizes)
        members = []
        for index in range(count):
            members.append((f"{name.format(index)}.jpg", body(index, next(sizes))))
            if texts:
                members.append((f"{name.format(index)}.txt", b"caption %d" % index))
        self.data = tar_bytes(members, format)
        self.bodies = dict(members)
        self.names = list(self.bodies)
        self.keys = list(dict.fromkeys(name.split(".")[0] for name in self.bodies))
        with tarfile.open(fileobj=io.BytesIO(self.data)) as archive:
            # The extended header, if there is one, belongs to the span of a member; the padding does not.
            self.spans = {info.name: (info.offset, info.offset_data, info.size) for info in archive}
        self.content = max(-(-(start + size) // BLOCK) * BLOCK for _, start, size in self.spans.values())

    def whole(self, damaged):
        """The keys whose members all have their headers and bytes."""
        return [
            key
            for key in self.keys
            if all(
                damaged[start : at + size] == self.data[start : at + size]
                for name, (start, at, size) in self.spans.items()
                if name.split(".")[0] == key
            )
        ]


def rows_of(data, compress=bytes):
    return list(read_samples(io.BytesIO(compress(data)), Shard(0, "s.tar", len(data))))


def hidden(made, damaged):
    """Whether the damaged bytes are those of a tar, or of several, as a writer leaves them: then nobody can tell."""
    stripped = damaged.rstrip(b"\0")
    end = -(-len(stripped) // BLOCK) * BLOCK
    if made.data.startswith(stripped) and len(damaged) - end <= MAX_END_BYTES and end < made.content:
        return True
    zeros = [at for at in range(0, made.content, BLOCK) if not damaged[at : at + BLOCK].strip(b"\0")]
    return bool(zeros) and (zeros[-1] + BLOCK) % RECORD == 0


def check(made, damaged, compress=bytes):
    """The property; returns the rows."""
    rows = rows_of(damaged, compress)
    good = {row.ref.key: row for row in rows if row.failure is None}
    failed = [row for row in rows if row.failure is not None]
    whole = made.whole(damaged)
    assert set(good) <= set(made.keys)
    # A single sample that is left may be a part of one: nothing tells what the others had.
    if len(whole) > 1:
        assert set(whole) <= set(good), set(whole) - set(good)
    for key in set(whole) & set(good):
        assert good[key].data == made.bodies[f"{key}.jpg"]
    if hidden(made, damaged):
        return rows
    assert failed or set(good) == set(made.keys)
    for key, row in good.items():
        assert [(f"{key}.{m.suffix}", m.offset, m.size) for m in row.ref.members] == [
            (name, at, size) for name, (_, at, size) in made.spans.items() if name.split(".")[0] == key
        ]
    return rows


def filled(data, start, length, how, seed=0):
    length = max(0, min(length, len(data) - start))
    noise = {"zeros": bytes, "noise": random.Random(seed).randbytes, "one byte": lambda size: b"\xaa" * size}[how](
        length
    )
    return data[:start] + noise + data[start + length :]


KINDS = {
    "plain": {},
    "images alone": {"texts": False},
    "tiny": {"sizes": (40, 300), "count": 9},
    "pax": {"format": tarfile.PAX_FORMAT, "name": "é{:03d}"},
    "long names": {"format": tarfile.GNU_FORMAT, "name": "d" * 120 + "/{:03d}"},
    "long pax names": {"format": tarfile.PAX_FORMAT, "name": "d" * 190 + "/" + "ü" * 300 + "{:03d}", "count": 4},
}


@pytest.mark.parametrize("how", ["zeros", "noise", "one byte"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hole_at_any_place_costs_what_it_hits(kind, how):
    made = Made(**KINDS[kind])
    if kind == "long pax names" and how != "zeros":
        pytest.skip("nothing tells of noise in the middle of a path that is longer than a block")
    for length in (512, 1024, 1300, 2048, 4096, 10240, 65536):
        for start in itertools.chain(range(0, len(made.data), 512), range(7, made.content, 1171)):
            check(made, filled(made.data, start, length, how, start))


LARGE = Made(count=60, sizes=(3000, 9000, 5555))


@given(
    st.integers(0, len(LARGE.data) // BLOCK),
    st.sampled_from([0, 0, 1, 100, 511]),
    st.integers(1, 160),
    st.sampled_from([0, 0, 300]),
    st.sampled_from(["zeros", "noise"]),
    st.sampled_from(COMPRESSIONS),
)
@settings(max_examples=150, deadline=None)
def test_a_hole_of_any_length_in_a_larger_shard(start, odd, blocks, more, how, compress):
    check(LARGE, filled(LARGE.data, start * BLOCK + odd, blocks * BLOCK + more, how, start), compress)


@pytest.mark.parametrize("compress", COMPRESSIONS[1:])
@pytest.mark.parametrize("kind", ["plain", "pax", "long names"])
def test_a_hole_before_compression(kind, compress):
    made = Made(**KINDS[kind])
    for start, length in itertools.product(range(0, len(made.data), 1536), (1024, 4096)):
        for how in ("zeros", "noise"):
            damaged = filled(made.data, start, length, how, start)
            assert check(made, damaged, compress) == rows_of(damaged)


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar(1)")
@pytest.mark.parametrize("how", ["zeros", "noise"])
def test_finds_the_members_that_tar_finds(how, tmp_path):
    made = Made(count=8)
    for start, length in itertools.product(range(0, made.content, 3 * BLOCK), (1024, 6000)):
        damaged = filled(made.data, start, length, how, start)
        path = tmp_path / "s.tar"
        path.write_bytes(damaged)
        listed = subprocess.run(["tar", "-i", "-tf", path], capture_output=True, text=True, check=False).stdout.split()
        found = [event.name for event in TarReader(io.BytesIO(damaged)).events() if isinstance(event, TarEntry)]
        assert found == listed, (start, length)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tail_of_zeros_and_a_shard_cut_at_any_place(kind):
    made = Made(**KINDS[kind])
    for cut in itertools.chain(range(0, made.content, 512), range(3, made.content, 997)):
        tail = check(made, made.data[:cut] + bytes(len(made.data) - cut + 20_000))
        assert tail[-1].failure is not None
        # Zeros where the shard ended in the middle of a body.
        short = rows_of(made.data[:cut])
        good = [row for row in short if row.failure is None]
        assert all(row.data == made.bodies[f"{row.ref.key}.jpg"] for row in good)
        if cut % 512 and cut < made.content - BLOCK:
            assert len(good) < len(made.keys)
            assert short[-1].failure is not None


@pytest.mark.parametrize("length", [MAX_END_BYTES, MAX_END_BYTES + BLOCK])
def test_zeros_at_the_end_are_padding_up_to_a_record(length):
    made = Made()
    rows = rows_of(made.data[: made.content] + bytes(length))
    assert [row.ref.key for row in rows if row.failure is None] == made.keys
    failures = [(row.ref.key, row.failure.reason) for row in rows if row.failure]
    assert failures == ([] if length == MAX_END_BYTES else [("", reasons.CORRUPT_TAR)])


def test_all_zeros_are_no_shard():
    (row,) = rows_of(bytes(MAX_END_BYTES + BLOCK))
    assert row.failure.reason == reasons.CORRUPT_TAR
    assert "its last part may be missing" in row.failure.message


@pytest.mark.parametrize("compress", COMPRESSIONS)
@pytest.mark.parametrize("second", KINDS)
def test_tars_one_after_another_are_all_read(second, compress):
    first, other = Made(name="a{:03d}"), Made(**KINDS[second])
    third = Made(name="c{:03d}")
    rows = rows_of(first.data + other.data + third.data, compress)
    assert [row.failure for row in rows] == [None] * len(rows)
    assert [row.ref.key for row in rows] == first.keys + other.keys + third.keys
    packed = compress(first.data) + compress(other.data)
    assert [row.ref.key for row in rows_of(packed)] == first.keys + other.keys


def test_an_archive_that_ends_where_no_writer_ends_it_is_doubted_and_read():
    first = Made(name="a{:03d}")
    rows = rows_of(first.data[: first.content + 1024] + Made(name="b{:03d}").data)
    assert [row.ref.key for row in rows if row.failure is None] == [*first.keys, *(f"b{n:03d}" for n in range(5))]
    assert [(row.ref.key, row.failure.reason) for row in rows if row.failure] == [("", reasons.CORRUPT_TAR)]


def test_an_end_mark_after_a_sample_that_lacks_what_all_others_have():
    """The zeros are where a writer may have put an end mark, and a hole may have taken the text."""
    made = Made(count=40)
    name = next(name for name, span in made.spans.items() if name.endswith(".txt") and (span[0] + 1024) % RECORD == 0)
    start = made.spans[name][0]
    rows = rows_of(filled(made.data, start, 1024, "zeros"))
    assert [(row.ref.key, row.failure.reason) for row in rows if row.failure] == [(name[:-4], reasons.CORRUPT_TAR)]
    events = list(TarReader(io.BytesIO(filled(made.data, start, 1024, "zeros"))).events())
    assert [event for event in events if not isinstance(event, TarEntry)] == [EndMark(start)]


@pytest.mark.parametrize("rest", [b"what follows" * 100, b"x", bytes(512) + b"x", b"\xaa" * 70_000])
def test_what_follows_the_end_and_is_no_header_gives_a_row(rest):
    made = Made()
    rows = rows_of(made.data + rest)
    assert [row.ref.key for row in rows if row.failure is None] == made.keys
    assert [(row.ref.key, row.failure.reason) for row in rows if row.failure] == [("", reasons.CORRUPT_TAR)]


def test_a_broken_stream_after_the_end_mark_leaves_the_last_sample_whole():
    made = Made()
    zstd = zstandard.ZstdCompressor(write_checksum=True)
    for packed in (gzip.compress(made.data)[:-4], zstd.compress(made.data)[:-2]):
        rows = rows_of(packed)
        assert [row.ref.key for row in rows if row.failure is None] == made.keys
        assert rows[-1].failure.reason == reasons.CORRUPT_COMPRESSION
    rows = rows_of(gzip.compress(made.data) + b"garbage")
    assert [row.failure and row.failure.reason for row in rows] == [None] * 5 + [reasons.CORRUPT_COMPRESSION]


@pytest.mark.parametrize("suffix", ["webp", "png", "txt", "jpg"])
def test_a_last_body_that_is_zeros_to_the_end(suffix):
    """A decoder reads some such images without an error; of others it says what is wrong with them."""
    members = [("a.jpg", b"x" * 900), ("a.txt", b"y"), ("b.jpg", b"x" * 900), ("b.txt", b"z")]
    data = tar_bytes([*members, (f"c.{suffix}", b"x" * 700 + bytes(1200))])
    rows = {row.ref.key: row.failure and row.failure.reason for row in rows_of(data)}
    assert rows == {"a": None, "b": None, "c": None if suffix == "jpg" else reasons.TRUNCATED_TAR}
    follows = tar_bytes([*members, (f"c.{suffix}", b"x" * 700 + bytes(1200)), ("d.jpg", b"w")])
    assert not [row for row in rows_of(follows) if row.failure and row.failure.reason == reasons.TRUNCATED_TAR]


def test_a_hole_reaches_back_into_the_body_before_it():
    made = Made(texts=False)
    _, at, size = made.spans["s001.jpg"]
    for how in ("zeros", "noise"):
        rows = rows_of(filled(made.data, at + size - 100, 1024, how, 3))
        assert [row.ref.key for row in rows if row.failure is None] == ["s000", "s003", "s004"]
        failed = [(row.ref.key, row.failure.reason) for row in rows if row.failure]
        assert failed == [("s001", reasons.CORRUPT_TAR), ("", reasons.CORRUPT_TAR)]


# --- sizes that lie


def member(name, data, size=None, pax=None):
    header = b"" if pax is None else pax_header(record(b"size", b"%d" % pax))
    return header + block(name.encode(), octal(len(data) if size is None else size)) + data + bytes(-len(data) % BLOCK)


def lying(**lie):
    """Six samples, of which the third lies about its size."""
    parts = [member(f"s{n}.jpg", body(n, 1500), **(lie if n == 2 else {})) for n in range(6)]
    return b"".join([*parts, bytes(1024)]).ljust(20480, b"\0")


BEYOND = [50_000, 10**6, 8**11 - 1]
INSIDE = [1500 + 600, 1500 + 2048 + 300, 5000]
IN_ZEROS = [4 * 2048 + 700, 12_000]


@pytest.mark.parametrize("compress", COMPRESSIONS)
@pytest.mark.parametrize("size", [*BEYOND, *INSIDE, *IN_ZEROS, 600, 0, 1])
@pytest.mark.parametrize("how", ["its own", "pax alone", "pax against its own"])
def test_a_size_that_lies_costs_its_member_alone(how, size, compress):
    lie = {"its own": {"size": size}, "pax alone": {"size": 0, "pax": size}, "pax against its own": {"pax": size}}[how]
    data = lying(**lie)
    rows = rows_of(data, compress)
    good = {row.ref.key: row.data for row in rows if row.failure is None}
    assert {key: good.get(key) for key in ("s0", "s1", "s3", "s4", "s5")} == {
        f"s{n}": body(n, 1500) for n in (0, 1, 3, 4, 5)
    }
    assert [row for row in rows if row.failure]
    assert [row.ref.index for row in rows] == list(range(len(rows)))


def test_a_size_that_lies_where_the_stream_cannot_go_back_is_told():
    for size in (*BEYOND, *INSIDE):
        rows = list(read_samples(Forward(lying(size=size)), Shard(0, "s.tar", 1)))
        assert [row.ref.key for row in rows[:2]] == ["s0", "s1"]
        assert [row for row in rows if row.failure], size


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_a_tar_in_a_tar_stays_a_body(compress):
    inner = Made(name="inner{:03d}").data
    members = [("a.jpg", b"1"), ("a.tar", inner), ("b.jpg", b"2"), ("b.tar", inner)]
    data = tar_bytes(members)
    rows = rows_of(data, compress)
    assert [(row.ref.key, row.failure) for row in rows] == [("a", None), ("b", None)]
    # A damaged header after it, zeros after it, and the shard cut in it.
    after = BLOCK * 3 + len(inner)
    for damaged in (filled(data, after, 512, "noise"), filled(data, after, 512, "zeros"), data[: after - 3000]):
        assert not [row for row in rows_of(damaged, compress) if row.ref.key.startswith("inner")]


def test_steps_back_are_bounded():
    """A hostile shard, each of whose members reaches over the next one's header."""
    count = 4 * MAX_STEPS_BACK
    data = b"".join(block(b"%d.jpg" % n, octal(700)) + b"x" * 512 for n in range(count)) + END

    class Counting(io.BytesIO):
        seeks = 0

        def seek(self, *where):
            self.seeks += 1
            return super().seek(*where)

    stream = Counting(data)
    events = list(TarReader(stream).events())
    assert stream.seeks <= MAX_STEPS_BACK + 1
    assert len([event for event in events if isinstance(event, Damage)]) >= MAX_STEPS_BACK


# --- extended headers, and fields that only one dialect has


@pytest.mark.parametrize("payload", ["zeros", "half zeros", "noise"])
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_that_is_damaged_is_not_believed(format, payload):
    made = Made(format=format, name="d" * 120 + "/{:03d}")
    start, at, _ = made.spans[made.names[4]]
    begin, length = (start + 512 + 60, 452) if payload == "half zeros" else (start + 512, at - start - 1024)
    rows = check(made, filled(made.data, begin, length, "noise" if payload == "noise" else "zeros", 1))
    assert [row.ref.key for row in rows if row.failure is None] == [key for key in made.keys if key != made.keys[2]]


def test_a_short_name_after_damage_counts_though_others_have_long_ones():
    names = ["d" * 120 + "/0.jpg", "1.jpg", "2.jpg", "d" * 120 + "/3.jpg"]
    data = tar_bytes([(name, body(0, 600)) for name in names], tarfile.GNU_FORMAT)
    events = list(TarReader(io.BytesIO(filled(data, 5 * BLOCK, BLOCK, "zeros"))).events())
    assert [event.name for event in events if isinstance(event, TarEntry)] == [names[0], *names[2:]]


@pytest.mark.parametrize(
    ("magic", "name"),
    [
        (b"ustar\x0000", "14524770400/a.jpg"),
        (b"ustar  \0", "a.jpg"),  # GNU: the times of access and change
        (b"", "a.jpg"),
        (b"ustar1", "a.jpg"),
    ],
)
def test_the_prefix_is_read_with_ustars_magic_alone(magic, name):
    data = block(b"a.jpg", magic=magic, prefix=b"14524770400\0" + b"14524770400\0")
    assert [event.name for event in TarReader(io.BytesIO(data)).events()] == [name]


@pytest.mark.parametrize(("magic", "at", "maps"), [(b"ustar  \0", 482, 1), (b"ustar\x0000", 482, 0), (b"", 482, 0)])
def test_a_sparse_map_goes_on_with_gnus_magic_alone(magic, at, maps):
    header = bytearray(block(b"a.jpg", octal(512), b"S", magic))
    header[at] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + maps * bytes(BLOCK) + b"x" * BLOCK + block(b"b.jpg") + END
    assert [(e.name, e.sparse) for e in TarReader(io.BytesIO(data)).events()] == [("a.jpg", True), ("b.jpg", False)]


def test_stars_sparse_map_is_where_star_puts_it():
    header = bytearray(block(b"a.jpg", octal(512), b"S"))
    header[355], header[476:500], header[508:512] = 1, b"14524770400 14524770400 ", b"tar\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + bytes(BLOCK) + b"x" * BLOCK + block(b"b.jpg") + END
    assert [event.name for event in TarReader(io.BytesIO(data)).events()] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_bytes_that_are_gone_from_a_body_are_missed(format):
    """The next member is then taken for the rest of this one, up to a header that stands where one should."""
    made = Made(format, count=6)
    headers = [at - BLOCK for _, at, _ in made.spans.values()]
    for name, (_, at, size) in made.spans.items():
        for gone in (512, 1024, 1536, 2560):
            for start in {at, at + 1, at + size // 2, at + size - 1}:
                if start + gone >= made.content or any(start - BLOCK < header < start + gone for header in headers):
                    continue  # a member that is gone with its header has left no trace
                rows = rows_of(made.data[:start] + made.data[start + gone :])
                kept = {row.ref.key: row for row in rows if row.failure is None}
                whole = all(
                    key in kept and len(kept[key].ref.members) == 2 and kept[key].data == made.bodies[f"{key}.jpg"]
                    for key in made.keys
                )
                assert whole or any(row.failure for row in rows), (name, start, gone)


def test_a_tar_in_a_tar_is_a_member_like_any_other():
    inner = tar_bytes([("inner.jpg", body(1, 700)), ("inner.txt", b"inner")])
    (row,) = rows_of(tar_bytes([("s.jpg", inner), ("s.tar", inner), ("s.txt", b"text")]))
    assert row.failure is None
    assert [member.suffix for member in row.ref.members] == ["jpg", "tar", "txt"]


def test_a_swallowed_header_is_found_at_the_start_of_any_block_and_nowhere_else():
    header = bytes(tar_bytes([("other.jpg", b"x")])[:BLOCK])
    noise = body(5, 40 * BLOCK + 100)
    assert swallowed_header(noise) is None
    for place in (1, 2, 17, 39):
        at = BLOCK * place
        assert swallowed_header(noise[:at] + header + noise[at:]).name == "other.jpg"
        assert swallowed_header(noise[: at + 1] + header + noise[at:]) is None  # not at the start of a block
    # NULs at the end of a header may be cut off; a header of a wrong checksum is none; a tar in a tar is a member of its own.
    assert swallowed_header(noise[: 2 * BLOCK] + header.rstrip(b"\0")).name == "other.jpg"
    assert swallowed_header(noise[: 2 * BLOCK] + header[:-1] + b"x" + noise) is None
    assert swallowed_header(header + noise[:BLOCK] + header) is None
    assert swallowed_header(noise[:BLOCK] + b"u" * (4 * BLOCK) + header).name == "other.jpg"
