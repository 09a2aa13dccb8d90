"""The number of frames: what Pillow counts too, at a cost that no file can raise."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from beam_curate.images import frames
from beam_curate.images.decoding import DecodeOptions, decode_image, image_facts
from beam_curate.images.frames import gif_frames
from tests.conftest import encoded, photo

FORMATS = ["GIF", "PNG", "WEBP", *(["AVIF"] if features.check("avif") else [])]


def animation(format, count, **options):
    pictures = [photo(seed, 48, 40) for seed in range(count)]
    return encoded(pictures[0], format, save_all=True, append_images=pictures[1:], **options)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_frames_are_counted(format, count):
    data = animation(format, count)
    assert Image.open(io.BytesIO(data)).n_frames == count
    assert image_facts(data, DecodeOptions()).frames == count
    assert decode_image(data, DecodeOptions(size=16))[0].frames == count


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("MPO", {"append_images": [photo(9, 48, 40)]}),
        ("TIFF", {"append_images": [photo(9)]}),
    ],
)
def test_pages_and_views_are_no_animation(format, options):
    data = encoded(photo(0, 48, 40), format, **options, **({"save_all": True} if options else {}))
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 1 + len(options)
    assert image_facts(data, DecodeOptions()).frames == 1


@pytest.mark.parametrize(
    "options",
    [
        {"comment": b"c" * 900},
        {"interlace": 1, "disposal": 2},
        {"duration": 100, "loop": 0, "transparency": 0},
        {"optimize": False, "include_color_table": True},
    ],
)
def test_gifs_with_other_blocks(options):
    assert gif_frames(animation("GIF", 5, **options)) == 5


def test_a_gif_that_is_cut_has_the_frames_that_begin():
    data = animation("GIF", 5)
    assert [gif_frames(data[:size]) for size in (0, 5, 13, len(data) - 1)] == [1, 1, 1, 5]
    counts = [gif_frames(data[:size]) for size in range(len(data))]
    assert counts == sorted(counts)


@given(st.binary(max_size=300))
def test_any_bytes_have_a_number(tail):
    assert gif_frames(b"GIF89a" + tail) >= 1
    assert gif_frames(animation("GIF", 1)[:-1] + tail) >= 1


def test_a_gif_of_countless_blocks_has_no_number(monkeypatch):
    monkeypatch.setattr(frames, "MAX_BLOCKS", 1000)
    data = animation("GIF", 1)[:-1]
    comment = b"!\xfe" + b"\x01c" * 400 + b"\0"
    assert gif_frames(data + comment + b";") == 1
    assert gif_frames(data + 3 * comment + b";") == 0
    assert gif_frames(data + bytes(2000) + b";") == 0
