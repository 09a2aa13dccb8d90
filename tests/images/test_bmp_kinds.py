"""BMPs of palettes, runs and alpha, written by hand and compared with what the format's definition says."""

import itertools
import struct

import numpy as np
import pytest

from tests.support.kinds import SIDE, assert_shows, over_white, picture, refusal

RAW, RLE8, RLE4, BITFIELDS = 0, 1, 2, 3
CORE, INFO, V4, V5 = 12, 40, 108, 124
PALETTES = {
    "colours": lambda bits: np.random.default_rng(bits).integers(0, 256, (2**bits, 3)),
    "greys": lambda bits: np.linspace(0, 255, 2**bits).round().astype(int)[:, None].repeat(3, axis=1),
    "dark greys": lambda bits: np.arange(2**bits)[:, None].repeat(3, axis=1),
    "black and white": lambda bits: np.array([[0, 0, 0], [255, 255, 255]]),
    "white and black": lambda bits: np.array([[255, 255, 255], [0, 0, 0]]),
    "three greys": lambda bits: np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2]][: 2**bits]),
}


def bmp(data, bits, *, header=INFO, compression=RAW, palette=(), masks=(), down=False):
    """A BMP of SIDE x SIDE pixels; `data` is stored as it is, with the last row first unless `down`."""
    if header == CORE:
        head = struct.pack("<IHHHH", CORE, SIDE, SIDE, 1, bits)
    else:
        colours = len(palette) % 2**bits
        high = -SIDE if down else SIDE
        head = struct.pack("<IiiHHIIiiII", header, SIDE, high, 1, bits, compression, len(data), 0, 0, colours, 0)
        fields = struct.pack(f"<{len(masks)}I", *masks)
        head += fields if header == INFO else fields.ljust(header - INFO, b"\0")
    table = b"".join(bytes(map(int, colour[::-1])) + bytes(header != CORE) for colour in palette)
    start = 14 + len(head) + len(table)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + table + data


def rows(index, bits):
    """(H, W) numbers of up to 8 bits, each row filled up to 4 bytes, from the last one to the first."""
    packed = np.packbits(
        ((index[..., None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8).reshape(SIDE, -1), axis=1
    )
    return b"".join(row.tobytes() + bytes(-packed.shape[1] % 4) for row in packed[::-1])


def repeated(index, four):
    """Runs of equal pixels."""
    data = b""
    for row in index[::-1]:
        for at in range(0, SIDE, 4):
            data += bytes([4, row[at] * 17 if four else row[at]])
        data += b"\0\0"
    return data + b"\0\1"


def absolute(index, four, length):
    """Runs of `length` pixels that follow as they are; the last ones of a row are single."""
    data = b""
    for row in index[::-1].tolist():
        for at in range(0, SIDE, length):
            run = row[at : at + length]
            if len(run) < 3:
                data += b"".join(bytes([1, pixel << 4 if four else pixel]) for pixel in run)
                continue
            even = [*run, 0][: len(run) + len(run) % 2]
            stored = bytes(a << 4 | b for a, b in zip(even[::2], even[1::2], strict=True)) if four else bytes(run)
            data += bytes([0, len(run)]) + stored + bytes(len(stored) % 2)
        data += b"\0\0"
    return data + b"\0\1"


@pytest.mark.parametrize("name", PALETTES)
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palettes(bits, name):
    palette = PALETTES[name](bits)
    index = picture(1, len(palette) - 1, seed=3)[..., 0]
    stored = {RAW: [rows(index, bits)]}
    if bits > 1:
        lengths = (3, 5, 6, 7, 8)
        runs = [repeated(index, bits == 4), *(absolute(index, bits == 4, length) for length in lengths)]
        stored[RLE4 if bits == 4 else RLE8] = runs
    for header, (compression, data) in itertools.product((CORE, INFO, V4, V5), stored.items()):
        if header == CORE and (compression or len(palette) != 2**bits):
            continue
        for pixels in data:
            file = bmp(pixels, bits, header=header, compression=compression, palette=palette)
            assert_shows(file, palette[index])


@pytest.mark.parametrize(("bits", "compression"), [(4, RLE4), (8, RLE8)])
def test_runs_that_skip_pixels_and_rows(bits, compression):
    palette = PALETTES["colours"](bits)
    five, seven = (b"\2\x55", b"\1\x70") if bits == 4 else (b"\2\5", b"\1\7")
    # Two pixels of 5, then 3 to the right and 1 up, one pixel of 7, and empty rows: what is not set has the colour 0.
    data = five + b"\0\2\3\1" + seven + b"\0\0" * (SIDE - 1) + b"\0\1"
    index = np.zeros((SIDE, SIDE), int)
    index[-1, :2], index[-2, 5] = 5, 7
    assert_shows(bmp(data, bits, compression=compression, palette=palette), palette[index])


def words(colours, alpha, masks, type):
    """(H, W, 3) colours of 0 to 255 and an alpha of 0 to 255 in words with those masks, from the last row to the first."""
    word = np.zeros((SIDE, SIDE), np.int64)
    for level, mask in zip([*np.moveaxis(colours, 2, 0), alpha], masks, strict=True):
        low = mask & -mask
        word |= np.round(level / 255 * (mask // max(low, 1))).astype(np.int64) * low
    return word[::-1].astype(type).tobytes()


@pytest.mark.parametrize("masks", [(0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0xFF, 0xFF00, 0xFF0000, 0xFF000000)])
@pytest.mark.parametrize("header", [V4, V5])
def test_an_alpha_of_zeros_is_not_used(header, masks):
    colours = picture(3, 255)
    for alpha in (0, 255):
        data = words(colours, np.full((SIDE, SIDE), alpha), masks, "<u4")
        assert_shows(bmp(data, 32, header=header, compression=BITFIELDS, masks=masks), colours)
    alpha = picture(1, 255, seed=1)[..., 0]
    data = words(colours, alpha, masks, "<u4")
    expected = over_white(colours, alpha / 255)
    assert_shows(bmp(data, 32, header=header, compression=BITFIELDS, masks=masks), expected)


def test_the_alpha_bit_of_16_bits():
    masks, colours = (0x7C00, 0x3E0, 0x1F, 0x8000), picture(3, 31)
    for alpha in (np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), 255), picture(1, 1)[..., 0] * 255):
        data = words(colours * 255 / 31, alpha, masks, "<u2")
        opacity = alpha / 255 if alpha.any() else np.ones((SIDE, SIDE))
        for down in (False, True):
            expected = over_white(colours * 255 / 31, opacity)
            file = bmp(data, 16, header=V4, compression=BITFIELDS, masks=masks, down=down)
            assert_shows(file, expected[::-1] if down else expected)


def test_masks_that_pillow_does_not_know_are_refused():
    data = words(picture(3, 255), np.zeros((SIDE, SIDE)), (0xF00, 0xF0, 0xF, 0xF000), "<u2")
    assert "bitfields" in refusal(bmp(data, 16, header=V4, compression=BITFIELDS, masks=(0xF00, 0xF0, 0xF, 0xF000)))
