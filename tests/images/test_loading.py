"""What the loading of all formats shares: frames that cover a part, alpha that is not used, orientations of XMP."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from beam_curate.images.decoding import DecodeOptions, decode_image
from tests.conftest import encoded, photo
from tests.support.kinds import SIDE, assert_shows, picture

BOX = (4, 8, 16, 20)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'


def on_page(pixels):
    """The pixels in BOX, white around it."""
    page = np.full((SIDE, SIDE, 3), 255)
    page[BOX[1] : BOX[3], BOX[0] : BOX[2]] = pixels
    return page


def gif_part(image):
    """A GIF whose first frame is the image, at BOX of a larger screen."""
    data = bytearray(encoded(image, "GIF"))
    struct.pack_into("<HH", data, 6, SIDE, SIDE)
    place = data.index(b"\x2c\0\0\0\0" + struct.pack("<HH", *image.size))
    struct.pack_into("<HH", data, place + 1, *BOX[:2])
    return bytes(data)


@pytest.mark.parametrize("mode", ["P", "L"])
def test_around_the_first_frame_of_a_gif_it_is_white(mode):
    part = photo(1, 12, 12).convert("L").quantize(4) if mode == "P" else photo(1, 12, 12).convert("L")
    assert_shows(gif_part(part), on_page(np.asarray(part.convert("RGB"))), levels=0)


def chunk(name, data):
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


@pytest.mark.parametrize("flags", [0x02, 0x12], ids=["opaque", "alpha"])
def test_around_the_first_frame_of_a_webp_it_is_white(flags):
    part = photo(1, 12, 12)
    places = (BOX[0] // 2, BOX[1] // 2, 11, 11, 100)
    frame = (
        b"".join(struct.pack("<I", value)[:3] for value in places) + b"\0" + encoded(part, "WEBP", lossless=True)[12:]
    )
    side = struct.pack("<I", SIDE - 1)[:3]
    background = b"\0\0\xff\xff\0\0"  # red: browsers do not heed it
    chunks = chunk(b"VP8X", bytes([flags, 0, 0, 0]) + 2 * side) + chunk(b"ANIM", background) + 2 * chunk(b"ANMF", frame)
    data = b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks
    assert_shows(data, on_page(np.asarray(part)), levels=0)


def test_an_alpha_of_zeros_in_a_tga_is_not_used():
    colours = picture(3, 255)
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, SIDE, SIDE, 32, 0x20)
    for alpha in (0, 255):
        pixels = np.dstack([colours[..., ::-1], np.full((SIDE, SIDE), alpha)]).astype(np.uint8)
        assert_shows(header + pixels.tobytes(), colours)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_alpha_of_zeros_that_the_file_declares_is_used(format):
    image = photo(1, SIDE, SIDE)
    image.putalpha(0)
    assert_shows(encoded(image, format), np.full((SIDE, SIDE, 3), 255), levels=0)


def _with_xmp(image, format, exif=None):
    options = {"exif": exif} if exif is not None else {}
    if format == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        return encoded(image, format, pnginfo=info, **options)
    if format == "JPEG":
        return encoded(image, format, xmp=XMP, quality=95, **options)
    return encoded(image, format, xmp=XMP, lossless=True, **options)


@pytest.mark.parametrize("decoder", ["pillow", "fast", "scaled"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_in_xmp_alone_does_not_turn(format, decoder):
    image, options = photo(1, 64, 64), DecodeOptions(size=64, decoder=decoder)
    data = _with_xmp(image, format)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.getexif()[0x0112] == 3  # Pillow takes it for one of EXIF
    facts, pixels = decode_image(data, options)
    assert facts.exif == ""
    assert np.abs(pixels - np.asarray(image).astype(int)).mean() < 3  # turned, it would be 80


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_of_a_file_with_xmp_is_read_as_before(format):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0128], exif[0x011A] = 8, "Canon", 2, 300.0
    facts, _ = decode_image(_with_xmp(photo(1, 64, 32), format, exif), DecodeOptions(size=32))
    assert (facts.width, facts.height) == (32, 64)
    assert '"Image Make": "Canon"' in facts.exif


def test_an_orientation_in_xmp_behind_the_pixels_of_a_png_does_not_turn():
    image = photo(1, SIDE, SIDE)
    data = _with_xmp(image, "PNG")
    start = data.index(b"iTXt") - 4
    end = start + 12 + struct.unpack_from(">I", data, start)[0]
    assert_shows(data[:start] + data[end:-12] + data[start:end] + data[-12:], np.asarray(image), levels=0)
