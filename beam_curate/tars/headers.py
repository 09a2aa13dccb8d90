"""The tar format's header block and extended headers, as pure functions over bytes.

The standard library's tarfile is the reference: names, sizes and types come out as it gives them, but that a field which
only one dialect has is read with this dialect's magic alone, as tar(1) does. Written by hand because reading with tarfile
costs four times as much, and because tarfile neither recovers after damage nor tells of it.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Interchange Format"; GNU tar manual, "Basic Tar Format";
the header structures in GNU tar's `tar.h`, for its own dialect and for star's.
"""

import re
import zlib
from typing import Final, NamedTuple

BLOCK: Final = 512
ZEROS: Final = bytes(BLOCK)

GNU_LONG_NAME: Final = b"L"
GNU_LONG_LINK: Final = b"K"
GNU_SPARSE: Final = b"S"
GNU_DIRECTORY: Final = b"D"
PAX: Final = (b"x", b"X")  # X is the Solaris spelling
PAX_GLOBAL: Final = b"g"
REGULAR: Final = (b"0", b"\0", b"7")
HARD_LINK: Final = b"1"
SYMBOLIC_LINK: Final = b"2"
DIRECTORIES: Final = (b"5", GNU_DIRECTORY)
BODILESS: Final = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, directories and FIFOs: no body follows, whatever their size field says."""
MAX_OCTAL_SIZE: Final = 8**11 - 1
"""The largest size that a header block says in octal digits; a larger one stands in a pax header, with this or 0 here."""
NAME_BYTES: Final = 100
"""The length of the name field. A longer name stands elsewhere, and its first bytes here; some writers end them with a NUL."""

_MAGIC = slice(257, 263)
_USTAR = b"ustar\0"
_GNU = b"ustar "
_STAR_MAGIC = slice(508, 512)  # beside that of ustar, in star's dialects
_STAR = b"tar\0"
_NUMBERS = ((100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (148, 8))  # mode, user, group, size, time, checksum
_GNU_SPARSE_MORE = 482  # whether a block of the sparse map follows the header
_STAR_SPARSE_MORE = 355

_SPARSE_KEYWORD = "GNU.sparse."
_DIGITS = re.compile(rb"\d{1,20}\Z")
_LENGTH = re.compile(rb"(\d{1,20}) ")
_CHECKSUM = re.compile(rb"[ 0-7]{6}[\0 0-7][\0 ]")


class Header(NamedTuple):
    """A header block: bytes of the names that are not UTF-8 are surrogate escapes; `size` is the stored body's.

    `link` is the name that a link points to.
    """

    name: str
    size: int
    type: bytes
    link: str = ""


class PaxFields(NamedTuple):
    """What a pax extended header says of the next member: None where it says nothing."""

    path: str | None
    size: int | None
    sparse: bool
    link: str | None = None


def padded(size: int) -> int:
    """A body's size rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def looks_like_header(block: bytes) -> bool:
    """Whether the block carries the magic of POSIX or GNU tar, be its checksum right or wrong."""
    return block[257:262] == b"ustar"


def may_be_header(block: bytes) -> bool:
    """Whether a checksum could stand where a header has it: a quick look, which also takes headers without a magic."""
    return _CHECKSUM.match(block, 148) is not None


def may_begin_header(fragment: bytes) -> bool:
    """Whether these bytes, fewer than a block, could be the start of a header.

    A name has no control characters before its NULs, numbers are octal digits or base-256, and the magic is one or none.
    """
    if any(byte < 32 or byte == 127 for byte in fragment[:NAME_BYTES].rstrip(b"\0")):
        return False
    for start, size in _NUMBERS:
        field = fragment[start : start + size]
        if field and field[0] not in (0o200, 0o377) and field.strip(b"01234567 \0"):
            return False
    magic = fragment[257:262]
    return b"ustar".startswith(magic) or not magic.strip(b"\0")


def sparse_map_follows(block: bytes) -> bool:
    """Whether a block of the sparse map follows the header of a sparse member."""
    if block[_MAGIC] == _GNU:
        return block[_GNU_SPARSE_MORE] != 0
    return block[_STAR_MAGIC] == _STAR and block[_STAR_SPARSE_MORE] != 0


def text(field: bytes) -> str:
    """The text of a field up to its first NUL; bytes that are not UTF-8 become surrogate escapes."""
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def number(field: bytes) -> int:
    """The value of a number field: octal digits, or base-256 if the first bit is set.

    Raises:
        ValueError: The field holds neither.
    """
    if field[0] == 0o200:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0o377:
        return int.from_bytes(field, "big", signed=True)
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def block_name(block: bytes) -> str:
    """The member name in a header block, its prefix included, without any check.

    Only ustar has the prefix. GNU's dialect has the times of access and change there (`tar --listed-incremental`), older
    ones have anything.
    """
    name = text(block[0:NAME_BYTES])
    if block[345] and block[_MAGIC] == _USTAR and (prefix := text(block[345:500])):
        return f"{prefix}/{name}"
    return name


