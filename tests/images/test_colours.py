import io

import numpy as np
import pytest
from PIL import Image

from beam_curate.images.colours import to_rgb
from tests.conftest import encoded, photo


def pixels(image):
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    return np.asarray(rgb)


def grey(values, mode=None):
    image = Image.fromarray(np.asarray([values]))
    assert mode is None or image.mode == mode
    return pixels(image)[0, :, 0].tolist()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
def test_opaque_modes_are_as_pillow_converts_them(mode):
    rgb = photo(1)
    image = Image.frombytes(mode, rgb.size, rgb.convert("RGBX").tobytes()[: 96 * 64 * 3]) if mode == "LAB" else None
    image = image or rgb.convert(mode)
    np.testing.assert_array_equal(pixels(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_alpha_is_laid_over_white(mode):
    base = photo(2, 3, 1).convert({"PA": "P", "LA": "L", "La": "L"}.get(mode, "RGB"))
    base.putalpha(Image.fromarray(np.array([[0, 128, 255]], np.uint8)))
    image = base.convert(mode)
    rgba = np.asarray(base.convert("RGBA")).astype(float)
    seen = pixels(image)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert seen[0, 0].tolist() == [255, 255, 255]
    # Premultiplied modes have rounded once already.
    np.testing.assert_allclose(seen, expected, atol=2 if mode in ("RGBa", "La") else 1)


def test_transparent_colours_are_white():
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for transparency in (1, b"\xff\x00\xff"):
        palette.info["transparency"] = transparency
        assert pixels(palette)[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    rgb.info["transparency"] = (1, 2, 3)
    assert pixels(rgb)[0].tolist() == [[255, 255, 255], [4, 5, 6]]
    deep = Image.fromarray(np.array([[0, 257, 65535]], np.uint16))
    deep.info["transparency"] = 257
    assert pixels(deep)[0, :, 0].tolist() == [0, 255, 255]


def test_16_bits_are_scaled_and_rounded():
    values = [0, 128, 129, 257, 32768, 65278, 65535]
    expected = [0, 0, 1, 1, 128, 254, 255]
    assert grey(np.array(values, np.uint16), "I;16") == expected
    big_endian = Image.frombytes("I;16B", (len(values), 1), np.array(values, ">u2").tobytes())
    assert pixels(big_endian)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([-100, 0, 100], [0, 128, 255]),
        ([1 << 20, 1 << 20, 1 << 20], [0, 0, 0]),
        ([0, 1 << 30, 1 << 31 - 1], [0, 255, 255]),
    ],
)
def test_32_bit_integers_take_their_range_from_their_values(values, expected):
    assert grey(np.array(values, np.int32), "I") == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 99.6, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([np.nan, np.inf, -np.inf, 0.25], [0, 255, 0, 64]),
        ([np.nan, np.nan], [0, 0]),
    ],
)
def test_floats_take_their_range_from_their_values(values, expected):
    assert grey(np.array(values, np.float32), "F") == expected


def test_a_dark_16_bit_pgm_stays_dark():
    image = Image.open(io.BytesIO(b"P5 2 1 65535\n" + np.array([0, 200], ">u2").tobytes()))
    image.load()
    assert pixels(image)[0, :, 0].tolist() == [0, 1]


def test_bands_join_without_a_seam(monkeypatch):
    rgba = photo(3).convert("RGBA")
    rgba.putalpha(photo(4).convert("L"))
    deep = Image.fromarray(np.arange(96 * 64, dtype=np.float32).reshape(64, 96))
    whole = [pixels(rgba).copy(), pixels(deep).copy()]
    monkeypatch.setattr("beam_curate.images.colours._BAND_PIXELS", 96 * 5)
    np.testing.assert_array_equal(pixels(rgba), whole[0])
    np.testing.assert_array_equal(pixels(deep), whole[1])


def test_an_rgb_image_is_not_copied():
    image = photo(5)
    assert to_rgb(image) is image
    assert encoded(to_rgb(image), "PNG") == encoded(image, "PNG")
