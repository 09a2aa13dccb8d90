"""PNGs of all depths with a transparent colour, written by hand and compared with what the format's definition says."""

import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from beam_curate.duplicates.image_hashes import hash_image
from beam_curate.images.decoding import MAX_PIXELS
from beam_curate.images.reencoding import Reencoding, reencode
from tests.support.kinds import SIDE, assert_shows, over_white, picture, pillow_shows, shown

GREY, RGB, INDEXED = 0, 2, 3
# Where the passes of Adam7 begin and how far apart their pixels are: x, y, step of x, step of y.
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(samples, depth, kind, before=b"", after=b"", interlaced=False):
    """A PNG of (H, W, C) samples; `before` and `after` are chunks around the pixels."""
    height, width, _ = samples.shape
    parts = [samples[y::down, x::across] for x, y, across, down in PASSES] if interlaced else [samples]
    raw = b"".join(b"\0" + _row(row, depth) for part in parts for row in part)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    pixels = chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


def _row(row, depth):
    if depth == 16:
        return row.astype(">u2").tobytes()
    bits = (row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def trns(colour):
    return chunk(b"tRNS", struct.pack(f">{len(colour)}H", *map(int, colour)))


def seen(samples, depth, colour):
    levels = samples / (2**depth - 1) * 255
    rgb = levels if samples.shape[2] == 3 else levels.repeat(3, axis=2)
    return over_white(rgb, 1.0 - (samples == colour).all(axis=2))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("kind", "depth"), [(GREY, 1), (GREY, 2), (GREY, 4), (GREY, 8), (GREY, 16), (RGB, 8), (RGB, 16)]
)
def test_the_transparent_colour_is_of_the_depth_of_the_samples(kind, depth, interlaced):
    samples = picture(1 if kind == GREY else 3, 2**depth - 1)
    for colour in (samples[0, 0], samples[4, 0], samples[9, 9]):  # black, white and another one
        data = png(samples, depth, kind, trns(colour), interlaced=interlaced)
        assert_shows(data, seen(samples, depth, colour))


@pytest.mark.parametrize(("kind", "depth"), [(GREY, 1), (GREY, 2), (GREY, 4), (GREY, 8), (RGB, 8)])
def test_bits_beyond_the_depth_do_not_count(kind, depth):
    samples = picture(1 if kind == GREY else 3, 2**depth - 1)
    colour = samples[9, 9]
    assert_shows(png(samples, depth, kind, trns(colour | 0x5A00)), seen(samples, depth, colour))


def test_a_16_bit_colour_that_differs_in_the_low_bits_is_not_transparent():
    colour = np.array([0x8000, 0x4000, 0x2000])
    samples = np.broadcast_to(colour, (24, 24, 3)).copy()
    samples[:, :8, 1] += 1
    samples[:, 8:16] = [0, 0, 0]
    expected = np.full((24, 24, 3), 255)
    expected[:, :8], expected[:, 8:16] = [0x80, 0x40, 0x20], 0
    assert_shows(png(samples, 16, RGB, trns(colour)), expected)


def test_a_16_bit_image_is_masked_in_bands_without_a_seam(monkeypatch):
    samples = picture(3, 65535)
    data = png(samples, 16, RGB, trns(samples[9, 9]))
    monkeypatch.setattr("beam_curate.images.png_kinds._BAND_ROWS", 5)
    assert_shows(data, seen(samples, 16, samples[9, 9]))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_with_alpha_and_with_few_colours(depth):
    for count, opacities in itertools.product({2, max(2, 2**depth - 3)}, ([255, 0], [100, 200], [0])):
        samples = picture(1, count - 1)
        colours = np.random.default_rng(depth).integers(0, 256, (count, 3)).astype(np.uint8)
        opacity = np.array((opacities + [255] * count)[:count]) / 255
        before = chunk(b"PLTE", colours.tobytes()) + chunk(b"tRNS", bytes(opacities))
        index = samples[..., 0]
        assert_shows(png(samples, depth, INDEXED, before), over_white(colours[index].astype(float), opacity[index]))


def test_transparency_that_the_format_forbids_does_not_count():
    samples, colours = picture(1, 3), np.array([[9, 8, 7], [60, 50, 40], [99, 99, 200], [255, 0, 0]], np.uint8)
    palette = chunk(b"PLTE", colours.tobytes())
    for before, after in (
        (palette + chunk(b"tRNS", bytes(5)), b""),  # more values than colours
        (chunk(b"tRNS", bytes(4)) + palette, b""),  # before the palette
        (palette, chunk(b"tRNS", bytes(4))),  # behind the pixels
    ):
        assert_shows(png(samples, 8, INDEXED, before, after), colours[samples[..., 0]])
    grey = picture(1, 255)
    for before, after in ((chunk(b"tRNS", bytes(6)), b""), (b"", trns([0]))):
        assert_shows(png(grey, 8, GREY, before, after), grey.repeat(3, axis=2))


def test_hashes_of_pixels_see_the_same():
    samples = picture(3, 65535)
    data = png(samples, 16, RGB, trns(samples[9, 9]))
    assert hash_image(data, MAX_PIXELS) == hash_image(png(shown(data).astype(int), 8, RGB), MAX_PIXELS)
    assert hash_image(data, MAX_PIXELS) != hash_image(png(samples, 16, RGB), MAX_PIXELS)


def test_images_that_are_encoded_again_show_the_same():
    samples = picture(3, 65535)
    data = png(samples, 16, RGB, trns(samples[9, 9]))
    smaller, _ = reencode(data, Reencoding(shortest=SIDE // 2, image_format="png"))
    pixels = pillow_shows(smaller)
    np.testing.assert_array_equal(pixels, Image.fromarray(shown(data)).resize((12, 12), Image.Resampling.BICUBIC))
