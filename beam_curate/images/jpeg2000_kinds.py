"""JPEG 2000: colours that Pillow mistakes for others.

Pillow rounds samples of more than 8 bits to 8 and keeps the low 8 bits of that, so the brightest half level, 256, becomes
0: white is black, in all images but those of grey alone. And it reads all colour spaces and channels as if they were the
usual ones.

Source: ISO/IEC 15444-1, A.5.1 (SIZ) for the depths, I.5.3.3 (colr) and I.5.3.6 (cdef) for the colours.
"""

import struct
from typing import Final

from PIL import Image

from beam_curate.images.errors import UnsupportedKindError

_CODESTREAM: Final = b"\xff\x4f\xff\x51"  # its start, and SIZ
_ENUMERATED: Final = 1
_KNOWN_SPACES: Final = (0, 12, 15, 16, 17, 18)  # bilevel (two ways), CMYK, sRGB, grey, sYCC
_COLOUR, _OPACITY = 0, 1


def prepare(data: bytes) -> None:
    """Refuses colour spaces and orders of channels that Pillow does not heed.

    Raises:
        UnsupportedKindError: They are such ones.
    """
    header = _box(data, b"jp2h")
    colour, channels = _box(header, b"colr"), _box(header, b"cdef")
    if len(colour) >= 7 and colour[0] == _ENUMERATED:
        space = struct.unpack_from(">I", colour, 3)[0]
        if space not in _KNOWN_SPACES:
            raise UnsupportedKindError(f"a JPEG 2000 image of the colour space {space}, which is not read")
    places = [struct.unpack_from(">3H", channels, at) for at in range(2, len(channels) - 5, 6)]
    last = max((channel for channel, _, _ in places), default=0)
    for channel, kind, place in places:
        usual = place == channel + 1 if kind == _COLOUR else kind == _OPACITY and channel == last
        if not usual:
            raise UnsupportedKindError("a JPEG 2000 image whose channels are not in the usual order, which is not read")


def amend(image: Image.Image, data: bytes) -> None:
    """Refuses a loaded image in which white and black cannot be told apart.

    Raises:
        UnsupportedKindError: It is such a one.
    """
    if len(image.getbands()) == 1 or (bits := _depth(data)) <= 8:
        return
    if min(image.getchannel(band).getextrema()[0] for band in image.getbands()) == 0:
        raise UnsupportedKindError(
            f"a JPEG 2000 image in colour or with alpha of {bits} bits: "
            "Pillow gives its white as black, so the two cannot be distinguished"
        )


def _depth(data: bytes) -> int:
    """The bits of the deepest component; 0 if the codestream is not found."""
    start = data.find(_CODESTREAM)
    if start < 0 or start + 42 > len(data):
        return 0
    count = struct.unpack_from(">H", data, start + 40)[0]
    return max(((depth & 0x7F) + 1 for depth in data[start + 42 : start + 42 + 3 * count : 3]), default=0)


def _box(data: bytes, name: bytes) -> bytes:
    """What the first box of a name holds, in a file or in the contents of a box; nothing if there is none."""
    at = 0
    while at + 8 <= len(data):
        length, found = struct.unpack_from(">I4s", data, at)
        if length < 8:
            break  # 0: up to the end, 1: a length of 8 bytes; only the codestream, which is the last, is so long
        if found == name:
            return data[at + 8 : at + length]
        at += length
    return b""
