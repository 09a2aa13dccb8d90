import bz2
import gzip
import io
import lzma
import os

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_curate.reasons import CORRUPT_COMPRESSION, SHARD_TOO_LARGE, UNSUPPORTED_COMPRESSION
from beam_curate.tars import zstd_frames
from beam_curate.tars.compression import open_decompressed
from beam_curate.tars.compression_kinds import CompressionError, compression_of
from tests.conftest import tar_bytes

TAR = tar_bytes([("a.jpg", os.urandom(200_000)), ("a.txt", b"text" * 50_000)])


def zstd(data: bytes, **options) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True, **options).compress(data)


def skippable(data: bytes) -> bytes:
    return b"\x52\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


COMPRESSED = {
    "gzip": gzip.compress(TAR, mtime=0),
    "gzip_members": gzip.compress(TAR[:70_000], mtime=0) + gzip.compress(TAR[70_000:], mtime=0),
    "zstd": zstd(TAR),
    "zstd_fast": zstd(TAR, level=-5),
    "zstd_without_size": zstandard.ZstdCompressor(write_content_size=False).compress(TAR),
    "zstd_frames": zstd(TAR[:70_000]) + skippable(b"x" * 70_000) + zstd(b"") + zstd(TAR[70_000:]),
    "zstd_skippable_first": skippable(b"") + zstd(TAR),
}


class OnlyRead(io.RawIOBase):
    """A stream that cannot seek and gives few bytes at a time."""

    def __init__(self, data, most=1000):
        self._inner = io.BytesIO(data)
        self._most = most

    def readable(self):
        return True

    def read(self, size=-1):
        return self._inner.read(min(size, self._most))


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("raw", [io.BytesIO, OnlyRead])
def test_reads_what_was_compressed(name, raw):
    data = COMPRESSED[name]
    assert compression_of(data[:512])
    assert compression_of(data[:512]) == name.split("_")[0]
    stream = open_decompressed(raw(data))
    assert stream.read(1000) == TAR[:1000]
    assert stream.read() == TAR[1000:]


@pytest.mark.parametrize("data", [TAR, b"", b"x", b"plain text, longer than a block " * 100])
@pytest.mark.parametrize("raw", [io.BytesIO, OnlyRead])
def test_plain_bytes_pass_through(data, raw):
    assert not compression_of(data[:512])
    assert open_decompressed(raw(data)).read() == data


def test_plain_seekable_stream_is_given_back_at_its_position():
    raw = io.BytesIO(b"skip" + TAR)
    raw.seek(4)
    assert open_decompressed(raw) is raw
    assert raw.tell() == 4


def test_a_tar_whose_first_name_looks_like_a_magic_is_plain():
    assert compression_of(tar_bytes([("BZh91AY.jpg", b"")])[:512]) == ""


@pytest.mark.parametrize("name", ["gzip", "gzip_members", "zstd", "zstd_without_size", "zstd_frames"])
def test_every_truncation_is_an_error(name):
    """Never a silent end: what zstandard's own stream reader makes of a truncated file."""
    data = COMPRESSED[name]
    whole = {len(zstd(TAR[:70_000])), len(zstd(TAR[:70_000])) + 70_008} if name == "zstd_frames" else set()
    whole |= {len(zstd(TAR[:70_000])) + 70_008 + len(zstd(b""))} if name == "zstd_frames" else set()
    whole |= {len(gzip.compress(TAR[:70_000], mtime=0))} if name == "gzip_members" else set()
    cuts = {*range(20, len(data), 6007), *range(len(data) - 12, len(data))} - whole
    for cut in cuts:
        stream = open_decompressed(io.BytesIO(data[:cut]))
        with pytest.raises(CompressionError) as caught:
            stream.read()
        assert caught.value.reason == CORRUPT_COMPRESSION, cut
        with pytest.raises(CompressionError):
            stream.read()


