"""The EXIF data of an image: how it is to be turned, and its tags as text.

EXIF is written by cameras, phones and decades of software, and is often broken. Nothing here fails because of it: what
cannot be read is left out.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any, Final

from PIL import ExifTags, Image

MAX_VALUE_CHARACTERS: Final = 1024
MAX_JSON_BYTES: Final = 16 * 1024
MAX_VALUES: Final = 32  # the longest array that is written: longer ones are tables (offsets of strips, colour curves)

EXIF_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""What Pillow's EXIF and TIFF readers raise on damaged data."""

# The names that the prefixes have in the `exif` column of img2dataset, which come from the library exifread.
_IFDS: Final = (("EXIF", ExifTags.IFD.Exif), ("GPS", ExifTags.IFD.GPSInfo))
_ASCII_COMMENT: Final = b"ASCII\0\0\0"  # Exif 3.0, tag 0x9286: the character code before a UserComment
_POINTERS: Final = frozenset({int(ExifTags.IFD.Exif), int(ExifTags.IFD.GPSInfo), int(ExifTags.IFD.Interop)})

_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_exif(image: Image.Image) -> Image.Exif | None:
    """Gives the EXIF data of an opened image, or None if there is none that can be read.

    Only what the opened file has shown so far is read. A PNG may have its EXIF after the pixels: for that, ask again when
    it is loaded (Pillow's own `getexif` would load it right here).
    """
    if image.format == "PNG" and not image.info.keys() & {"exif", "Raw profile type exif"}:
        return None
    try:
        exif = Image.Image.getexif(image)
        return exif if len(exif) else None
    except EXIF_ERRORS:
        return None


def orientation(image: Image.Image, exif: Image.Exif | None) -> int:
    """Gives the EXIF orientation, 1 (upright) to 8; 1 if there is none or it is not valid.

    It is 1 for TIFF, whose pixels Pillow has turned by itself when it loads them.
    """
    if exif is None or image.format == "TIFF":
        return 1
    try:
        value = exif.get(ExifTags.Base.Orientation, 1)
        return next((number for number in _TRANSPOSE if value == number), 1)
    except EXIF_ERRORS:
        return 1


def turn_upright(image: Image.Image, number: int) -> Image.Image:
    """Turns an image by its EXIF orientation (1 to 8), as `ImageOps.exif_transpose` does."""
    return image if number == 1 else image.transpose(_TRANSPOSE[number])


def exif_json(exif: Image.Exif | None) -> str:
    """Writes the tags as a JSON object of name to text, `{"Image Make": "Canon", "EXIF FNumber": "28/10", …}`.

    The names are those of img2dataset's `exif` column (`Image`, `EXIF` or `GPS`, a space, the tag's name). Numbers stay
    numbers (`1` where that column says `Horizontal (normal)`), rationals are fractions, arrays are `[1, 2]`. Binary values
    and arrays of more than 32 values are left out, a text is cut at 1,024 characters, and tags that would make the
    whole longer than 16 KiB of UTF-8 are left out.

    Returns:
        The JSON, in ASCII (other characters are escaped); empty if there is no tag to write.
    """
    if exif is None:
        return ""
    texts = {name: text[:MAX_VALUE_CHARACTERS] for name, value in _tags(exif) if (text := _text(value))}
    whole = json.dumps(texts) if texts else ""
    if len(whole) <= MAX_JSON_BYTES:
        return whole
    kept, length = {}, 2
    for name, text in texts.items():
        length_with = length + len(json.dumps({name: text}))
        if length_with <= MAX_JSON_BYTES:
            kept[name], length = text, length_with
    return json.dumps(kept)


def _tags(exif: Image.Exif) -> Iterator[tuple[str, Any]]:
    """Yields the (name, value) of every tag that can be read, each name once."""
    for tag in list(exif):
        if tag in _POINTERS:
            continue
        try:
            yield f"Image {ExifTags.TAGS.get(tag, f'Tag 0x{tag:04X}')}", exif[tag]
        except EXIF_ERRORS:
            continue
    for prefix, ifd in _IFDS:
        names = ExifTags.GPSTAGS if prefix == "GPS" else ExifTags.TAGS
        try:
            values = exif.get_ifd(ifd) if ifd in exif else {}
        except EXIF_ERRORS:
            continue
        for tag, value in values.items():
            if tag not in _POINTERS:
                yield f"{prefix} {names.get(tag, f'Tag 0x{tag:04X}')}", value


def _text(value: object) -> str:
    """Gives a tag's value as text, without surrogates and NUL; empty if it is binary, too long or not known."""
    if isinstance(value, (tuple, list)):
        if len(value) > MAX_VALUES:
            return ""
        return f"[{', '.join(_text(item) for item in value)}]"
    if isinstance(value, bytes):
        text = value.removeprefix(_ASCII_COMMENT).strip(b"\0 ").decode("ascii", "replace")
        return text if text.isprintable() and "\ufffd" not in text else ""
    if isinstance(value, str):
        return _repaired(value[: 4 * MAX_VALUE_CHARACTERS])
    if isinstance(value, (int, float)):
        return str(value)
    # Pillow's IFDRational: its own text is a decimal number, or an error when the denominator is 0.
    numerator, denominator = getattr(value, "numerator", None), getattr(value, "denominator", None)
    if numerator is None or denominator is None:
        return ""
    return str(numerator) if denominator == 1 else f"{numerator}/{denominator}"


def _repaired(text: str) -> str:
    """Reads as UTF-8 what Pillow read as Latin-1 (the standard says ASCII, much software writes UTF-8)."""
    try:
        text = text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.split("\0", 1)[0].strip()
