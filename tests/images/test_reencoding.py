import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageCms

from beam_curate.images.errors import ImageError
from beam_curate.images.jpeg_decoding import scale_factor
from beam_curate.images.reencoding import EncodeError, Reencoding, must_change, reencode
from beam_curate.records import ImageFacts
from tests.conftest import encoded, photo

SMALL = Reencoding(shortest=40)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def opened(data):
    return Image.open(io.BytesIO(data))


def turned(image, number):
    exif = Image.Exif()
    exif[0x0112] = number
    return encoded(image, exif=exif, quality=95)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(120, 80, (60, 40)), (80, 120, (40, 60)), (81, 121, (40, 59)), (41, 400, (40, 390)), (4000, 41, (3902, 40))],
)
def test_the_shorter_side_is_what_was_asked_for(width, height, expected):
    data, facts = reencode(encoded(photo(1, width, height), "PNG"), SMALL)
    assert opened(data).size == (facts.width, facts.height) == expected


@pytest.mark.parametrize("size", [(40, 400), (400, 40), (40, 40), (10, 10), (39, 500)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_what_is_small_enough_is_the_very_same_object(size, kind):
    data = encoded(photo(2, *size), kind)
    found, facts = reencode(data, SMALL)
    assert found is data
    assert (facts.width, facts.height) == size


@pytest.mark.parametrize(
    ("kind", "format", "expected"),
    [
        ("JPEG", "keep", "JPEG"), ("PNG", "keep", "PNG"), ("WEBP", "keep", "WEBP"), ("GIF", "keep", "PNG"),
        ("BMP", "keep", "PNG"), ("TIFF", "keep", "PNG"), ("GIF", "jpeg", "JPEG"), ("JPEG", "webp", "WEBP"),
        ("WEBP", "png", "PNG"), ("AVIF", "jpeg", "JPEG"),
    ],
)  # fmt: skip
def test_the_format_is_the_one_asked_for(kind, format, expected):
    data, facts = reencode(encoded(photo(3, 100, 90), kind), Reencoding(40, format))
    assert opened(data).format == facts.format == expected
    assert opened(data).mode == "RGB"


def test_a_format_asked_for_converts_small_images_too_and_leaves_those_that_have_it():
    reencoding = Reencoding(None, "png")
    data, facts = reencode(encoded(photo(4, 30, 20)), reencoding)
    assert (opened(data).size, facts.format) == ((30, 20), "PNG")
    png = encoded(photo(4, 300, 200), "PNG")
    assert reencode(png, reencoding)[0] is png
    assert not must_change(300, 200, "MPO", Reencoding(None, "jpeg"))


@pytest.mark.parametrize("number", range(1, 9))
def test_images_are_turned_upright_first(number):
    from PIL import ImageOps

    data = turned(photo(5, 120, 80), number)
    small, facts = reencode(data, Reencoding(40, "png"))
    upright = ImageOps.exif_transpose(opened(data))
    expected = upright.resize((60, 40) if number < 5 else (40, 60), Image.Resampling.BICUBIC)
    assert (facts.width, facts.height) == expected.size
    assert np.abs(np.asarray(opened(small)).astype(int) - np.asarray(expected)).max() <= 2  # the passes round in turn
    assert len(opened(small).getexif()) == 0


def test_alpha_lies_over_white_and_cmyk_becomes_rgb():
    clear = Image.new("RGBA", (90, 90), (255, 0, 0, 0))
    assert opened(reencode(encoded(clear, "PNG"), SMALL)[0]).getpixel((5, 5)) == (255, 255, 255)
    cmyk = photo(6, 90, 90, "CMYK")
    found = opened(reencode(encoded(cmyk, "JPEG", quality=95), Reencoding(40, "png"))[0])
    expected = opened(encoded(cmyk, "JPEG", quality=95)).convert("RGB").resize((40, 40), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 2


def test_a_profile_of_rgb_stays_and_others_go():
    for format in ("jpeg", "webp", "png"):
        kept = reencode(encoded(photo(7, 90, 90), icc_profile=SRGB), Reencoding(40, format))[0]
        assert opened(kept).info["icc_profile"] == SRGB
    gone = reencode(encoded(photo(7, 90, 90), icc_profile=LAB), SMALL)[0]
    assert "icc_profile" not in opened(gone).info


def test_comments_and_resolutions_are_not_carried_over():
    data = reencode(encoded(photo(8, 90, 90), comment=b"secret", dpi=(300, 300)), SMALL)[0]
    assert b"secret" not in data
    assert "dpi" not in opened(data).info


@pytest.mark.parametrize("kind", ["jpeg", "webp", "png"])
def test_the_same_bytes_every_time_and_a_quality_that_counts(kind):
    source = encoded(photo(9, 200, 150), "PNG")
    first, again, less = (reencode(source, Reencoding(100, kind, quality))[0] for quality in (90, 90, 40))
    assert first == again
    assert (len(less) < len(first)) == (kind != "png")


def test_large_jpegs_decoded_at_a_fraction_are_close_to_the_full_decode():
    for seed, side in itertools.product(range(3), (1600, 1611)):
        data = encoded(photo(seed, side, side), quality=95)
        found = opened(reencode(data, Reencoding(100, "png"))[0])
        expected = opened(data).resize(found.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 4


def test_real_photographs_decoded_at_a_fraction_are_close(assets):
    compared = 0
    for path in sorted((assets / "photos").glob("*.jpg"))[:60]:
        image = Image.open(path)
        if image.mode != "RGB" or 0x0112 in image.getexif() or scale_factor(image, 64) == 1:
            continue
        small, facts = reencode(path.read_bytes(), Reencoding(64, "png"))
        full = image.resize((facts.width, facts.height), Image.Resampling.BICUBIC)
        difference = np.abs(np.asarray(opened(small)).astype(int) - np.asarray(full))
        assert difference.max() <= 12, path.name
        assert difference.mean() < 0.6, path.name
        compared += 1
    assert compared > 10


def test_facts_are_those_of_the_new_bytes():
    import hashlib

    data, facts = reencode(encoded(photo(10, 100, 100)), SMALL)
    assert facts == ImageFacts(40, 40, "JPEG", hashlib.sha256(data).hexdigest(), len(data))


def test_sides_that_a_format_cannot_have_are_refused():
    wide = encoded(photo(11, 17000, 20), "PNG")
    with pytest.raises(EncodeError, match="WEBP takes sides up to 16383 pixels, and the image has 17000"):
        reencode(wide, Reencoding(None, "webp"))
    assert reencode(wide, Reencoding(None, "jpeg"))[1].width == 17000


@pytest.mark.parametrize("data", [b"", b"no image", encoded(photo(12, 300, 300))[:2000]])
def test_what_cannot_be_decoded_is_an_image_error(data):
    with pytest.raises(ImageError):
        reencode(data, SMALL)


def test_too_many_pixels_are_refused():
    with pytest.raises(ImageError, match="the limit is 99"):
        reencode(encoded(photo(13, 10, 10)), Reencoding(4, max_pixels=99))


@pytest.mark.parametrize(
    ("image", "format", "asked", "changed", "expected"),
    [
        ("JPG", "JPEG", "keep", True, "JPG"), ("jpeg", "JPEG", "keep", False, "jpeg"), ("gif", "PNG", "keep", True, "png"),
        ("gif", "GIF", "keep", False, "gif"), ("png", "JPEG", "keep", False, "png"), ("png", "JPEG", "keep", True, "jpg"),
        ("JPEG", "JPEG", "jpeg", False, "jpg"), ("v2.png", "WEBP", "webp", True, "v2.webp"),
        ("jpg", "MPO", "jpeg", False, "jpg"),
    ],
)  # fmt: skip
def test_the_extension_tells_the_format(image, format, asked, changed, expected):
    facts = ImageFacts(1, 1, format, "", 1)
    assert Reencoding(40, asked).suffix(image, facts, changed=changed) == expected