@given(st.sampled_from(["gzip", "zstd"]), st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_gives_the_bytes_or_an_error(name, data):
    damaged = bytearray(COMPRESSED[name])
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    assert outcome(bytes(damaged)) in (TAR, CORRUPT_COMPRESSION, UNSUPPORTED_COMPRESSION, "plain")


def outcome(data: bytes) -> bytes | str:
    """The uncompressed bytes, or the reason why there are none. (Some header bits, a time, mean nothing for the bytes.)"""
    if not compression_of(data[:512]):
        return "plain"
    try:
        return open_decompressed(io.BytesIO(data)).read()
    except CompressionError as error:
        return error.reason


@pytest.mark.parametrize("garbage", [b"garbage!", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\x08"])
@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_garbage_after_the_end_is_an_error_only_where_it_is_read(name, garbage):
    stream = open_decompressed(io.BytesIO(COMPRESSED[name] + garbage))
    assert stream.read(len(TAR)) == TAR
    with pytest.raises(CompressionError) as caught:
        stream.read(1)
    assert caught.value.reason == CORRUPT_COMPRESSION


MAGICS = {
    "bzip2": bz2.compress(TAR),
    "xz": lzma.compress(TAR),
    "lzma": lzma.compress(TAR, format=lzma.FORMAT_ALONE),
    "lz4": b"\x04\x22\x4d\x18" + bytes(600),
    "lzop": b"\x89LZO\0\r\n\x1a\n" + bytes(600),
    "lzip": b"LZIP\x01" + bytes(600),
    "compress": b"\x1f\x9d\x90" + bytes(600),
}


@pytest.mark.parametrize("name", MAGICS)
def test_other_compressions_are_named(name):
    with pytest.raises(CompressionError, match=name) as caught:
        open_decompressed(io.BytesIO(MAGICS[name]))
    assert caught.value.reason == UNSUPPORTED_COMPRESSION


def test_lz4_after_a_skippable_frame_is_told_from_zstd():
    stream = open_decompressed(io.BytesIO(skippable(b"abc") + MAGICS["lz4"]))
    with pytest.raises(CompressionError, match="lz4") as caught:
        stream.read()
    assert caught.value.reason == UNSUPPORTED_COMPRESSION


def bombs():
    zeros = bytes(1 << 24)
    return {"gzip": gzip.compress(zeros), "zstd": zstd(zeros)}


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_a_bomb_stops_at_the_limit(name):
    stream = open_decompressed(io.BytesIO(bombs()[name]), max_bytes=1 << 20)
    blocks = []
    with pytest.raises(CompressionError, match="1048576") as caught:
        blocks.extend(iter(lambda: stream.read(1 << 16), b""))
    assert caught.value.reason == SHARD_TOO_LARGE
    assert sum(map(len, blocks)) <= 1 << 20


def test_the_limit_itself_is_allowed_and_plain_streams_have_none():
    assert len(open_decompressed(io.BytesIO(COMPRESSED["zstd"]), max_bytes=len(TAR)).read()) == len(TAR)
    assert open_decompressed(io.BytesIO(TAR), max_bytes=1).read() == TAR


def test_a_huge_window_is_refused():
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = frame.compress(TAR) + frame.flush()
    with pytest.raises(CompressionError, match="--long=27") as caught:
        open_decompressed(io.BytesIO(data)).read()
    assert caught.value.reason == UNSUPPORTED_COMPRESSION
    assert zstd_frames.MAX_WINDOW_BYTES == 1 << 27


def test_storage_errors_pass_through():
    class Broken(OnlyRead):
        def read(self, size=-1):
            if self._inner.tell() > 2000:
                raise OSError("the disk is gone")
            return super().read(size)

    for data in (TAR, COMPRESSED["gzip"], COMPRESSED["zstd"]):
        with pytest.raises(OSError, match="the disk is gone"):
            open_decompressed(Broken(data)).read()


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_decompressed_stream_can_go_back_if_the_stored_one_can(name):
    stored = io.BytesIO(b"before" + COMPRESSED[name])
    stored.seek(6)
    stream = open_decompressed(stored, max_bytes=len(TAR))
    for position in (150_000, 1000, 0, 200_000, 70_001):
        stream.seek(position)
        assert stream.tell() == position
        assert stream.read(3000) == TAR[position : position + 3000]
    assert not open_decompressed(OnlyRead(COMPRESSED[name])).seekable()
