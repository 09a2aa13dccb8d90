"""BMP: palettes of greys and runs that Pillow garbles, and the alpha of 16 bits.

Source: Microsoft's documentation of BITMAPINFOHEADER, BITMAPV4HEADER and of bitmap compression.
"""

import struct
from typing import Final

import numpy as np
from PIL import Image, ImageFile, ImagePalette

_FILE_HEADER: Final = 14
_CORE_HEADER: Final = 12  # the size of the header of OS/2, with sides of 2 bytes
_V3_HEADER: Final = 56  # from here on the header has a mask of alpha
_RLE8, _RLE4, _BITFIELDS = 1, 2, 3
_RUNS: Final = "beam_curate_bmp_runs"


def prepare(image: Image.Image, data: bytes) -> None:
    """Corrects how an opened image of a palette, or of runs, is read."""
    assert isinstance(image, ImageFile.ImageFile)
    _, bits, compression = _header(image, data)
    if bits not in (1, 4, 8):
        return
    if (image.mode, bits) not in (("1", 1), ("L", 8), ("P", bits)):
        # Pillow saw a palette of greys and takes the indices for them, which are stored in other bits than those of its mode.
        greys = bytes((0, 255)) if image.mode == "1" else bytes(range(1 << bits))
        image._mode = "P"
        image.palette = ImagePalette.raw("RGB", bytes(value for value in greys for _ in range(3)))
        if compression not in (_RLE8, _RLE4):
            raw_mode = "P" if bits == 8 else f"P;{bits}"
            image.tile = [tile._replace(args=(raw_mode, *tile.args[1:])) for tile in image.tile]  # type: ignore[index]
    if compression in (_RLE8, _RLE4):
        image.tile = [tile._replace(codec_name=_RUNS) for tile in image.tile]


def amend(image: Image.Image, data: bytes) -> None:
    """Applies the alpha bit of an image of 16 bits, unless it is 0 throughout, which means that it is not used."""
    start, bits, compression = _header(image, data)
    size = struct.unpack_from("<I", data, start)[0]
    if bits != 16 or compression != _BITFIELDS or size < _V3_HEADER:
        return
    height, mask = struct.unpack_from("<i", data, start + 8)[0], struct.unpack_from("<I", data, start + 52)[0]
    stride = (2 * image.width + 3) // 4  # in words of 4 bytes, of which a row is made
    offset = struct.unpack_from("<I", data, 10)[0] if start else 0
    rows = np.frombuffer(data, "<u2", 2 * stride * image.height, offset or start + size).reshape(image.height, -1)[
        :, : image.width
    ]
    opaque = (rows & mask) != 0
    if opaque.any() and not opaque.all():
        image.putalpha(Image.fromarray((opaque if height < 0 else opaque[::-1]).astype(np.uint8) * 255))


def _header(image: Image.Image, data: bytes) -> tuple[int, int, int]:
    """Where the header is, the bits of a pixel, and the compression."""
    start = 0 if image.format == "DIB" else _FILE_HEADER
    if struct.unpack_from("<I", data, start)[0] == _CORE_HEADER:
        return start, struct.unpack_from("<H", data, start + 10)[0], 0
    bits, compression = struct.unpack_from("<HI", data, start + 14)
    return start, bits, compression


class _RunDecoder(ImageFile.PyDecoder):
    """Decodes runs. Pillow's own decoder loses empty rows, and of 4 bits a pixel of each odd run that is not repeated."""

    _pulls_fd = True

    def decode(self, buffer: Image.DecoderInput) -> tuple[int, int]:
        assert self.fd is not None
        width, length = self.state.xsize, self.state.xsize * self.state.ysize
        pixels, x = bytearray(), 0
        while len(pixels) < length:
            pair = self.fd.read(2)
            if len(pair) < 2 or pair == b"\0\1":
                break
            count, value = pair
            if count or value > 2:
                kept, run = self._run(count, value)
                kept = min(kept, width - x)
                pixels += run[:kept]
                x += kept
                if len(run) < kept:
                    break
            elif value == 0:
                pixels += bytes(width - x)
                x = 0
            else:
                step = self.fd.read(2)
                if len(step) < 2:
                    break
                pixels += bytes(step[0] + step[1] * width)
                x = len(pixels) % width
        self.set_as_raw(bytes(pixels), "L" if self.mode == "L" else "P", (0, self.args[-1]))
        return -1, 0

    def _run(self, count: int, value: int) -> tuple[int, bytes]:
        """The number of pixels and the pixels: `count` times what `value` holds, or `value` pixels that follow."""
        four = self.args[-2]
        if count:
            return count, bytes((value >> 4, value & 15)) * (count // 2 + 1) if four else bytes((value,)) * count
        assert self.fd is not None
        # With 4 bits two pixels to a byte; and bytes to a multiple of two.
        stored = self.fd.read((value + 3) // 4 * 2 if four else (value + 1) // 2 * 2)
        return value, bytes(pixel for byte in stored for pixel in (byte >> 4, byte & 15)) if four else stored


Image.register_decoder(_RUNS, _RunDecoder)
