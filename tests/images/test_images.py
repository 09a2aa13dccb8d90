import concurrent.futures
import functools
import hashlib
import io
import json
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image, ImageDraw, ImageOps

from beam_curate import reasons
from beam_curate.images import decoding, jpeg_decoding, opening
from beam_curate.images.decoding import (
    DECODERS,
    MAX_PIXELS,
    DecodeOptions,
    ImageError,
    decode_image,
    decode_sizes,
    image_facts,
)
from beam_curate.images.resizing import Target
from tests.conftest import encoded, photo
from tests.support import torture

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest takes back the filter that the module sets

FAST = DecodeOptions(size=32)
PILLOW = DecodeOptions(size=32, decoder="pillow")
BOTH = pytest.mark.parametrize("options", [FAST, PILLOW], ids=DECODERS)


def difference(left, right):
    return np.abs(left.astype(int) - right.astype(int))


def as_open_clip(image, size):
    """open_clip's own preprocessing of an RGB image, as uint8."""
    for step in image_transform(size, is_train=False).transforms[:2]:
        image = step(image)
    return np.asarray(image)


def failure(data, options=FAST):
    with pytest.raises(ImageError) as caught:
        decode_image(data, options)
    error = caught.value
    assert error.facts.sha256 == hashlib.sha256(data).hexdigest()
    assert error.facts.size == len(data)
    assert error.reason in reasons.DESCRIPTIONS
    assert "0x" not in error.message
    return error


