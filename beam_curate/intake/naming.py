"""Keys of samples from the names of files, and the extensions of their images."""

import posixpath
from typing import Final, NamedTuple

from beam_curate.tars.sample_group import IMAGE_EXTENSIONS
from beam_curate.tars.writing import safe_key

UNREAD_EXTENSIONS: Final = frozenset(
    ("heic", "heif", "hif", "jxl", "svg", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf", "pef", "srw", "raw")
)
"""Extensions of pictures that Pillow does not decode, lower case: of telephones (HEIF), JPEG XL, SVG; raw ones of cameras."""

_DOT: Final = f"~{ord('.'):02x}~"
_MAGICS: Final = (
    (0, b"\xff\xd8\xff", "jpg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"GIF8", "gif"),
    (0, b"BM", "bmp"),
    (0, b"II*\0", "tif"),
    (0, b"MM\0*", "tif"),
    (8, b"WEBP", "webp"),
    (4, b"ftypavi", "avif"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
)


class Name(NamedTuple):
    """A path below the input's folder, without its extension, and that extension as it stands there."""

    stem: str
    suffix: str

    @property
    def extension(self) -> str:
        """The extension in lower case."""
        return self.suffix.lower()


def split_name(path: str) -> Name:
    """A path split at its last dot; no extension if the file name has none, or only begins with a dot."""
    folder, name = posixpath.split(path)
    stem, dot, suffix = name.rpartition(".")
    return Name(posixpath.join(folder, stem), suffix) if stem and dot else Name(path, "")


def key_of(stem: str) -> str:
    """A key that WebDataset reads back as one: a path without an extension, or any text.

    WebDataset ends a key at the first dot of the file name, so that dots there become `~2e~`, as `safe_key` writes characters
    that cannot stay; `a.v2` and `a.v3` stay two samples. A name that its readers take for metadata (`__x__`) has its first
    underscore written so. Folders stay, with their dots.

    Args:
        stem: Without a leading slash.
    """
    folder, name = posixpath.split(stem.strip("/"))
    key = safe_key(posixpath.join(folder, name.replace(".", _DOT)))
    return f"~5f~{key[1:]}" if key.startswith("__") else key


def is_text(value: str) -> bool:
    """Whether UTF-8 has a text, or the name of a local file: one with other bytes in it cannot travel to a worker."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_image(name: Name) -> bool:
    """Whether a file is an image by its extension."""
    return name.extension in IMAGE_EXTENSIONS


def extension_of(data: bytes) -> str:
    """The extension of an image by its first bytes; empty if they are of no format that is known.

    Source: the magic numbers of the formats' own specifications.
    """
    return next((extension for place, magic, extension in _MAGICS if data.startswith(magic, place)), "")
