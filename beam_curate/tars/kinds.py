"""Tells what a file that is not a tar is, from its first bytes, so that a person knows what to do about it.

Source: the magic numbers of the formats' own specifications, as collected in file(1).
"""

import re
from typing import Final, NamedTuple

_MAX_SHOWN = 60  # characters of a text that are shown
_AGAIN = "the server sent this in place of the shard; look at it, and download the shard again"
_PACK = "pack its files as a tar"


class Kind(NamedTuple):
    """What a file is: `name` with its article, and `remedy`, a sentence without a full stop, or empty."""

    name: str
    remedy: str


_MAGICS: Final = (
    (0, b"version https://git-lfs.github.com/spec/", Kind("a Git LFS pointer", "fetch the shard itself: git lfs pull")),
    (0, b"version https://hawser.github.com/spec/", Kind("a Git LFS pointer", "fetch the shard itself: git lfs pull")),
    (0, b"PK\3\4", Kind("a ZIP archive", _PACK)),
    (0, b"PK\5\6", Kind("an empty ZIP archive", _PACK)),
    (0, b"PK\7\x08", Kind("a ZIP archive in parts", _PACK)),
    (0, b"Rar!\x1a\7", Kind("a RAR archive", _PACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7-Zip archive", _PACK)),
    (0, b"MSCF\0\0\0\0", Kind("a Windows cabinet", _PACK)),
    (0, b"MSWIM\0\0\0", Kind("a Windows image", _PACK)),
    (0, b"xar!\0\x1c", Kind("a xar archive", _PACK)),
    (0, b"!<arch>\n", Kind("an ar archive", _PACK)),
    (0, b"07070", Kind("a cpio archive", _PACK)),
    (0, b"\xc7\x71", Kind("a cpio archive", _PACK)),
    (0, b"\xed\xab\xee\xdb", Kind("an RPM package", _PACK)),
    (0, b"hsqs", Kind("a SquashFS image", _PACK)),
    (0, b"PAR1", Kind("a Parquet file", "give the shards that hold the images")),
    (0, b"ARROW1\0\0", Kind("an Arrow file", "give the shards that hold the images")),
    (0, b"SQLite format 3\0", Kind("an SQLite database", "")),
    (0, b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file", "")),
    (0, b"\x93NUMPY", Kind("a NumPy array", "")),
    (0, b"%PDF-", Kind("a PDF document", "")),
    (0, b"\x7fELF", Kind("a program", "")),
    (0, b"\xff\xd8\xff", Kind("a JPEG image", _PACK)),
    (0, b"\x89PNG\r\n\x1a\n", Kind("a PNG image", _PACK)),
    (0, b"GIF8", Kind("a GIF image", _PACK)),
    (0, b"II*\0", Kind("a TIFF image", _PACK)),
    (0, b"MM\0*", Kind("a TIFF image", _PACK)),
    (8, b"WEBP", Kind("a WebP image", _PACK)),
    (4, b"ftyp", Kind("an MP4, AVIF or HEIF file", "")),
    (0, b"\x1a\x45\xdf\xa3", Kind("a Matroska or WebM file", "")),
    (0, b"Salted__", Kind("encrypted by OpenSSL", "decrypt it first")),
    (0, b"age-encryption.org/", Kind("encrypted by age", "decrypt it first")),
    (0, b"-----BEGIN PGP", Kind("encrypted by PGP", "decrypt it first")),
    (0, b"d8:announce", Kind("a torrent", "download what it names")),
)
_TEXTS: Final = (
    (re.compile(rb"(?i)(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|title|body|script|meta)\b", re.S),
     Kind("an HTML page", _AGAIN)),
    (re.compile(rb"<\?xml\b|<Error>"), Kind("an XML document", _AGAIN)),
    (re.compile(rb"\{\s*\"|\[\s*[\[{\"]"), Kind("JSON", _AGAIN)),
)  # fmt: skip
_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?\s*")


def kind_of(head: bytes) -> Kind | None:
    """The kind of a file that begins with these bytes (512 are enough), if a magic number or a first tag tells it."""
    for place, magic, kind in _MAGICS:
        if head.startswith(magic, place):
            return kind
    start = head[len(_beginning(head)) :]
    for pattern, kind in _TEXTS:
        if pattern.match(start):
            return Kind(f"{kind.name}, {_shown(start)}", kind.remedy)
    return None


def text_in(head: bytes) -> Kind | None:
    """The beginning of a file as a kind if it is text of any other sort; None if it is not."""
    try:
        # A character may be cut at the end of what is looked at.
        text = head.decode() if len(head) < 4 else head[:-3].decode() + head[-3:].decode("utf-8", "ignore")
    except UnicodeDecodeError:
        return None
    if not text.strip() or not all(character.isprintable() or character in "\t\r\n\f" for character in text):
        return None
    return Kind(f"text, {_shown(head[len(_beginning(head)) :])}", "")


def _beginning(head: bytes) -> bytes:
    match = _BEGINNING.match(head)
    return b"" if match is None else match[0]


def _shown(text: bytes) -> str:
    """The first characters, with what is not printable escaped."""
    return repr(text.decode("utf-8", "replace")[:_MAX_SHOWN])
