"""Loads the pixels of an opened image, and mends what Pillow reads without an error as something else.

Each format with such kinds has a module of its own: `prepare` looks at the header, before anything is decoded, and refuses
what cannot be mended; `amend` corrects the loaded pixels in place. After it `colours.to_rgb` shows what a person would see. The
kinds were found by sweeps against OpenCV, libvips and tifffile.
"""

from typing import Final

from PIL import Image

from beam_curate.images import bmp_kinds, frames, jpeg2000_kinds, png_kinds, tiff_kinds

_UNUSED_ALPHA: Final = ("BMP", "CUR", "DIB", "ICO", "TGA")
"""Formats with a fourth byte for alpha that many writers leave at 0 throughout, and that viewers then take for unused."""

_XMP: Final = ("xmp", "XML:com.adobe.xmp")


def prepare(image: Image.Image, data: bytes) -> None:
    """Corrects what the header of an opened image means, before it is loaded.

    Raises:
        UnsupportedKindError: Pillow would read the pixels as something else, and that cannot be mended.
    """
    _forget_xmp(image)
    if image.format == "PNG":
        png_kinds.prepare(image, data)
    elif image.format == "TIFF":
        tiff_kinds.prepare(image)
    elif image.format in ("BMP", "DIB"):
        bmp_kinds.prepare(image, data)
    elif image.format == "JPEG2000":
        jpeg2000_kinds.prepare(data)


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
    transparent = image.info.get("transparency")
    deep = png_kinds.deep_transparency(image, data)
    image.load()
    _forget_xmp(image)
    if image.format == "PNG":
        png_kinds.amend(image, transparent, deep)
    elif image.format == "TIFF":
        tiff_kinds.amend(image)
    elif image.format in ("BMP", "DIB"):
        bmp_kinds.amend(image, data)
    elif image.format == "JPEG2000":
        jpeg2000_kinds.amend(image, data)
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