def png_header(width, height):
    """A PNG that claims a size and has no pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


# --- what comes out


@BOTH
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000", "TGA"])
def test_formats_are_decoded(format, options):
    data = encoded(photo(1, 96, 64), format)
    with Image.open(io.BytesIO(data)) as image:
        expected = as_open_clip(image.convert("RGB"), 32)
    facts, pixels = decode_image(data, options)
    assert (facts.width, facts.height, facts.format) == (96, 64, format)
    assert (facts.sha256, facts.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert bool(facts.exif) == (format == "TIFF")  # whose own tags are of the same kind
    assert facts == image_facts(data, options)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert difference(pixels, expected).max() <= (1 if options is FAST else 0)


@BOTH
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("size", [(96, 64), (67, 101), (20, 30), (1, 1), (300, 200), (33, 1000)])
def test_jpegs_of_all_modes_and_sizes(mode, size, options):
    data = encoded(photo(2, *size, mode=mode), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        expected = as_open_clip(image.convert("RGB"), 32)
    _, pixels = decode_image(data, options)
    if options is PILLOW:
        np.testing.assert_array_equal(pixels, expected)
    else:
        assert difference(pixels, expected).max() <= 1


@BOTH
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format, orientation, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(3, 81, 50), format, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    facts, pixels = decode_image(data, options)
    assert (facts.width, facts.height) == upright.size
    assert difference(pixels, as_open_clip(upright, 32)).max() <= (1 if options is FAST else 0)


@BOTH
def test_exif_orientation_can_be_ignored(options):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(3, 81, 50), exif=exif)
    options = DecodeOptions(size=32, decoder=options.decoder, apply_exif_orientation=False)
    facts, pixels = decode_image(data, options)
    assert (facts.width, facts.height) == (81, 50)
    assert json.loads(facts.exif) == {"Image Orientation": "6"}
    with Image.open(io.BytesIO(data)) as image:
        assert difference(pixels, as_open_clip(image, 32)).max() <= 1


def test_exif_behind_the_pixels_of_a_png_counts():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(3, 81, 50), "PNG", exif=exif)
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + struct.unpack_from(">I", data, start)[0]]
    moved = data.replace(chunk, b"")
    moved = moved[:-12] + chunk + moved[-12:]
    facts, pixels = decode_image(moved, FAST)
    assert (facts.width, facts.height) == (50, 81)
    assert json.loads(facts.exif) == {"Image Orientation": "6"}
    np.testing.assert_array_equal(pixels, decode_image(data, FAST)[1])
    assert image_facts(moved, FAST).width == 81


def test_exif_text_can_be_left_out():
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    data = encoded(photo(3), exif=exif)
    assert json.loads(image_facts(data, FAST).exif) == {"Image Make": "Canon"}
    assert image_facts(data, DecodeOptions(extract_exif=False)).exif == ""


@BOTH
def test_animations_give_their_first_frame(options):
    frames = [photo(seed, 64, 64) for seed in (4, 5)]
    for format in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
        _, pixels = decode_image(data, options)
        with Image.open(io.BytesIO(data)) as image:
            expected = as_open_clip(image.convert("RGB"), 32)
        assert difference(pixels, expected).max() <= 1


@BOTH
def test_transparency_is_laid_over_white(options):
    image = photo(6, 64, 64).convert("RGBA")
    image.putalpha(0)
    assert (decode_image(encoded(image, "PNG"), options)[1] == 255).all()


def test_squash_shows_the_whole_image():
    image = Image.new("RGB", (96, 32), "red")
    image.paste("blue", (0, 0, 24, 32))
    data = encoded(image, "PNG")
    squashed = decode_image(data, DecodeOptions(size=32, resize_mode="squash"))[1]
    assert squashed[16, 2].tolist() == [0, 0, 255]
    assert decode_image(data, FAST)[1][16, 2].tolist() == [255, 0, 0]


@functools.cache
def large(size, format):
    """A photograph in a file; some of these take a second to make."""
    return encoded(photo(5, *size), format)


@pytest.mark.parametrize("decoder", ["fast", "pillow", "scaled"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF"])
@pytest.mark.parametrize("size", [(700, 500), (250, 400), (2300, 2240)])
def test_for_several_models_an_image_is_as_for_each_alone(decoder, format, size, monkeypatch):
    calls = []
    decode = jpeg_decoding.decode_jpeg
    monkeypatch.setattr(jpeg_decoding, "decode_jpeg", lambda *given: calls.append(given) or decode(*given))
    data = large(size, format)
    targets = [Target(224), Target(256), Target(224, "squash", "bilinear"), Target(336)]
    facts, pictures = decode_sizes(data, DecodeOptions(decoder=decoder), targets)
    fractions = {factor for _, _, factor in calls}
    assert len(calls) == len(fractions) <= (0 if format != "JPEG" or decoder == "pillow" else 2)
    for target, pixels in zip(targets, pictures, strict=True):
        alone = DecodeOptions(target.size, target.resize_mode, target.interpolation, decoder)
        expected_facts, expected = decode_image(data, alone)
        assert facts == expected_facts
        assert pixels.shape == (target.size, target.size, 3)
        assert np.array_equal(pixels, expected)


def test_large_jpegs_are_decoded_at_a_fraction_if_asked(monkeypatch):
    import simplejpeg

    factors = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda *args, **kw: factors.append(kw["min_factor"]) or decode(*args, **kw)
    )
    sizes = [(300, 104), (400, 318), (400, 320), (400, 321), (640, 960), (644, 960), (1280, 1288), (1284, 1280)]
    for width, height in sizes:
        data = encoded(photo(7, width, height))
        scaled = decode_image(data, DecodeOptions(size=32, decoder="scaled"))[1]
        error = difference(scaled, decode_image(data, PILLOW)[1])
        assert error.max() <= (1 if factors[-1] == 1 else 4)
        assert error.mean() < 0.5
        decode_image(data, FAST)
    assert factors[::2] == [1, 1, 2, 1, 4, 4, 8, 4]
    assert set(factors[1::2]) == {1}


def test_fractions_are_for_grey_and_colours_of_all_or_of_a_quarter_of_the_samples():
    image = photo(7, 640, 640)
    for subsampling, factor in ((0, 4), (1, 1), (2, 4)):
        with Image.open(io.BytesIO(encoded(image, subsampling=subsampling))) as opened:
            assert jpeg_decoding.scale_factor(opened, 32) == factor
    with Image.open(io.BytesIO(encoded(image.convert("L")))) as opened:
        assert jpeg_decoding.scale_factor(opened, 32) == 4


def sharp(kind, width, height):
    """A picture that is sharp to the pixel."""
    rng = np.random.default_rng(15)
    rows, columns = np.mgrid[:height, :width]
    if kind == "checkerboard":
        return Image.fromarray(np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2))
    if kind == "noise":
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if kind == "saturated edges":
        edge = (columns // 3 + rows // 5) % 2 == 0
        return Image.fromarray(np.where(edge[:, :, None], (255, 0, 0), (0, 255, 255)).astype(np.uint8))
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for row in range(0, height, 11):
        colour = [(0, 0, 0), (255, 0, 0), (0, 0, 255)][row % 3]
        if kind == "text":
            draw.text((0, row), "illuminated HELLO il1|" * (width // 100 + 1), fill=colour)
        else:
            draw.rectangle((row * 7 % width, row, row * 7 % width + 40, row + row % 9), fill=colour)
    return image


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("kind", ["checkerboard", "noise", "saturated edges", "text", "boxes"])
def test_sharp_pictures_of_the_fast_decoder_are_within_two_levels(kind, format):
    for size in [(224, 300), (240, 256), (291, 330), (381, 420), (640, 480), (1100, 1000)]:
        data = encoded(sharp(kind, *size), format, **({"quality": 92} if format == "JPEG" else {}))
        pillow = decode_image(data, DecodeOptions(decoder="pillow"))[1]
        assert difference(decode_image(data, DecodeOptions())[1], pillow).max() <= 2, size


def test_large_images_of_other_formats_are_left_to_pillow(monkeypatch):
    monkeypatch.setattr(decoding, "_MAX_COPY_PIXELS", 1000)
    data = encoded(photo(8, 200, 150), "PNG")
    np.testing.assert_array_equal(decode_image(data, FAST)[1], decode_image(data, PILLOW)[1])


def test_a_long_strip_is_decoded_in_little_memory():
    data = encoded(photo(9, 60_000, 1), "PNG")
    for decoder in DECODERS:
        assert decode_image(data, DecodeOptions(decoder=decoder))[1].shape == (224, 224, 3)


def test_threads_get_the_same_pixels():
    data = [encoded(photo(seed, 120, 90), format) for seed, format in enumerate(["JPEG", "PNG", "WEBP", "GIF"] * 10)]
    alone = [decode_image(item, FAST)[1].tobytes() for item in data]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = [pixels.tobytes() for _, pixels in pool.map(lambda item: decode_image(item, FAST), data)]
    assert together == alone


# --- what fails, and why


@BOTH
@pytest.mark.parametrize("data", [b"", b"\0", b"<html>no image</html>", b"%PDF-1.7", bytes(1000)])
def test_not_an_image(data, options):
    assert failure(data, options).reason == reasons.NOT_AN_IMAGE


@BOTH
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_truncated_image(format, options):
    data = encoded(photo(10, 96, 64), format)
    error = failure(data[: len(data) * 2 // 3], options)
    assert error.reason == reasons.TRUNCATED_IMAGE
    if format != "WEBP":  # whose reader opens nothing that is not whole
        assert (error.facts.width, error.facts.height, error.facts.format) == (96, 64, format)


@BOTH
def test_corrupt_image(options):
    data = encoded(photo(11), "PNG")
    middle = data.index(b"IDAT") + 20
    assert failure(data[:middle] + bytes(50) + data[middle + 50 :], options).reason == reasons.CORRUPT_IMAGE
    assert failure(b"\xff\xd8\xff" + bytes(50), options).reason == reasons.CORRUPT_IMAGE


@pytest.mark.parametrize("size", ["5*5*5", "1.5*2"])
def test_sizes_that_are_none_are_corrupt(size):
    text = f"Image type: L image\r\nFile size (no of images): 1\r\nImage size (x*y): {size}\r\n"
    assert failure(text.encode().ljust(511, b"\0") + b"\x1a" + bytes(100)).reason == reasons.CORRUPT_IMAGE


@BOTH
def test_too_many_pixels_is_told_from_the_header(options):
    error = failure(png_header(10_000, 10_001), DecodeOptions(decoder=options.decoder, max_pixels=100_000_000))
    assert error.reason == reasons.TOO_MANY_PIXELS
    assert "100010000" in error.message
    assert (error.facts.width, error.facts.height) == (10_000, 10_001)
    assert failure(png_header(60_000, 60_000), options).reason == reasons.TOO_MANY_PIXELS


def test_the_pixel_limit_is_inclusive_and_counts_the_oriented_image():
    data = encoded(photo(12, 96, 64))
    assert decode_image(data, DecodeOptions(max_pixels=96 * 64))
    assert failure(data, DecodeOptions(max_pixels=96 * 64 - 1)).reason == reasons.TOO_MANY_PIXELS


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "EPS"),
        (b"\0\0\0\x18ftypheic" + bytes(60), "HEIF"),
        (b"\xff\x0a" + bytes(60), "JPEG XL"),
        (b"\xd7\xcd\xc6\x9a" + bytes(60), "WMF"),
    ],
)
def test_unsupported_formats_are_named(data, name):
    error = failure(data)
    assert error.reason == reasons.UNSUPPORTED_IMAGE
    assert name in error.message


@pytest.mark.parametrize(
    ("marker", "bits", "words"),
    [(0xC1, 12, "a JPEG of 12 bits"), (0xC3, 16, "a JPEG of 16 bits"), (0xF7, 8, "JPEG-LS")],
)
def test_kinds_of_jpeg_that_are_not_read_are_named(marker, bits, words):
    tables = b"\xff\xdb\0\x43\0" + bytes([1]) * 64
    frame = bytes([0xFF, marker, 0, 11, bits, 0, 40, 0, 50, 1, 1, 0x11, 0])
    error = failure(b"\xff\xd8" + tables + frame + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + bytes(50) + b"\xff\xd9")
    assert error.reason == reasons.UNSUPPORTED_IMAGE
    assert words in error.message
    # What the header says in vain is damage.
    for wrong in (frame[:3] + b"\x0c" + frame[4:], frame[:4] + b"\xff" + frame[5:], frame[:6]):
        assert failure(b"\xff\xd8" + tables + wrong).reason in (reasons.CORRUPT_IMAGE, reasons.TRUNCATED_IMAGE)


def test_a_jpeg_of_very_many_scans_is_refused():
    data = encoded(photo(13), progressive=True)
    assert decode_image(data, FAST)
    last = data.rindex(b"\xff\xda")
    error = failure(data[:last] + data[last:-2] * 100 + data[-2:])
    assert error.reason == reasons.UNSUPPORTED_IMAGE
    assert "scans" in error.message


def test_no_format_that_runs_a_program_is_opened():
    opened = opening._formats()
    assert {"JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"} <= set(opened)
    assert not {"EPS", "WMF", "IPTC", "MPEG", "HDF5", "GRIB", "BUFR"} & set(opened)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_read_by_its_own_format_alone_whatever_was_loaded_before(format, monkeypatch):
    tried = []
    factories = {name: Image.OPEN[name] for name in opening._formats()}
    for name, (factory, accept) in factories.items():
        counted = lambda *given, name=name, factory=factory: tried.append(name) or factory(*given)  # noqa: E731
        monkeypatch.setitem(Image.OPEN, name, (counted, accept))
    monkeypatch.setattr(Image, "ID", sorted(Image.ID))  # as where nothing was opened before all formats were loaded
    opening._formats.cache_clear()
    image_facts(encoded(photo(14), format), FAST)
    assert tried == [format]


def test_pillow_prints_no_warnings():
    data = png_header(10_000, 10_000)  # of which Pillow warns as of a decompression bomb
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).close()
        assert len(caught) == 1
        opening._quiet_pillow()
        assert failure(data).reason == reasons.TRUNCATED_IMAGE
    assert len(caught) == 1


def test_errors_survive_pickling():
    error = failure(b"nothing")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.reason, copy.message, copy.facts, str(copy)) == (error.reason, error.message, error.facts, str(error))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_images_give_pixels_or_an_image_error(data):
    original = data.draw(st.sampled_from(MUTATED))
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    mutated = bytes(mutated[: data.draw(st.integers(1, len(mutated)))])
    for options in (DecodeOptions(size=8, max_pixels=1 << 20), DecodeOptions(8, decoder="pillow", max_pixels=1 << 20)):
        outcome = _outcome(mutated, options)
        assert outcome in reasons.DESCRIPTIONS if isinstance(outcome, str) else outcome.shape == (8, 8, 3)


EXIF = Image.Exif()
EXIF.update({0x0112: 6, 0x010F: "Canon"})
MUTATED = [
    encoded(photo(14, 16, 12), format, **({"exif": EXIF} if format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}))
    for format in [
        "JPEG",
        "PNG",
        "WEBP",
        "GIF",
        "BMP",
        "TIFF",
        "AVIF",
        "PPM",
        "JPEG2000",
        "ICO",
        "TGA",
        "IM",
        "SGI",
        "DDS",
    ]
]


# --- options


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": 0}, "size is 0"),
        ({"resize_mode": "longest"}, "not supported"),
        ({"resize_mode": "crop"}, "use one of shortest, squash"),
        ({"interpolation": "lanczos"}, "use one of bicubic, bilinear"),
        ({"decoder": "magic"}, "use one of fast, pillow, scaled, dali"),
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"max_pixels": MAX_PIXELS + 1}, "the most that Pillow decodes"),
    ],
)
def test_wrong_options_name_the_remedy(wrong, words):
    with pytest.raises(ValueError, match=words):
        DecodeOptions(**wrong)


def test_the_pixel_limit_is_that_of_pillow():
    assert Image.MAX_IMAGE_PIXELS * 2 == MAX_PIXELS


# --- reference files


def test_golden_preprocessing(assets):
    golden = assets / "clip" / "golden_vit_b32"
    with np.load(golden / "golden.npz") as reference:
        names, tensors = reference["names"], reference["preprocessed_fp32"]
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    for name, tensor in zip(names, tensors, strict=True):
        data = (golden / f"{name}.jpg").read_bytes()
        _, pixels = decode_image(data, DecodeOptions(decoder="pillow"))
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(pixels, as_open_clip(image, 224))
        normalised = (pixels.astype(np.float32) / 255 - mean) / std
        np.testing.assert_allclose(normalised.transpose(2, 0, 1), tensor, atol=1e-5)
        assert difference(decode_image(data, DecodeOptions())[1], pixels).max() <= 2


def test_photographs_of_the_fast_decoder_are_those_of_the_reference(assets):
    paths = sorted((assets / "photos").glob("*.jpg"))
    assert paths
    for path in paths[::3]:
        data = path.read_bytes()
        facts, fast = decode_image(data, DecodeOptions())
        same_facts, reference = decode_image(data, DecodeOptions(decoder="pillow"))
        assert facts == same_facts
        error = difference(fast, reference)
        assert error.max() <= 2, path.name
        assert (error == 2).mean() < 1e-4, path.name
        assert error.mean() < 0.02, path.name
        if min(facts.width, facts.height) >= 10 * 112:
            scaled = decode_image(data, DecodeOptions(size=112, decoder="scaled"))[1]
            pillow = decode_image(data, DecodeOptions(size=112, decoder="pillow"))[1]
            assert difference(scaled, pillow).max() <= 4, path.name


def test_torture_images_give_pixels_or_an_image_error(assets):
    """Where plain Pillow decodes, so does either decoder (see `torture.DIFFERENT`); elsewhere both give the same reason."""
    paths = sorted(path for path in (assets / "torture_images").iterdir() if path.is_file())
    assert paths
    decoded = 0
    for path in paths[::3]:
        data = path.read_bytes()
        outcomes = [_outcome(data, DecodeOptions(decoder=decoder)) for decoder in DECODERS]
        if all(isinstance(outcome, np.ndarray) for outcome in outcomes):
            decoded += 1
            assert difference(*outcomes).max() <= 2, path.name
        else:
            assert outcomes[0] == outcomes[1], path.name
        assert isinstance(outcomes[1], np.ndarray) == torture.decodes(path), path.name
    assert decoded > 80


def _outcome(data, options):
    """The pixels, or the reason why there are none; anything else that is raised fails the test."""
    try:
        _, pixels = decode_image(data, options)
    except ImageError as error:
        return error.reason
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    return pixels
