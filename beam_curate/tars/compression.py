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

from beam_curate.reasons import CORRUPT_COMPRESSION, SHARD_TOO_LARGE
from beam_curate.tars.compression_kinds import GZIP, ZSTD, CompressionError, compression_of, unsupported
from beam_curate.tars.headers import BLOCK
from beam_curate.tars.zstd_frames import read_full, zstd_blocks

_READ_BLOCK = 1 << 16


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
    head = read_full(raw, BLOCK)
    name = compression_of(head)
    if origin is not None:
        raw.seek(origin)
        if not name:
            return raw
    stream = io.BufferedReader(_Rejoined(b"" if origin is not None else head, raw), _READ_BLOCK)
    if not name:
        return stream
    if name not in _DECODERS:
        raise unsupported(name)
    decode = _DECODERS[name]

    def again() -> Iterator[bytes]:
        raw.seek(origin or 0)
        return decode(io.BufferedReader(_Rejoined(b"", raw), _READ_BLOCK))

    decompressed = _Decompressed(decode(stream), max_bytes, None if origin is None else again)
    return io.BufferedReader(decompressed, _READ_BLOCK)


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


_DECODERS: Final[dict[str, Callable[[BinaryIO], Iterator[bytes]]]] = {GZIP: _gzip_blocks, ZSTD: zstd_blocks}
