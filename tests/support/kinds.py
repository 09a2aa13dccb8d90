"""What the tests of single kinds of images share: a picture, what is seen of a file, and that a file is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from beam_curate import reasons
from beam_curate.images.decoding import DecodeOptions, ImageError, decode_image

SIDE = 24


def picture(samples, white, seed=0):
    """(SIDE, SIDE, samples) whole numbers from 0 to white in blocks of 4 x 4, with black and white among them."""
    blocks = np.random.default_rng(seed).random((SIDE // 4, SIDE // 4, samples))
    blocks[0], blocks[1] = 0, 1
    return np.round(blocks * white).astype(np.int64).repeat(4, 0).repeat(4, 1)


def shown(data, decoder="pillow"):
    """What the model sees of a file of SIDE x SIDE pixels: the pixels themselves."""
    facts, pixels = decode_image(data, DecodeOptions(size=SIDE, decoder=decoder, apply_exif_orientation=False))
    assert (facts.width, facts.height) == (SIDE, SIDE)
    return pixels


def over_white(colours, opacity):
    """Colours of 0 to 255 with an opacity of 0 to 1, (H, W), on a white page."""
    return colours * opacity[..., None] + 255 * (1 - opacity[..., None])


def assert_shows(data, expected, levels=1.01):
    """Holds the decoders to what a person would see, (SIDE, SIDE, 3) of 0 to 255, within some levels."""
    for decoder in ("pillow", "fast", "scaled"):
        np.testing.assert_allclose(shown(data, decoder), expected, rtol=0, atol=levels)


def refusal(data):
    """The message of a file that is refused as a kind that is not read."""
    with pytest.raises(ImageError) as caught:
        shown(data)
    assert caught.value.reason == reasons.UNSUPPORTED_IMAGE
    return caught.value.message


def pillow_shows(data):
    """What Pillow alone makes of a file, to show that a test needs the product."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
