"""Encoded images to what a CLIP model sees: (S, S, 3) uint8 RGB, from bytes that nobody vouches for.

`decode_image` gives the pixels and the facts of one image, or raises `ImageError` with a stable reason, and nothing else,
whatever the bytes are. It holds no state and may be called from many threads at once.

Three decoders. `pillow` is the reference: for RGB images its pixels are bit for bit those of open_clip's evaluation
transform. `fast` decodes JPEG with libjpeg-turbo into the same pixels as Pillow, and resizes them at most 2 levels away (see
`resizing`): 2.4 times faster than the reference at 640 x 480, 2.2 times at 1024 x 768, 3 times at 12 megapixels. `scaled`
decodes large JPEGs at 1/2, 1/4 or 1/8 of their size: 4.8 times faster than the reference at 12 megapixels, and not as close (see
`DecodeOptions`).
What these refuse goes to Pillow.

What differs from open_clip's transform: EXIF orientation is applied (an option), and the image becomes RGB before it is
resized, not after. So grey, palette and CMYK images are resized as what they show. And kinds of images that Pillow reads without
an error as something else are mended, or refused (see `loading`).

Bounds, for bytes made to hurt: the header's pixel count is checked before anything is decoded. At the peak a pixel costs 3 to 12
bytes of memory, 16 in WebP: with the default limit at most 2.9 GB a thread (measured). Greys of more than 8 bits take up to 140
MB more. So lower `max_pixels` where memory is short. JPEGs of very many scans are refused, no external program is ever run, and
Pillow's own limits on tiles and embedded images stay in force, as does libpng's on texts and profiles. What libtiff writes to
standard error about damaged TIFFs cannot be silenced from here.
"""

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from beam_curate.images import colours, exif, jpeg_decoding, loading, resizing
from beam_curate.images.errors import ImageError, pillow_errors
from beam_curate.images.opening import describe, open_image
from beam_curate.images.options import DALI, DECODERS, FAST, MAX_PIXELS, PILLOW, SCALED, DecodeOptions
from beam_curate.records import ImageFacts

__all__ = [
    "DALI",
    "DECODERS",
    "FAST",
    "MAX_PIXELS",
    "PILLOW",
    "SCALED",
    "DecodeOptions",
    "ImageError",
    "Pixels",
    "decode_image",
    "decode_sizes",
    "image_facts",
    "open_image",
]

Pixels: TypeAlias = npt.NDArray[np.uint8]

_MAX_COPY_PIXELS: Final = 1 << 22  # to hand larger images from Pillow to torch costs what it gains (measured)


def decode_image(data: bytes, options: DecodeOptions) -> tuple[ImageFacts, Pixels]:
    """Decodes an image and prepares it for the model.

    Animated images give their first frame. The work is done in the calling thread, most of it without Python's global lock.

    Args:
        data: The encoded image.
        options: How to decode it.

    Returns:
        The facts, and the pixels: (S, S, 3) uint8 RGB, C-contiguous.

    Raises:
        ImageError: The image cannot be decoded.
    """
    facts, (pixels,) = decode_sizes(data, options, [options.target])
    return facts, pixels


def decode_sizes(
    data: bytes, options: DecodeOptions, targets: Sequence[resizing.Target]
) -> tuple[ImageFacts, tuple[Pixels, ...]]:
    """Decodes an image once and prepares it for several models, for each just as if it were the only one.

    The bytes are decoded again only where that needs it: for a model to which the image is too small for the fast path, and,
    with `scaled`, at another fraction.

    Args:
        data: The encoded image.
        options: How to decode it; their target does not count.
        targets: What each model wants.

    Returns:
        The facts, and for each target its pixels, as of `decode_image`.

    Raises:
        ImageError: The image cannot be decoded.
    """
    image, data, orientation, facts = open_image(data, options)
    found: dict[resizing.Target, Pixels] = {}
    if options.decoder in (FAST, SCALED) and image.format in ("JPEG", "MPO"):
        found = _decode_fast(data, image, orientation, options, targets)
    if not found.keys() >= set(targets):
        facts, others = _decode_with_pillow(
            data, image, options, facts, [each for each in targets if each not in found]
        )
        found |= others
    return facts, tuple(found[target] for target in targets)


def _decode_fast(
    data: bytes, image: Image.Image, orientation: int, options: DecodeOptions, targets: Iterable[resizing.Target]
) -> dict[resizing.Target, Pixels]:
    """Decodes a JPEG with libjpeg-turbo for those targets that it suits; for none where Pillow is to decode."""
    decoded: dict[int, Pixels | None] = {}
    found = {}
    for target in targets:
        if not resizing.suits_array(*image.size, target):
            continue
        factor = jpeg_decoding.scale_factor(image, target.size) if options.decoder == SCALED else 1
        if factor not in decoded:
            decoded[factor] = jpeg_decoding.decode_jpeg(data, image, factor)
        small = decoded[factor]
        if small is not None:
            pixels = resizing.resize_array(small, image.size, target, orientation)
            found[target] = pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
    return found


def _decode_with_pillow(
    data: bytes, image: Image.Image, options: DecodeOptions, facts: ImageFacts, targets: Iterable[resizing.Target]
) -> tuple[ImageFacts, dict[resizing.Target, Pixels]]:
    with pillow_errors(facts):
        loading.load(image, data)
    # What a PNG has behind its pixels and an icon file inside is known only now.
    orientation, facts = describe(image, options, facts)
    with pillow_errors(facts):
        image = exif.turn_upright(colours.to_rgb(image), orientation)
    fast = options.decoder in (FAST, SCALED) and image.width * image.height <= _MAX_COPY_PIXELS
    copy: Pixels | None = None
    found = {}
    for target in targets:
        if fast and resizing.suits_array(*image.size, target):
            copy = np.array(image) if copy is None else copy
            found[target] = resizing.resize_array(copy, image.size, target)
        else:
            found[target] = resizing.resize_image(image, target)
    return facts, found


def image_facts(data: bytes, options: DecodeOptions) -> ImageFacts:
    """Reads what the header tells, and decodes nothing.

    It is what `decode_image` returns, save for PNGs with their EXIF data behind the pixels and icons of a false size.

    Raises:
        ImageError: The header cannot be read, or claims too many pixels or none.
    """
    return open_image(data, options).facts
