"""Writes tars whose bytes depend on the members' names and contents alone, and whose names cannot do harm.

Headers: regular file, mode 0444, owner and group 0 and nameless, modification time 0; ustar where the name fits (ASCII,
at most 100 bytes, or 255 where a slash lets it be split), else a pax header before it.
"""

import re
import tarfile
from typing import Final, Protocol

from beam_curate.tars.headers import BLOCK, padded

END: Final = bytes(2 * BLOCK)
"""The end of an archive: two blocks of zeros."""

# Keys as nearly all are: nothing in them can do harm, and one look tells it.
_ORDINARY = re.compile(r"[\w-]+(?:[./][\w-]+)*", re.ASCII)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
_PARENT = re.compile(r"(?:^|(?<=/))\.\.(?=/|\Z)")
_DRIVE = re.compile(r"([A-Za-z]):")


class Writable(Protocol):
    """What a tar, or another file of samples, is written to."""

    def write(self, data: bytes, /) -> object:
        """Writes all of the data."""


def safe_key(key: str) -> str:
    r"""A key that stays inside the directory in which the tar is extracted, on any system.

    Ordinary keys stay as they are, directories included. Leading slashes go. In the rest a character is replaced by its
    code point in hex between tildes where it is: a control character or a backslash (which separates directories on
    Windows; `a\b` becomes `a~5c~b`), the second dot of a component `..` (`.~2e~`), the colon of a leading drive letter
    (`C~3a~`), half a surrogate pair. What is left of a key that webdataset might now take for metadata (`/__x__/a`) gets
    its first underscore replaced, and a key of nothing but slashes becomes `~2f~`.

    The result is safe: a second call changes nothing. Two keys may become one; the caller keeps keys unique.
    """
    if _ORDINARY.fullmatch(key):
        return key
    stripped = key.lstrip("/")
    safe = _UNSAFE.sub(_escaped, stripped)
    safe = _PARENT.sub(".~2e~", safe)
    safe = _DRIVE.sub(r"\1~3a~", safe, count=1) if _DRIVE.match(safe) else safe
    if stripped != key and safe.startswith("__"):
        safe = "~5f~" + safe[1:]
    return safe or "~2f~"


def write_member(out: Writable, name: str, data: bytes) -> int:
    """Writes one member: header, bytes, padding.

    Args:
        out: The tar so far.
        name: Key, dot and extension. Made safe as by `safe_key` if it is not.
        data: The member's bytes.

    Returns:
        The number of bytes written, a multiple of 512.
    """
    header = member_header(name, len(data))
    out.write(header)
    out.write(data)
    padding = padded(len(data)) - len(data)
    if padding:
        out.write(bytes(padding))
    return len(header) + len(data) + padding


def write_end(out: Writable) -> int:
    """Writes the end of the archive and returns its size; without it the tar counts as truncated."""
    out.write(END)
    return len(END)


def member_header(name: str, size: int) -> bytes:
    """The header of a member of `size` bytes: one block, or a pax header and one."""
    name = safe_key(name)
    if len(name) <= _SHORT_NAME and size <= _SMALL_SIZE and name.isascii():
        return _short_header(name.encode(), size)
    info = _member_info(name, size)
    if info.name.isascii():
        try:
            return info.tobuf(tarfile.USTAR_FORMAT)
        except ValueError:
            # The name or the size does not fit into the ustar fields, which pax extends.
            pass
    return info.tobuf(tarfile.PAX_FORMAT)


def _member_info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o444
    return info


# An empty member's header, into which a short name and a size are put: `tarfile` takes 30 µs for each, which counts beside
# the copying of small samples. Source of the offsets: POSIX.1-2017, pax, ustar Interchange Format.
_PLAIN: Final = _member_info("", 0).tobuf(tarfile.USTAR_FORMAT)
_SHORT_NAME: Final = 100
_SMALL_SIZE: Final = 8**11 - 1
_SIZE: Final = slice(124, 135)
_CHECKSUM: Final = slice(148, 154)
_PLAIN_SUM: Final = int(_PLAIN[_CHECKSUM], 8) - sum(_PLAIN[_SIZE])


def _short_header(name: bytes, size: int) -> bytes:
    digits = b"%011o" % size
    checksum = b"%06o" % (_PLAIN_SUM + sum(name) + sum(digits))
    return b"".join(
        (
            name,
            _PLAIN[len(name) : _SIZE.start],
            digits,
            _PLAIN[_SIZE.stop : _CHECKSUM.start],
            checksum,
            _PLAIN[_CHECKSUM.stop :],
        )
    )


def _escaped(match: re.Match[str]) -> str:
    return f"~{ord(match[0]):02x}~"
