"""JPEG bytes to pixels with libjpeg-turbo: the same pixels as Pillow's, or a fraction of the image in less time."""

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

# Markers of lossless JPEGs: start of frame 3, 7, 11 and 15 (ITU-T T.81, table B.1).
_LOSSLESS_MARKERS: Final = (b"\xff\xc3", b"\xff\xc7", b"\xff\xcb", b"\xff\xcf")
_DCT_FACTORS: Final = (8, 4, 2)
_MIN_SCALE_LEFT: Final = 5.0
"""A JPEG decoded at a fraction of its size keeps this many times the target: 1120 pixels for a model of 224.

So photographs of 12 megapixels and a model of 224 use 1/2. No number keeps every picture close: the full decode clips each
pixel to 0 to 255, and a fraction only their mean, so coloured text on white is 25 levels off even with 10 times the target
left. With 5, 71 photographs of a camera's softness were at most 3 levels off, those sharp to the pixel at most 8; with 3.3
it was 6 and 13.
"""
_HALVED_COLOUR: Final = ((1, 1), (2, 2))
"""How much finer than the colours, across and down, the brightness may be: 4:4:4 and 4:2:0.

In 4:2:2 a fraction of the size blurs the colours otherwise than the full decode: 8 levels instead of 3 (measured).
"""


def decode_jpeg(data: bytes, image: Image.Image, factor: int) -> npt.NDArray[np.uint8] | None:
    """Decodes a JPEG with libjpeg-turbo, at one `factor`th of its size.

    Returns:
        (H, W, 3) uint8 RGB or (H, W, 1) grey; None where Pillow is to decode: other colours, and whatever is not perfect.
    """
    import simplejpeg

    colourspace = {"RGB": "RGB", "L": "GRAY"}.get(image.mode)
    if colourspace is None:
        return None
    # A lossless JPEG has no fractions: simplejpeg (1.9) makes room for the fraction, and libjpeg-turbo writes the whole image
    # into it. The markers are looked for in all bytes, so that no two readers can see them differently; in those of other
    # JPEGs they hardly occur, since a 0xff of compressed data is followed by 0 or by a restart marker. The whole image has
    # room whatever it is, and the search takes 0.3 ms, all of it under Python's global lock.
    if factor > 1 and any(marker in data for marker in _LOSSLESS_MARKERS):
        return None
    width, height = image.size
    shape = (-(-height // factor), -(-width // factor))
    try:
        # Pillow's size is within the limit: a file of which libjpeg-turbo reads another one is made to exceed it.
        if simplejpeg.decode_jpeg_header(data)[:2] != (height, width):
            return None
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colourspace, min_height=shape[0], min_width=shape[1], min_factor=factor, strict=True
        )
    except (ValueError, KeyError):
        # ValueError: what simplejpeg raises for every error and, as it is strict, every warning of libjpeg. KeyError: colours
        # stored at a quarter of the height (4:4:1), for which it has no name.
        return None
    return pixels if pixels.shape[:2] == shape else None


def scale_factor(image: Image.Image, size: int) -> int:
    """Gives the fraction (1/1 to 1/8) at which to decode a JPEG that is to become `size` pixels on its shorter side.

    Only one that divides both sides: others are rounded up, which moves the edge of the picture.
    """
    width, height = image.size
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])  # id, samples across and down, table
    if len(layers) > 1 and (layers[0][1] / layers[1][1], layers[0][2] / layers[1][2]) not in _HALVED_COLOUR:
        return 1
    for factor in _DCT_FACTORS:
        if min(width, height) // factor >= _MIN_SCALE_LEFT * size and not width % factor and not height % factor:
            return factor
    return 1
