"""Opens a shard whatever it is compressed with: plain, gzip or zstd, told by its first bytes and not by its name.

Everything streams: a bomb costs time up to a limit, never memory beyond the decoder's window. A stream that is damaged
or ends early raises while it is read; it never just ends.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

import zstandard
from typing_extensions import Buffer

from beam_curate.reasons import CORRUPT_COMPRESSION, SHARD_TOO_LARGE, UNSUPPORTED_COMPRESSION
from beam_curate.tars.headers import BLOCK, looks_like_header, parse_header

MAX_WINDOW_BYTES: Final = 1 << 27
"""The largest window of a zstd frame that is accepted: that of `zstd --long`, 128 MiB."""

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_UNSUPPORTED = (
    ("bzip2", b"BZh"),
    ("grzip", b"GRZipII\0"),
    ("lrzip", b"LRZI"),
    ("rzip", b"RZIP"),
    ("zpaq", b"7kSt"),
    ("zpaq", b"zPQ"),
    ("snappy", b"\xff\x06\0\0sNaPpY"),
    ("pbzx", b"pbzx"),
    ("lzfse", b"bvx"),
    ("lizard", b"\x06\x22\x4d\x18"),
    ("lz5", b"\x05\x22\x4d\x18"),
    ("pack", b"\x1f\x1e"),
    ("compress -H", b"\x1f\xa0"),
    ("xz", b"\xfd7zXZ\0"),
    ("lz4", b"\x04\x22\x4d\x18"),
    ("lz4", b"\x02\x21\x4c\x18"),
    ("lzop", b"\x89LZO\0\r\n\x1a\n"),
    ("lzip", b"LZIP"),
    ("compress", b"\x1f\x9d"),
)
_READ_BLOCK = 1 << 16


class CompressionError(Exception):
    """A compressed shard that cannot be read (further).

    Attributes:
        reason: UNSUPPORTED_COMPRESSION, CORRUPT_COMPRESSION or SHARD_TOO_LARGE.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def compression_of(head: bytes) -> str:
    """The name of the compression that a file's first bytes (512 are enough) show; empty if none is known.

    A block that is a tar header is plain, whatever its name field begins with.
    """
    if len(head) >= BLOCK and (looks_like_header(head) or parse_header(head[:BLOCK]) is not None):
        return ""
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    if head.startswith(_ZSTD_MAGIC) or _is_skippable(head):
        return "zstd"
    for name, magic in _UNSUPPORTED:
        if head.startswith(magic):
            return name
    # A zlib stream: its two bytes are a multiple of 31, with the usual window of 32 KiB. A text could begin so, no tar.
    if head[:1] == b"x" and head[1:2] in (b"\x01", b"\x9c", b"\xda"):
        return "zlib"
    # The old lzma format has no magic: usual properties (0x5d), a dictionary of at least 4 KiB, an unknown size.
    if head[:3] == b"\x5d\0\0" and head[5:13] == b"\xff" * 8:
        return "lzma"
    return ""


def is_compressed(head: bytes) -> bool:
    """Whether a file's first bytes (512 are enough) show a compression, so that spans cannot be sought in the file."""
    return bool(compression_of(head))


def open_decompressed(raw: BinaryIO, *, max_bytes: int | None = None) -> BinaryIO:
    """The uncompressed bytes of a shard, from the stream's position on.

    Reads as far as a 512-byte block to tell what it is. A plain stream that can seek is given back as it is. Of a compressed
    one that can, what is given can seek as well; to go back, it decompresses from the start again.

    Args:
        raw: The shard as it is stored. It is the caller's to close.
        max_bytes: How many bytes a compressed shard may expand to; None for any number. Plain ones are not limited.

    Raises:
        CompressionError: At the call, if the compression is not supported; while reading, if the stream is damaged, ends
            early or grows beyond the limit.
        OSError: The storage cannot be read.
    """
    origin = raw.tell() if raw.seekable() else None
    head = _read_full(raw, BLOCK)
    name = compression_of(head)
    if origin is not None:
        raw.seek(origin)
        if not name:
            return raw
    stream = io.BufferedReader(_Rejoined(b"" if origin is not None else head, raw), _READ_BLOCK)
    if not name:
        return stream
    if name not in _DECODERS:
        raise _unsupported(name)
    decode = _DECODERS[name]

    def again() -> Iterator[bytes]:
        raw.seek(origin or 0)
        return decode(io.BufferedReader(_Rejoined(b"", raw), _READ_BLOCK))

    decompressed = _Decompressed(decode(stream), max_bytes, None if origin is None else again)
    return io.BufferedReader(decompressed, _READ_BLOCK)


def _unsupported(name: str) -> CompressionError:
    return CompressionError(UNSUPPORTED_COMPRESSION, f"the shard is compressed with {name}; use gzip, zstd or none")


def _is_skippable(data: bytes) -> bool:
    """Whether a skippable frame begins here. zstd and lz4 share its magic; the frame after it tells which it is."""
    return len(data) >= 4 and data[0] & 0xF0 == 0x50 and data[1:4] == b"\x2a\x4d\x18"


def _read_full(stream: BinaryIO, size: int) -> bytes:
    """Reads that many bytes, fewer only at the end, in pieces of at most 64 KiB."""
    pieces = []
    while size and (data := stream.read(min(size, _READ_BLOCK))):
        pieces.append(data)
        size -= len(data)
    return b"".join(pieces)


