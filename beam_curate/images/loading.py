"""Loads the pixels of an opened image, and mends what Pillow reads without an error as something else.

Each format with such kinds has a module of its own: `prepare` looks at the header, before anything is decoded, and refuses
what cannot be mended; `amend` corrects the loaded pixels in place. After it `colours.to_rgb` shows what a person would see. The
kinds were found by sweeps against OpenCV, libvips and tifffile.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from PIL import Image

from beam_curate.images import bmp_kinds, frames, jpeg2000_kinds, png_kinds, tiff_kinds

_UNUSED_ALPHA: Final = ("BMP", "CUR", "DIB", "ICO", "TGA")
"""Formats with a fourth byte for alpha that many writers leave at 0 throughout, and that viewers then take for unused."""

_XMP: Final = ("xmp", "XML:com.adobe.xmp")


class _Kinds(NamedTuple):
    """What mends a format: `prepare` before it is loaded; `amend` after it, with what `look` found just before."""

    prepare: Callable[[Image.Image, bytes], None]
    amend: Callable[[Image.Image, bytes, Any], None]
    look: Callable[[Image.Image, bytes], Any] = lambda image, data: None


_BMP: Final = _Kinds(bmp_kinds.prepare, lambda image, data, _: bmp_kinds.amend(image, data))
_KINDS: Final[Mapping[str | None, _Kinds]] = {
    "PNG": _Kinds(
        png_kinds.prepare,
        lambda image, data, found: png_kinds.amend(image, *found),
        lambda image, data: (image.info.get("transparency"), png_kinds.deep_transparency(image, data)),
    ),
    "TIFF": _Kinds(lambda image, data: tiff_kinds.prepare(image), lambda image, data, _: tiff_kinds.amend(image)),
    "BMP": _BMP,
    "DIB": _BMP,
    "JPEG2000": _Kinds(
        lambda image, data: jpeg2000_kinds.prepare(data), lambda image, data, _: jpeg2000_kinds.amend(image, data)
    ),
}
"""By Pillow's name of the format."""


def prepare(image: Image.Image, data: bytes) -> None:
    """Corrects what the header of an opened image means, before it is loaded.

    Raises:
        UnsupportedKindError: Pillow would read the pixels as something else, and that cannot be mended.
    """
    _forget_xmp(image)
    kinds = _KINDS.get(image.format)
    if kinds is not None:
        kinds.prepare(image, data)


def load(image: Image.Image, data: bytes) -> None:
    """Loads the pixels of an image from `opening.open_image`, and corrects them in place.

    Args:
        image: The opened image.
        data: Its bytes.

    Raises:
        UnsupportedKindError: The pixels are not what the file says, which only they themselves show.
        Exception: Whatever Pillow raises on damaged files, see `errors.PILLOW_ERRORS`.
    """
    box = frames.first_frame_box(image, data)
    kinds = _KINDS.get(image.format)
    found = kinds.look(image, data) if kinds is not None else None
    image.load()
    _forget_xmp(image)
    if kinds is not None:
        kinds.amend(image, data, found)
    if box is not None and not image.has_transparency_data:
        cover = Image.new("L", image.size)
        cover.paste(255, box)
        image.putalpha(cover)
    if image.format in _UNUSED_ALPHA and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image.putalpha(255)


def _forget_xmp(image: Image.Image) -> None:
    """Removes the XMP data, from which Pillow takes an orientation where EXIF has none: browsers do not.

    A PNG may have it behind its pixels.
    """
    if any(image.info.pop(name, None) is not None for name in _XMP):
        image._exif = None  # a JPEG's may have been read for its resolution
