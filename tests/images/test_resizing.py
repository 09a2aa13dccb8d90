import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from beam_curate.images import resizing
from beam_curate.images.resizing import Target, resize_array, resize_image
from tests.conftest import photo


def as_open_clip(image, target):
    """What open_clip's evaluation transform does before it normalises, as uint8."""
    transform = image_transform(
        target.size, is_train=False, resize_mode=target.resize_mode, interpolation=target.interpolation
    )
    for step in transform.transforms[:-3]:  # the last three convert to RGB, make a tensor and normalise
        image = step(image)
    return np.asarray(image)


def difference(left, right):
    return np.abs(left.astype(int) - right.astype(int))


SIZES = [(96, 64), (64, 96), (101, 67), (67, 102), (64, 64), (65, 64), (32, 32), (1, 1), (3, 50), (500, 2), (33, 32)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize_mode", resizing.RESIZE_MODES)
@pytest.mark.parametrize("interpolation", resizing.INTERPOLATIONS)
def test_pillow_gives_the_pixels_of_open_clip(size, resize_mode, interpolation):
    image, target = photo(1, *size), Target(32, resize_mode, interpolation)
    pixels = resize_image(image, target)
    np.testing.assert_array_equal(pixels, as_open_clip(image, target))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 64), st.sampled_from(resizing.RESIZE_MODES))
def test_resized_size_and_crop_are_those_of_open_clip(width, height, size, resize_mode):
    image, target = Image.new("RGB", (width, height)), Target(size, resize_mode)
    assert as_open_clip(image, target).shape == resize_image(image, target).shape == (size, size, 3)
    new_width, new_height = resizing.resized_size(width, height, target)
    assert min(new_width, new_height) == size


@pytest.mark.parametrize(("length", "offset"), [(32, 0), (33, 0), (34, 1), (35, 2), (37, 2), (39, 4)])
def test_crop_offsets_round_halves_to_even(length, offset):
    assert resizing.crop_offset(length, 32) == offset


@pytest.mark.parametrize("size", [(96, 64), (67, 101), (640, 33), (333, 500), (32, 1000)])
@pytest.mark.parametrize("interpolation", resizing.INTERPOLATIONS)
@pytest.mark.parametrize("resize_mode", resizing.RESIZE_MODES)
def test_the_array_kernel_is_within_a_level(size, interpolation, resize_mode):
    image, target = photo(2, *size), Target(32, resize_mode, interpolation)
    pixels = resize_array(np.array(image), image.size, target)
    error = difference(pixels, resize_image(image, target))
    assert error.max() <= 1
    assert error.mean() < 0.05
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_array_kernel_turns_as_pillow(orientation):
    image, target = photo(3, 331, 200), Target(64)
    exif = image.getexif()
    exif[0x0112] = orientation
    upright = ImageOps.exif_transpose(image)
    pixels = resize_array(np.array(image), image.size, target, orientation)
    assert difference(pixels, resize_image(upright, target)).max() <= 1


def test_the_array_kernel_takes_grey():
    image = photo(4, 80, 60, "L")
    pixels = resize_array(np.array(image)[:, :, None], image.size, Target(32))
    assert pixels.shape == (32, 32, 1)
    expected = resize_image(image.convert("RGB"), Target(32))
    assert difference(np.repeat(pixels, 3, axis=2), expected).max() <= 1


def boxes(width, height):
    """Line art: rows that are the same for a while, where errors of the first pass line up."""
    rng = np.random.default_rng(7)
    pixels = np.full((height, width, 3), 255, np.uint8)
    for _ in range(300):
        top, left = rng.integers(0, height), rng.integers(0, width)
        pixels[top : top + rng.integers(1, 20), left : left + rng.integers(1, 60)] = rng.integers(0, 256, 3)
    pixels[:, ::7] //= 2
    return pixels


@pytest.mark.parametrize("interpolation", resizing.INTERPOLATIONS)
def test_line_art_is_within_two_levels(interpolation):
    for width, height in [(330, 291), (420, 380), (520, 480), (640, 582), (840, 762)]:
        pixels, target = boxes(width, height), Target(224, interpolation=interpolation)
        expected = resize_image(Image.fromarray(pixels), target)
        assert difference(resize_array(pixels, (width, height), target), expected).max() <= 2


@pytest.mark.parametrize("interpolation", resizing.INTERPOLATIONS)
def test_the_array_kernel_is_that_of_torchvision(interpolation):
    pixels = np.array(photo(6, 331, 200))
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = functional.resize(image, [64], InterpolationMode(interpolation), antialias=True)
    expected = functional.center_crop(expected, [64, 64]).permute(1, 2, 0).numpy()
    found = resize_array(pixels, (331, 200), Target(64, interpolation=interpolation))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("vertical", [True, False])
def test_strips_of_any_length_are_resized_without_the_whole(vertical):
    # Whole, the resized strip would be 32 x 2,880,000 pixels. Its centre is that of a short piece of the same middle.
    long = np.random.default_rng(6).integers(0, 256, (90_000, 1, 3), dtype=np.uint8)
    short = long[45_000 - 50 : 45_000 + 50]
    if not vertical:
        long, short = long.transpose(1, 0, 2), short.transpose(1, 0, 2)
    target = Target(32)
    image = Image.fromarray(np.ascontiguousarray(long))
    assert not resizing.fits_in_memory(*image.size, target)
    expected = resize_image(Image.fromarray(np.ascontiguousarray(short)), target)
    assert difference(resize_image(image, target), expected).max() <= 1


def test_small_images_and_long_strips_are_left_to_pillow():
    target = Target(224)
    assert resizing.suits_array(224, 300, target)
    assert not resizing.suits_array(223, 300, target)
    assert not resizing.suits_array(224, 224 * 400, target)
