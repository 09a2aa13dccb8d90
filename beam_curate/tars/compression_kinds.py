"""What a shard is compressed with, told by its first bytes and not by its name."""

from typing import Final

from beam_curate.reasons import UNSUPPORTED_COMPRESSION
from beam_curate.tars.headers import BLOCK, looks_like_header, parse_header

GZIP: Final = "gzip"
ZSTD: Final = "zstd"
LZ4: Final = "lz4"
_GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_UNSUPPORTED: Final = (
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
    (LZ4, b"\x04\x22\x4d\x18"),
    (LZ4, b"\x02\x21\x4c\x18"),
    ("lzop", b"\x89LZO\0\r\n\x1a\n"),
    ("lzip", b"LZIP"),
    ("compress", b"\x1f\x9d"),
)


class CompressionError(Exception):
    """A compressed shard that cannot be read (further).

    Attributes:
        reason: UNSUPPORTED_COMPRESSION, CORRUPT_COMPRESSION or SHARD_TOO_LARGE.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def unsupported(name: str) -> CompressionError:
    """The error of a compression that is not read."""
    return CompressionError(UNSUPPORTED_COMPRESSION, f"the shard is compressed with {name}; use gzip, zstd or none")


def compression_of(head: bytes) -> str:
    """The name of the compression that a file's first bytes (512 are enough) show; empty if none is known.

    A block that is a tar header is plain, whatever its name field begins with.
    """
    if len(head) >= BLOCK and (looks_like_header(head) or parse_header(head[:BLOCK]) is not None):
        return ""
    if head.startswith(_GZIP_MAGIC):
        return GZIP
    if head.startswith(ZSTD_MAGIC) or is_skippable(head):
        return ZSTD
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


def is_skippable(data: bytes) -> bool:
    """Whether a skippable frame begins here. zstd and lz4 share its magic; the frame after it tells which it is."""
    return len(data) >= 4 and data[0] & 0xF0 == 0x50 and data[1:4] == b"\x2a\x4d\x18"


def is_lz4(magic: bytes) -> bool:
    """Whether a frame of lz4 begins with these four bytes."""
    return any(magic == lz4 for name, lz4 in _UNSUPPORTED if name == LZ4)
