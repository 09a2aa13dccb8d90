import io
import json
import struct

import pytest
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import IFDRational

from beam_curate.images.exif import (
    MAX_JSON_BYTES,
    MAX_VALUE_CHARACTERS,
    exif_json,
    orientation,
    read_exif,
    turn_upright,
)
from tests.conftest import encoded, photo

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def with_exif(tags, ifd=None, format="JPEG"):
    exif = Image.Exif()
    exif.update(tags)
    if ifd:
        exif.get_ifd(ExifTags.IFD.Exif).update(ifd)
    image = Image.open(io.BytesIO(encoded(photo(1), format, exif=exif)))
    return image, read_exif(image)


def test_tags_become_text_under_the_names_of_img2dataset():
    tags = {0x010F: "Canon", 0x0112: 1, 0x011A: 300.0}
    _, exif = with_exif(tags, {0x829D: IFDRational(14, 5), 0x9286: b"ASCII\0\0\0hello", 0x9000: b"0231"})
    assert json.loads(exif_json(exif)) == {
        "Image Make": "Canon",
        "Image Orientation": "1",
        "Image XResolution": "300",
        "EXIF FNumber": "14/5",
        "EXIF UserComment": "hello",
        "EXIF ExifVersion": "0231",
    }


def test_gps_is_read():
    image = photo(1)
    exif = image.getexif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (45.0, 30.0, 2.5)})
    opened = Image.open(io.BytesIO(encoded(image, exif=exif)))
    assert json.loads(exif_json(read_exif(opened))) == {"GPS GPSLatitudeRef": "N", "GPS GPSLatitude": "[45, 30, 5/2]"}


@pytest.mark.parametrize(("stored", "text"), [("Dülmen", "Dülmen"), ("東京", "東京"), ("a\0b", "a"), ("  a ", "a")])
def test_texts_are_valid_utf_8(stored, text):
    _, exif = with_exif({0x010E: stored.encode("utf-8")})
    exif[0x010E] = stored.encode("utf-8").decode("latin-1")  # what Pillow makes of it
    written = exif_json(exif)
    written.encode("ascii")
    assert json.loads(written) == {"Image ImageDescription": text}


def test_latin_1_and_lone_surrogates_survive():
    for value, text in (("D\xfclmen", "Dülmen"), ("\udcffx", "?x")):
        exif = Image.Exif()
        exif[0x010E] = value
        assert json.loads(exif_json(exif)) == {"Image ImageDescription": text}


def test_values_and_the_whole_are_bounded():
    exif = Image.Exif()
    for tag in range(0xC000, 0xC040):
        exif[tag] = "x" * 5000
    exif[0x927C] = bytes(range(256))
    exif[0x0111] = tuple(range(1000))
    written = exif_json(exif)
    texts = json.loads(written)
    assert MAX_JSON_BYTES // 2 < len(written) <= MAX_JSON_BYTES
    assert {len(text) for text in texts.values()} == {MAX_VALUE_CHARACTERS}
    assert "Image MakerNote" not in texts
    assert "Image StripOffsets" not in texts


def test_no_exif_is_no_text():
    image, exif = with_exif({})
    assert exif is None
    assert exif_json(exif) == ""
    assert orientation(image, exif) == 1


@pytest.mark.parametrize(("value", "expected"), [(6, 6), (0, 1), (9, 1), (1, 1), ("6", 1), ((6, 6), 1), (b"\6", 1)])
def test_only_a_valid_orientation_counts(value, expected):
    exif = Image.Exif()
    exif[0x0112] = value
    assert orientation(photo(1), exif) == expected


@pytest.mark.parametrize("number", range(1, 9))
def test_turning_is_that_of_pillow(number):
    image = photo(2, 31, 20)
    image.getexif()[0x0112] = number
    assert turn_upright(image, number).tobytes() == ImageOps.exif_transpose(image).tobytes()


DAMAGED = {
    "garbage": b"Exif\0\0" + bytes(range(60)),
    "empty": b"Exif\0\0",
    "huge count": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40,
    "loop": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 0),
    "zero denominator": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIIIII", 1, 0x011A, 5, 1, 26, 0, 5, 0),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_exif_never_raises(name):
    image = Image.open(io.BytesIO(encoded(photo(1), exif=DAMAGED[name])))
    exif = read_exif(image)
    assert orientation(image, exif) == 1
    written = exif_json(exif)
    assert written == "" or isinstance(json.loads(written), dict)
