"""Why an image cannot be decoded: what Pillow raises on hostile bytes, as stable reasons."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import Image, UnidentifiedImageError

from beam_curate import reasons
from beam_curate.images import exif, jpeg_header, tiff_layout
from beam_curate.records import ImageFacts

# Of bytes that no reader accepts, what they tell: a damaged image, or an image of a format that is not read.
_DAMAGED: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    *((signature, "TIFF") for signature in tiff_layout.SIGNATURES),
)
_NOT_READ: Final = (
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
)
_BRANDS: Final = {b"heic": "HEIF", b"heix": "HEIF", b"hevc": "HEIF", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF"}

PILLOW_ERRORS: Final = (*exif.EXIF_ERRORS, BufferError, MemoryError, Image.DecompressionBombError, zlib.error)
"""What Pillow's plugins raise on hostile bytes. They parse with little checking, so it is nearly every built-in error."""

_TRUNCATED_WORDS: Final = ("truncated", "eof", "end of file", "not enough", "ran out", "incomplete", "unexpected end")
_UNSUPPORTED_WORDS: Final = ("unsupported", "not supported", "unimplemented", "not implemented", "unknown")


class ImageError(ValueError):
    """An image that cannot be decoded.

    Attributes:
        reason: One of the decode reasons of `beam_curate.reasons`.
        message: What is wrong, for a person: one line, no object addresses, the same in every run.
        facts: What is known of the image all the same. `sha256` and `size` always are; `width` and `height` are 0 and
            `format` and `exif` empty where the header could not be read.
    """

    def __init__(self, reason: str, message: str, facts: ImageFacts) -> None:
        super().__init__(reason, message, facts)
        self.reason = reason
        self.message = message
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class UnsupportedKindError(Exception):
    """A kind of image that Pillow opens and would read as something else; the message says which, for a person."""


class DamagedImageError(Exception):
    """An image whose bytes are not those that were written; the message says where, for a person."""


@contextmanager
def pillow_errors(facts: ImageFacts, data: bytes = b"") -> Iterator[None]:
    """Turns what Pillow raises into an `ImageError`; `data` is given when the format is not yet known."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError(*_unidentified(data), facts) from error
    except UnsupportedKindError as error:
        raise ImageError(reasons.UNSUPPORTED_IMAGE, str(error), facts) from error
    except DamagedImageError as error:
        raise ImageError(reasons.CORRUPT_IMAGE, str(error), facts) from error
    except PILLOW_ERRORS as error:
        raise ImageError(_reason(error, data), _message(error), facts) from error


def _unidentified(data: bytes) -> tuple[str, str]:
    prefix = data[:16]
    if prefix.startswith(tiff_layout.SIGNATURES) and (stored := tiff_layout.describe_unread(data)):
        return reasons.UNSUPPORTED_IMAGE, f"a TIFF of {stored}, which Pillow does not read"
    if prefix.startswith(_DAMAGED[0][0]) and (kind := jpeg_header.describe_unread(data)):
        return reasons.UNSUPPORTED_IMAGE, f"{kind}, which Pillow does not read"
    for signature, name in _DAMAGED:
        if prefix.startswith(signature):
            return reasons.CORRUPT_IMAGE, f"it begins as {name}, but Pillow cannot read its header"
    for signature, name in _NOT_READ:
        if prefix.startswith(signature):
            return reasons.UNSUPPORTED_IMAGE, f"{name} is not read"
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _BRANDS:
        return reasons.UNSUPPORTED_IMAGE, f"{_BRANDS[prefix[8:12]]} is not read by this build of Pillow"
    return reasons.NOT_AN_IMAGE, f"Pillow knows no format that begins with the bytes {prefix[:8].hex(' ')}"


def _reason(error: BaseException, data: bytes) -> str:
    text = str(error).lower()
    if isinstance(error, (Image.DecompressionBombError, MemoryError)):
        return reasons.TOO_MANY_PIXELS
    if isinstance(error, NotImplementedError) or any(word in text for word in _UNSUPPORTED_WORDS):
        return reasons.UNSUPPORTED_IMAGE
    if isinstance(error, EOFError) or any(word in text for word in _TRUNCATED_WORDS):
        return reasons.TRUNCATED_IMAGE
    # WebP's reader does not say why it fails, but the container tells its length.
    if data[:4] == b"RIFF" and len(data) >= 8 and struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        return reasons.TRUNCATED_IMAGE
    return reasons.CORRUPT_IMAGE


def _message(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return f"{type(error).__name__}: {printable}" if printable else type(error).__name__
