"""Files that lost no pixel and that Pillow refuses give the pixels of the whole file; those that lost some still fail."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from beam_curate import reasons
from beam_curate.images import reencoding
from beam_curate.images.decoding import DecodeOptions, ImageError, decode_image
from tests.conftest import encoded, photo

SIZE = 48
START = {"front": b"IDAT", "behind": b"IEND"}


def pixels_of(data, decoder="pillow"):
    return decode_image(data, DecodeOptions(size=SIZE, decoder=decoder))[1]


def outcome(data, decoder):
    try:
        pixels_of(data, decoder)
    except ImageError as error:
        return error.reason
    return "decoded"


def chunk(kind, content, *, spoilt=False):
    checksum = zlib.crc32(kind + content) ^ spoilt
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def with_chunk(data, extra, before=b"IDAT"):
    at = data.index(before) - 4
    return data[:at] + extra + data[at:]


def spoil(data, kind):
    """The PNG with another checksum in its first chunk of a kind."""
    at = data.index(kind)
    end = at + 4 + struct.unpack_from(">I", data, at - 4)[0]
    return data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]


def thumbnailed():
    exif = Image.Exif()
    exif[0x010E] = "described"
    small = encoded(photo(3, 32, 24))
    # A JPEG in a segment of its own, in front of the frame: its markers are no markers of the image.
    whole = encoded(photo(4), exif=exif)
    segment = b"\xff\xeb" + struct.pack(">H", len(small) + 2) + small
    return whole[:2] + segment + whole[2:]


WHOLE = {
    "colour": encoded(photo(1, 97, 65)),
    "grey": encoded(photo(1, 97, 65, "L")),
    "restarts": encoded(photo(2, 97, 65), restart_marker_blocks=3),
    "fine colour": encoded(photo(2, 97, 65), subsampling=0),
    "thumbnail": thumbnailed(),
}


@pytest.mark.parametrize("decoder", ["fast", "pillow", "scaled"])
@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("kind", WHOLE)
def test_a_jpeg_that_lacks_its_last_marker_is_whole(kind, cut, decoder):
    data = WHOLE[kind][:-cut]
    facts, pixels = decode_image(data, DecodeOptions(size=SIZE, decoder=decoder))
    np.testing.assert_array_equal(pixels, pixels_of(WHOLE[kind], decoder))
    assert (facts.size, facts.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("kind", WHOLE)
def test_a_jpeg_that_lacks_more_is_truncated(kind):
    for cut in [*range(3, 60), len(WHOLE[kind]) // 2]:
        with pytest.raises(ImageError) as raised:
            pixels_of(WHOLE[kind][:-cut])
        assert raised.value.reason == reasons.TRUNCATED_IMAGE, cut


def test_of_several_scans_nobody_knows_whether_one_is_lost():
    data = encoded(photo(1, 97, 65), progressive=True)
    assert data.count(b"\xff\xda") > 1
    for cut in range(1, 400):
        with pytest.raises(ImageError, match=reasons.TRUNCATED_IMAGE):
            pixels_of(data[:-cut])


def test_zeros_in_place_of_the_rest_are_no_whole_jpeg():
    whole = WHOLE["colour"]
    with pytest.raises(ImageError):
        pixels_of(whole[:-40] + bytes(40))


def pictures():
    colours = encoded(photo(5, 60, 40), "PNG")
    return {
        "rgb": colours,
        "grey": encoded(photo(5, 60, 40, "L"), "PNG"),
        "palette": encoded(photo(5).quantize(9), "PNG"),
    }


@pytest.mark.parametrize("place", START)
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"pHYs", b"eXIf", b"abCd"])
@pytest.mark.parametrize("picture", pictures())
def test_chunks_without_pixels_may_be_spoilt(picture, kind, place):
    whole = pictures()[picture]
    data = with_chunk(whole, chunk(kind, b"Comment\0words of any kind", spoilt=True), START[place])
    np.testing.assert_array_equal(pixels_of(data), pixels_of(whole))


def test_a_spoilt_transparency_does_not_count():
    whole = pictures()["grey"]
    opaque = pixels_of(whole)
    grey = np.asarray(Image.open(io.BytesIO(whole)))
    clear = chunk(b"tRNS", struct.pack(">H", int(grey[20, 30])))
    assert (pixels_of(with_chunk(whole, clear)) != opaque).any()
    spoilt = chunk(b"tRNS", struct.pack(">H", int(grey[20, 30])), spoilt=True)
    np.testing.assert_array_equal(pixels_of(with_chunk(whole, spoilt)), opaque)


@pytest.mark.parametrize(("picture", "kind"), [("rgb", b"IHDR"), ("rgb", b"IDAT"), ("palette", b"PLTE")])
def test_a_spoilt_chunk_of_pixels_fails(picture, kind):
    with pytest.raises(ImageError) as raised:
        pixels_of(spoil(pictures()[picture], kind))
    assert raised.value.reason == reasons.CORRUPT_IMAGE


@pytest.mark.parametrize("megabytes", [2, 9])
@pytest.mark.parametrize(
    "made",
    [
        lambda content: chunk(b"zTXt", b"Comment\0\0" + zlib.compress(content)),
        lambda content: chunk(b"tEXt", b"Comment\0" + content),
        lambda content: chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(content)),
        lambda content: chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(content)),
        lambda content: chunk(b"iCCP", b"icc\0\0" + zlib.compress(content)),
    ],
    ids=["zTXt", "tEXt", "iTXt", "exif", "iCCP"],
)
@pytest.mark.parametrize("place", START)
def test_long_texts_and_profiles_do_not_cost_the_picture(made, megabytes, place):
    whole = pictures()["rgb"]
    data = with_chunk(whole, made(b"0" * (megabytes << 20)), START[place])
    np.testing.assert_array_equal(pixels_of(data), pixels_of(whole))


def test_many_texts_do_not_add_up():
    whole = pictures()["rgb"]
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"0" * (7 << 20)))
    np.testing.assert_array_equal(pixels_of(with_chunk(whole, text * 12)), pixels_of(whole))


def test_a_profile_that_libpng_takes_is_kept_in_an_export():
    profile = bytes(16) + b"RGB " + np.random.default_rng(0).bytes(1_600_000)
    data = with_chunk(pictures()["rgb"], chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)))
    made, _ = reencoding.reencode(data, reencoding.Reencoding(shortest=20))
    assert Image.open(io.BytesIO(made)).info["icc_profile"] == profile
    same, _ = reencoding.reencode(data, reencoding.Reencoding(shortest=4000))
    assert same is data


def test_the_orientation_in_a_text_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    packed = exif.tobytes()
    text = f"\nexif\n{len(packed):8}\n{packed.hex()}\n".encode()
    whole = pictures()["rgb"]
    data = with_chunk(whole, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)))
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert turned.size == (40, 60)
    np.testing.assert_array_equal(pixels_of(data), pixels_of(encoded(turned, "PNG", exif=b"")))


def test_what_is_whole_is_read_as_it_is():
    from beam_curate.images import mending

    for data in [*WHOLE.values(), encoded(photo(1), "GIF"), b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9"]:
        assert mending.without_spoilt_chunks(data) is data
    for data in pictures().values():
        assert mending.without_spoilt_chunks(data) is data
    for data in WHOLE.values():
        assert mending.with_end(data, 3) is data


def grained(seed, width=320, height=240):
    noise = np.random.default_rng(seed).integers(-20, 20, (height, width, 3))
    return Image.fromarray((np.asarray(photo(seed, width, height)).astype(int) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("decoder", ["fast", "pillow"])
@pytest.mark.parametrize(
    ("format", "options", "share"),
    # The later scans of a progressive JPEG refine what is there, and take zeros for "nothing to refine".
    [("JPEG", {}, 0), ("JPEG", {"progressive": True}, 0.1), ("WEBP", {}, 0), ("PNG", {}, 0)],
    ids=str,
)
def test_a_hole_in_the_pixels_is_a_failure(format, options, share, decoder):
    """As of a download of which a part never came; what is wrong pixels to the last one would be a sample like any other."""
    whole = encoded(grained(1), format, **options)
    silent, places = [], range(700, len(whole) - 600, max(1, len(whole) // 60))
    for at in places:
        hole = whole[:at] + bytes(600) + whole[at + 600 :]
        if outcome(hole, decoder) not in (reasons.CORRUPT_IMAGE, reasons.TRUNCATED_IMAGE):
            silent.append(at)
    assert len(silent) <= share * len(places), silent


def test_zeros_that_are_pixels_or_no_pixels_are_no_hole():
    flat = encoded(Image.new("L", (2400, 2400), 128), optimize=True)
    assert bytes(512) in flat
    assert (pixels_of(flat) == 128).all()
    note = b"\xff\xe1" + struct.pack(">H", 2002) + bytes(2000)
    for whole in (WHOLE["colour"], WHOLE["colour"][:-2] + b"extra" + WHOLE["colour"][-2:]):
        with_note = whole[:2] + note + whole[2:]
        np.testing.assert_array_equal(pixels_of(with_note), pixels_of(WHOLE["colour"]))
    for format in ("WEBP", "AVIF", "TIFF", "BMP"):
        black = encoded(Image.new("RGB", (600, 500)), format)
        assert (pixels_of(black) == 0).all()
    exif = Image.Exif()
    exif[0x927C] = bytes(3000)
    noted = encoded(grained(2), "WEBP", exif=exif)
    assert bytes(512) in noted
    np.testing.assert_array_equal(pixels_of(noted), pixels_of(encoded(grained(2), "WEBP")))