def fills_field(block: bytes) -> bool:
    """Whether the name in a header may be cut, since it fills its field and has no prefix."""
    return block[NAME_BYTES - 2] != 0 and block_name(block) == text(block[0:NAME_BYTES])


def parse_header(block: bytes) -> Header | None:
    """The header in a block of 512 bytes, or None if its checksum or its size is wrong.

    The checksum is accepted summed over unsigned or (as some old writers did) signed bytes.
    """
    try:
        checksum = number(block[148:156])
        size = number(block[124:136])
    except ValueError:
        return None
    # What all bytes must add up to. Adler-32 adds them up ten times as fast, modulo 65521: no damage is off by just that.
    wanted = checksum - 8 * ord(" ") + sum(block[148:156])
    if zlib.adler32(block) & 0xFFFF != (wanted + 1) % 65521 and not _is_signed_sum(block, wanted):
        return None
    if size < 0:
        return None
    kind = block[156:157]
    name = block_name(block)
    if kind == b"\0" and text(block[0:NAME_BYTES]).endswith("/"):
        kind = b"5"  # how tar of Unix V7 stores a directory
    return Header(name, size, kind, text(block[157:257]) if kind in (HARD_LINK, SYMBOLIC_LINK) else "")


def swallowed_header(body: bytes) -> Header | None:
    """The first good header with a magic within a body: its bytes are not all its own, since a part of the shard was cut out.

    A body that begins with a header is a tar of its own, whose members are none of the shard's.
    """
    # Only at the magic of each block: to look for that in all bytes takes almost as long as the SHA-256 of the body.
    first = BLOCK + _MAGIC.start
    letters = body[first::BLOCK]
    at = letters.find(b"u")
    while at >= 0:
        start = BLOCK * (1 + at)
        block = body[start : start + BLOCK]
        if looks_like_header(block) and (header := parse_header(block.ljust(BLOCK, b"\0"))):
            return None if parse_header(body[:BLOCK]) else header
        at = letters.find(b"u", at + 1)
    return None


def parse_long_name(payload: bytes) -> str | None:
    """The name in the body of a GNU long name header, or None if its NUL is not its last byte: a hole leaves NULs before it.

    Some writers leave the NUL out.
    """
    end = payload.find(b"\0")
    return None if 0 <= end < len(payload) - 1 else text(payload)


def _is_signed_sum(block: bytes, wanted: int) -> bool:
    """Whether the sum is that of signed bytes, the checksum's own field excepted."""
    off = sum(block) - wanted
    return off % 256 == 0 and off == 256 * sum(byte >= 128 for byte in block[:148] + block[156:])


def parse_pax(payload: bytes) -> PaxFields | None:
    """The records of an extended header (`length keyword=value` and a newline), or None if one is malformed.

    NULs in the place of a record, or several in a path, are malformed as well: that is what a hole leaves.
    A sparse member's real name (`GNU.sparse.name`) goes before its `path`, which is made up by the writer.
    """
    path: str | None = None
    link: str | None = None
    sparse_name: str | None = None
    size: int | None = None
    sparse = False
    position = 0
    while position < len(payload):
        match = _LENGTH.match(payload, position)
        if match is None:
            return None
        end = position + int(match[1])
        equals = payload.find(b"=", match.end(), end)
        # The shortest record, `5 a=\n`, has its equals sign after the keyword and a newline at its end.
        if end > len(payload) or equals <= match.end() or payload[end - 1] != ord("\n"):
            return None
        keyword = payload[match.end() : equals].decode("utf-8", "surrogateescape")
        value = payload[equals + 1 : end - 1]
        position = end
        if keyword == "path":
            if b"\0\0" in value:
                return None
            path = value.decode("utf-8", "surrogateescape").rstrip("/")
        elif keyword == "linkpath":
            link = value.decode("utf-8", "surrogateescape")
        elif keyword == "size":
            if not _DIGITS.match(value):
                return None
            size = int(value)
        elif keyword.startswith(_SPARSE_KEYWORD):
            sparse = True
            if keyword == "GNU.sparse.name":
                sparse_name = value.decode("utf-8", "surrogateescape").rstrip("/")
    return PaxFields(path if sparse_name is None else sparse_name, size, sparse, link)
