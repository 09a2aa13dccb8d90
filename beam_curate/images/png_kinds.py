"""PNG: transparent colours, which Pillow compares with values of another depth, and takes from chunks that are not valid.

Source: PNG specification (third edition), 11.3.1.1: for grey and RGB, tRNS holds a sample of the image's own depth in the low
bits of two bytes each; for palettes up to as many values as there are colours, behind these. What is otherwise does not count,
as with libpng (`png_handle_tRNS`).
"""

import struct
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

_SAMPLES: Final = {0: 1, 2: 3}
"""Samples of a pixel, by the colour types that may have a transparent colour: grey and RGB."""

_INDEXED: Final = 3
_BAND_ROWS: Final = 256
_HIGH, _LOW = (
    "RGB;16B",
    "RGB;16L",
)  # the names of Pillow's readers that take the first byte of each sample, and the second


def prepare(image: Image.Image, data: bytes) -> None:
    """Scales the transparent colour as Pillow scales the samples: 1, 2 and 4 bits to 8. That of 16-bit RGB stays as it is."""
    if "transparency" not in image.info:
        return
    depth, kind, stored = _transparency(data)
    if not stored:
        del image.info["transparency"]
    elif kind in _SAMPLES:
        white = (1 << depth) - 1
        scale = 255 // white if depth < 8 else 1
        colour = [(sample & white) * scale for sample in struct.unpack(f">{_SAMPLES[kind]}H", stored)]
        image.info["transparency"] = colour[0] if len(colour) == 1 else tuple(colour)


def _transparency(data: bytes) -> tuple[int, int, bytes]:
    """Gives the depth in bits, the colour type, and what tRNS holds; nothing where it is not valid."""
    at, depth, kind, colours = 8, 0, -1, 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        chunk = data[at + 8 : at + 8 + min(length, 768)]  # the largest that counts: 256 colours
        if name == b"IHDR" and len(chunk) >= 10:
            depth, kind = chunk[8], chunk[9]
        elif name == b"PLTE":
            colours = length // 3
        elif name == b"tRNS":
            valid = length <= colours if kind == _INDEXED else length == 2 * _SAMPLES.get(kind, 0)
            return depth, kind, chunk if valid and len(chunk) == length else b""
        elif name == b"IDAT":
            break
        at += 12 + length
    return depth, kind, b""


def deep_transparency(image: Image.Image, data: bytes) -> Image.Image | None:
    """Loads the low bytes of an RGB image of 16 bits with a transparent colour; None for all others.

    Pillow gives the high bytes alone, in which colours that are not the transparent one look like it. So the image is
    read twice.
    """
    if image.format != "PNG" or "transparency" not in image.info or [tile[3] for tile in image.tile] != [_HIGH]:  # type: ignore[attr-defined]
        return None
    low = Image.open(BytesIO(data), formats=["PNG"])
    low.tile = [tile._replace(args=_LOW) for tile in low.tile]
    low.load()
    return low


def amend(image: Image.Image, transparent: Any, low: Image.Image | None) -> None:
    """Corrects the transparency of a loaded image in place.

    Args:
        image: The image.
        transparent: Its transparency before it was loaded: what stands behind the pixels is not valid.
        low: The low bytes of an RGB image of 16 bits, see `deep_transparency`.
    """
    if transparent is None:
        image.info.pop("transparency", None)
    if low is None:
        return
    colour = np.array(transparent)
    opaque = Image.new("L", image.size)
    for top in range(0, image.height, _BAND_ROWS):
        box = (0, top, image.width, min(top + _BAND_ROWS, image.height))
        same = _equals(image.crop(box), colour >> 8) & _equals(low.crop(box), colour & 255)
        opaque.paste(Image.fromarray(np.where(same, 0, 255).astype(np.uint8)), (0, top))
    del image.info["transparency"]
    image.putalpha(opaque)


def _equals(image: Image.Image, colour: npt.NDArray[np.int_]) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (np.asarray(image) == colour).all(axis=2)
    return found