class _Rejoined(io.RawIOBase):
    """A stream with its first bytes put back."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer)
        data = self._head[: len(view)] or self._rest.read(len(view))
        self._head = self._head[len(data) :]
        view[: len(data)] = data
        return len(data)


class _Decompressed(io.RawIOBase):
    """The bytes that a decoder gives, with its errors made CompressionErrors and its length limited.

    With `again`, which gives all the bytes once more, it can seek to a position that has been read.
    """

    def __init__(
        self, blocks: Iterator[bytes], max_bytes: int | None, again: Callable[[], Iterator[bytes]] | None
    ) -> None:
        self._blocks = blocks
        self._again = again
        self._rest = memoryview(b"")
        self._total = 0
        self._max_bytes = max_bytes
        self._error: CompressionError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        if not self._rest:
            self._rest = memoryview(self._next_block())
        view = memoryview(buffer)
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def seekable(self) -> bool:
        return self._again is not None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = self._total - len(self._rest)
        wanted = offset + (position if whence == io.SEEK_CUR else 0)
        if self._again is None or whence == io.SEEK_END:
            raise io.UnsupportedOperation("a decompressed stream cannot seek so")
        if wanted < position:
            self._blocks, self._rest, self._total, self._error = self._again(), memoryview(b""), 0, None
            position = 0
        while position < wanted and (rest := self._rest or memoryview(self._next_block())):
            skipped = min(len(rest), wanted - position)
            self._rest = rest[skipped:]
            position += skipped
        return position

    def tell(self) -> int:
        return self._total - len(self._rest)

    def _next_block(self) -> bytes:
        if self._error is None:
            try:
                block = next(self._blocks, b"")
            except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
                self._error = CompressionError(CORRUPT_COMPRESSION, f"after {self._total} uncompressed bytes: {error}")
            except CompressionError as error:
                self._error = error
            else:
                self._total += len(block)
                if self._max_bytes is None or self._total <= self._max_bytes:
                    return block
                self._error = CompressionError(
                    SHARD_TOO_LARGE,
                    f"the shard expands to more than {self._max_bytes} bytes; raise the limit to read it",
                )
        # A damaged stream stays damaged: the next read must not look like the end.
        raise self._error


def _gzip_blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The uncompressed bytes of one or more gzip members; the standard library checks their ends and checksums."""
    with gzip.GzipFile(fileobj=stream) as file:
        while block := file.read1(_READ_BLOCK):
            yield block


def _zstd_blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The uncompressed bytes of one or more zstd frames, at most 128 KiB at a time.

    The frames are taken apart here, because the decoder alone takes the end of a truncated file for the end of the data.
    Source: RFC 8878, section 3.1 (frames and blocks).

    Raises:
        EOFError: The file ends within a frame.
        zstandard.ZstdError: A frame is damaged.
        CompressionError: A frame is lz4's, or needs a window beyond MAX_WINDOW_BYTES.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    while magic := _read_full(stream, 4):
        if _is_skippable(magic):
            left = int.from_bytes(_exactly(stream, 4), "little")
            while left:
                left -= len(_exactly(stream, min(left, _READ_BLOCK)))
        elif magic == _ZSTD_MAGIC:
            header, has_checksum = _zstd_header(stream)
            frame = decompressor.decompressobj()
            yield from _pieces(frame.decompress(magic + header))
            last = False
            while not last:
                block_header = _exactly(stream, 3)
                fields = int.from_bytes(block_header, "little")
                last, kind, size = bool(fields & 1), fields >> 1 & 3, fields >> 3
                # A run-length block is one byte, to be repeated `size` times.
                body = _exactly(stream, 1 if kind == 1 else size)
                yield from _pieces(frame.decompress(block_header + body))
            if has_checksum:
                yield from _pieces(frame.decompress(_exactly(stream, 4)))
            if not frame.eof:
                raise zstandard.ZstdError("a zstd frame does not end with its last block")
        elif magic in (lz4 for name, lz4 in _UNSUPPORTED if name == "lz4"):
            raise _unsupported("lz4")
        else:
            raise zstandard.ZstdError("no zstd frame where one should begin")


def _zstd_header(stream: BinaryIO) -> tuple[bytes, bool]:
    """The rest of a frame's header after the magic, and whether a checksum ends the frame."""
    descriptor = _exactly(stream, 1)
    flags = descriptor[0]
    single_segment = bool(flags & 0x20)
    content_size_bytes = (int(single_segment), 2, 4, 8)[flags >> 6]
    window_bytes = 0 if single_segment else 1
    rest = _exactly(stream, window_bytes + (0, 1, 2, 4)[flags & 3] + content_size_bytes)
    if window_bytes:
        base = 1 << (10 + (rest[0] >> 3))
        window = base + base // 8 * (rest[0] & 7)
        if window > MAX_WINDOW_BYTES:
            raise CompressionError(
                UNSUPPORTED_COMPRESSION,
                f"a zstd window of {window} bytes, more than {MAX_WINDOW_BYTES}; compress with `--long=27` or less",
            )
    return descriptor + rest, bool(flags & 4)


def _pieces(data: bytes) -> Iterator[bytes]:
    """The data, unless there is none: an empty read would mean the end."""
    if data:
        yield data


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = _read_full(stream, size)
    if len(data) < size:
        raise EOFError("the file ends within a zstd frame")
    return data


_DECODERS: Final[dict[str, Callable[[BinaryIO], Iterator[bytes]]]] = {"gzip": _gzip_blocks, "zstd": _zstd_blocks}
