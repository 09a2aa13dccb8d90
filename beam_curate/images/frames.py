"""How many frames an image file has, more than one if it moves, and which part of the picture the first one is."""

import struct
from typing import Final

from PIL import Image

_ANIMATED: Final = ("AVIF", "FLI", "PNG", "WEBP")
"""Formats whose header or decoder tells the number. A TIFF's pages, a PSD's layers and an MPO's views are not frames."""

MAX_BLOCKS: Final = 1 << 20
"""The most blocks of a GIF that are looked at, 0.1 s of work; a still GIF of 128 MiB has half as many."""

_MAX_CHUNKS: Final = 1 << 12  # of a WebP before its first frame; real ones have three
_IMAGE: Final = 0x2C
_EXTENSION: Final = 0x21
_TRAILER: Final = 0x3B


def count_frames(image: Image.Image, data: bytes) -> int:
    """Gives the number of frames that an image file says it has; nothing is decoded.

    Args:
        image: The file as Pillow opened it.
        data: Its bytes.

    Returns:
        1 for a still image, 0 where the number is not known: a GIF of more than `MAX_BLOCKS` blocks.
    """
    if image.format == "GIF":
        return gif_frames(data)
    return max(1, int(getattr(image, "n_frames", 1))) if image.format in _ANIMATED else 1


def first_frame_box(image: Image.Image, data: bytes) -> tuple[int, int, int, int] | None:
    """Gives the part of an opened, not yet loaded image that its first frame covers; None for the whole of it.

    The rest is transparent, as browsers show it. Pillow gives it the first colour of a GIF's palette, and black in a WebP
    without alpha.

    Source: the GIF89a specification, section 20; the WebP container specification, ANMF.

    Returns:
        (left, top, right, bottom) in pixels.
    """
    box = None
    if image.format == "GIF":
        box = next((tuple(tile[1]) for tile in getattr(image, "tile", ())), None)
    elif image.format == "WEBP":
        box = _webp_box(data)
    if box is None or len(box) != 4:
        return None
    left, top, right, bottom = box
    whole = left <= 0 and top <= 0 and right >= image.width and bottom >= image.height
    return None if whole else (left, top, right, bottom)


def _webp_box(data: bytes) -> tuple[int, int, int, int] | None:
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 24 > len(data):
            break
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"ANMF":
            # Half of x and y, width - 1 and height - 1, of 24 bits each.
            left, top, wide, high = (int.from_bytes(data[at + 8 + i : at + 11 + i], "little") for i in (0, 3, 6, 9))
            return 2 * left, 2 * top, 2 * left + wide + 1, 2 * top + high + 1
        at += 8 + length + length % 2
    return None


def gif_frames(data: bytes) -> int:
    """Counts the images of a GIF by their headers, up to where the file ends, be it too early.

    Pillow's own count reads every block through Python file calls and joins comments piece by piece, which a hostile file can
    make take hours.

    Source: the GIF89a specification, appendix B.
    """
    frames, blocks = 0, 0
    at = 13 + (_colours(data[10]) if len(data) > 10 else 0)
    while at < len(data):
        kind = data[at]
        at += 1
        if kind == _TRAILER:
            break
        if kind == _IMAGE and at + 9 <= len(data):
            frames += 1
            at += 10 + _colours(data[at + 8])  # place, size, flags; the colours; the size of the codes
        elif kind == _EXTENSION:
            at += 1
        else:  # between blocks: readers pass over it
            blocks += 1
            if blocks > MAX_BLOCKS:
                return 0
            continue
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > MAX_BLOCKS:
                return 0
        at += 1
    return max(1, frames)


def _colours(flags: int) -> int:
    """The bytes of the colour table that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
