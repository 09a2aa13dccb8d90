"""Any image that Pillow can decode, as RGB, the way a person would see it.

Alpha and transparent colours are laid over white, because that is the page on which web images are shown. Grey values of
more than 8 bits are scaled to 8 bits where Pillow's own `convert` would clip them to white. CMYK, YCbCr, Lab, HSV and palettes
go through Pillow's `convert`. Embedded ICC profiles are ignored, as open_clip ignores them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

_WHITE: Final = (255, 255, 255)
_BAND_PIXELS: Final = 1 << 22  # conversions with intermediate copies go by bands of this many pixels, to bound memory

GREYS: Final = "beam_curate_greys"
"""The key in an image's `info` of what its grey values mean, where the file says it."""


@dataclass(frozen=True)
class Greys:
    """What the grey values of a file mean.

    Attributes:
        white: The value of white; None if the file does not say it.
        values: numpy's name of the type of the numbers, where Pillow holds their bits as another type.
        white_is_zero: Whether the lowest value is white and the highest black.
    """

    white: float | None = None
    values: str = ""
    white_is_zero: bool = False


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a loaded image to mode RGB (the image itself if it is RGB already).

    Grey of more than 8 bits, or with a sign, is scaled so:

    - modes `I;16…`, and `I` from a PGM file (Pillow scales those to 16 bits): 0 to 65535 becomes 0 to 255, rounded; where the
      file says that white is less (12 bits), 0 to that;
    - of other images it follows from their values. If all are within 0 to 1 (`F` only), 0 to 255 or 0 to 65535, that is the
      range, whatever the type of the numbers is; otherwise it is from 0 to the white that the file says (unsigned numbers of a
      TIFF), or from the lowest value to the highest. Infinities take the range's ends and NaN is black.

    Where the file says that 0 is white, the result is inverted.
    """
    greys: Greys = image.info.get(GREYS, Greys())
    if image.mode.startswith("I;16"):
        return _scaled(image, 0.0, greys.white or 65535.0, greys)
    if image.mode in ("I", "F") or greys.values:
        return _scaled(image, *_value_range(image, greys), greys)
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", image.size, _WHITE)
    for top, band in _bands(image):
        # Pillow has no direct way from La, grey premultiplied by its alpha.
        rgba = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
        page.paste(rgba, (0, top), rgba)
    return page


def _numbers(band: Image.Image, greys: Greys) -> npt.NDArray[np.generic]:
    values = np.asarray(band)
    return values.view(greys.values) if greys.values else values


def _value_range(image: Image.Image, greys: Greys) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for _, band in _bands(image):
        values = _numbers(band, greys)
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if image.mode == "I" and image.format == "PPM":
        return 0.0, 65535.0
    for white in (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0):
        if low >= 0.0 and high <= white:
            return 0.0, white
    return (low, high) if greys.white is None else (0.0, greys.white)


def _scaled(image: Image.Image, low: float, high: float, greys: Greys) -> Image.Image:
    page = Image.new("RGB", image.size, _WHITE)
    transparent = image.info.get("transparency")
    for top, band in _bands(image):
        values = _numbers(band, greys)
        grey = _to_bytes(values, low, high, greys.white_is_zero)
        if isinstance(transparent, int):  # the one grey value that a 16-bit PNG declares transparent
            grey[values == transparent] = 255
        page.paste(Image.fromarray(grey), (0, top))
    return page


def _to_bytes(values: npt.NDArray[np.generic], low: float, high: float, invert: bool) -> npt.NDArray[np.uint8]:
    """Maps low..high to 0..255 (or 255..0), rounded; all values equal (high == low) gives black, as NaN does."""
    distance = high - low if high > low else np.inf
    levels = (np.clip(values.astype(np.float64), low, high) - low) * 255.0 / distance
    if invert and high > low:
        levels = 255.0 - levels
    return np.floor(np.nan_to_num(levels, nan=0.0) + 0.5).astype(np.uint8)


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yields (top, band) of the image from top to bottom, each of about `_BAND_PIXELS` pixels."""
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width)
    if rows >= height:
        yield 0, image
        return
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))
