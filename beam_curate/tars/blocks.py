"""A stream of 512-byte blocks that knows its position, goes forward, and in need some steps back."""

import io
from typing import BinaryIO, Final

from beam_curate.tars import headers
from beam_curate.tars.headers import BLOCK, ZEROS

MAX_STEPS_BACK: Final = 16
"""How often a stream goes back: a compressed one is decompressed again from its start, and a hostile one would never end."""

_READ_BLOCK = 1 << 20
_SEEK_FROM = 1 << 16  # skipping less than this is faster by reading on


class BlockStream:
    """Reads a stream from where it stands.

    Attributes:
        position: The offset of the next byte, from 0 at the start.
    """

    def __init__(self, stream: BinaryIO, *, seekable: bool = False) -> None:
        """Starts at the stream's position.

        Args:
            stream: Is read forward; if it says that it can seek, `step_back` uses that.
            seekable: Whether its `seek` is cheap, so that large pieces are skipped by it.
        """
        self.position = 0
        self._stream = stream
        self._origin = stream.tell() if stream.seekable() else None
        self._steps_back = 0
        self._size: int | None = None
        if seekable:
            start = stream.tell()
            self._size = stream.seek(0, io.SEEK_END) - start
            stream.seek(start)

    def take(self, size: int) -> bytes:
        """Reads that many bytes, fewer only at the end. A size that lies costs no memory: it is read in pieces."""
        data = self._stream.read(size if size < _READ_BLOCK else _READ_BLOCK)
        self.position += len(data)
        if len(data) == size:
            return data
        pieces = [data]
        left = size - len(data)
        while left and (data := self._stream.read(min(left, _READ_BLOCK))):
            self.position += len(data)
            left -= len(data)
            pieces.append(data)
        return b"".join(pieces)

    def skip(self, size: int) -> bool:
        """Goes forward; false if the stream ends before."""
        if self._size is not None and size >= _SEEK_FROM:
            fits = self.position + size <= self._size
            ahead = size if fits else self._size - self.position
            self._stream.seek(ahead, io.SEEK_CUR)
            self.position += ahead
            return fits
        while size and (data := self._stream.read(min(size, _READ_BLOCK))):
            self.position += len(data)
            size -= len(data)
        return size == 0

    def step_back(self, position: int) -> bool:
        """Goes back; false, and it stays, if the stream cannot or has done so too often."""
        if self._origin is None or self._steps_back >= MAX_STEPS_BACK:
            return False
        self._steps_back += 1
        self._stream.seek(self._origin + position)
        self.position = position
        return True

    def next_header(self, *, magic: bool, end: int | None = None) -> bytes:
        """The next block that is a good header; empty if there is none.

        Args:
            magic: Whether headers of this tar have a magic, so that what has none is none.
            end: Where to stop looking; None for the end of the stream.
        """
        plausible = headers.looks_like_header if magic else headers.may_be_header
        while (end is None or self.position + BLOCK <= end) and len(block := self.take(BLOCK)) == BLOCK:
            if plausible(block) and headers.parse_header(block) is not None:
                return block
        return b""

    def after_zeros(self) -> bytes:
        """The next block that has something else than zeros, short if the stream ends in it; empty if there is none."""
        while block := self.take(BLOCK):
            if block != ZEROS[: len(block)]:
                return block
        return b""
