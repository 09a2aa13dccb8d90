"""The bytes in a stream of zstd frames.

The frames are taken apart here, because the decoder alone takes the end of a truncated file for the end of the data.
Source: RFC 8878, section 3.1 (frames and blocks).
"""

from collections.abc import Iterator
from typing import BinaryIO, Final

import zstandard

from beam_curate.reasons import UNSUPPORTED_COMPRESSION
from beam_curate.tars.compression_kinds import LZ4, ZSTD_MAGIC, CompressionError, is_lz4, is_skippable, unsupported

MAX_WINDOW_BYTES: Final = 1 << 27
"""The largest window of a zstd frame that is accepted: that of `zstd --long`, 128 MiB."""
_READ_BLOCK: Final = 1 << 16


def zstd_blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The uncompressed bytes of one or more zstd frames, at most 128 KiB at a time.

    Raises:
        EOFError: The file ends within a frame.
        zstandard.ZstdError: A frame is damaged.
        CompressionError: A frame is lz4's, or needs a window beyond MAX_WINDOW_BYTES.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    while magic := read_full(stream, 4):
        if is_skippable(magic):
            left = int.from_bytes(_exactly(stream, 4), "little")
            while left:
                left -= len(_exactly(stream, min(left, _READ_BLOCK)))
        elif magic == ZSTD_MAGIC:
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
        elif is_lz4(magic):
            raise unsupported(LZ4)
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
    data = read_full(stream, size)
    if len(data) < size:
        raise EOFError("the file ends within a zstd frame")
    return data


def read_full(stream: BinaryIO, size: int) -> bytes:
    """Reads that many bytes, fewer only at the end, in pieces of at most 64 KiB."""
    pieces = []
    while size and (data := stream.read(min(size, _READ_BLOCK))):
        pieces.append(data)
        size -= len(data)
    return b"".join(pieces)
