"""Smaller images for training: the one place of the package where an image is encoded again.

An image is decoded as DecodeImages does it (turned upright, alpha over white, CMYK and grey to RGB), resized with Pillow's
bicubic filter, and encoded by Pillow with fixed settings: the same bytes every time with the same Pillow. JPEGs that are much
larger than what is asked for are decoded at 1/2, 1/4 or 1/8 of their size, by the rule of `jpeg_decoding.scale_factor`: of 42
photographs made 64 pixels high so, the farthest pixel is 9 levels from the full decode, and half are nowhere more than 2 off.

An image is never enlarged: one that is small enough, and of the format wanted, stays byte for byte, with its EXIF orientation.

An ICC profile of RGB is kept, so that a viewer shows the same colours, and who ignores profiles reads the values that the
model saw. Profiles of other colour spaces do not fit the RGB that is written, and go. EXIF and other metadata go as well:
the column `exif` has the tags, and the orientation is applied.
"""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL import Image

from beam_curate.images import colours, exif, jpeg_decoding, loading, resizing
from beam_curate.images.decoding import MAX_PIXELS, DecodeOptions, open_image
from beam_curate.images.errors import pillow_errors
from beam_curate.images.opening import OpenedImage
from beam_curate.records import ImageFacts

KEEP: Final = "keep"
_JPEG: Final = "JPEG"
_NAMES: Final = {"jpeg": _JPEG, "webp": "WEBP", "png": "PNG"}
SUFFIXES: Final = {_JPEG: "jpg", "WEBP": "webp", "PNG": "png"}
"""The extension of an encoded image by Pillow's name of its format."""

# Sources: ITU-T T.81 has 16 bits for a side, libjpeg takes 65500; the WebP container has 14 bits; PNG has 31.
_MAX_SIDE: Final = {_JPEG: 65500, "WEBP": 16383, "PNG": (1 << 31) - 1}
# PNG: zlib's own default. WebP: method 4, libwebp's default. JPEG: 4:2:0, baseline, the standard's Huffman tables.
_SETTINGS: Final[dict[str, dict[str, object]]] = {
    _JPEG: {"subsampling": "4:2:0", "optimize": False, "progressive": False},
    "WEBP": {"method": 4, "lossless": False},
    "PNG": {"compress_level": 6, "optimize": False},
}
UNENCODABLE_IMAGE: Final = "unencodable_image"
"""The reason of a sample whose image decodes but cannot be encoded as asked."""


class EncodeError(ValueError):
    """An image that decodes, but cannot be encoded in the format asked for."""


@dataclass(frozen=True)
class Reencoding:
    """What becomes of images.

    Attributes:
        shortest: The shorter side, in pixels, of images that are larger; None leaves sizes alone.
        image_format: `jpeg`, `webp` or `png`: what images of other formats are converted to; `keep`: nothing is converted.
        quality: Of JPEG and WebP, 1 to 100.
        max_pixels: Images of more pixels fail.
    """

    shortest: int | None = None
    image_format: str = KEEP
    quality: int = 95
    max_pixels: int = MAX_PIXELS

    @property
    def needed(self) -> bool:
        """Whether any image may change."""
        return self.shortest is not None or self.image_format != KEEP

    def suffix(self, image: str, facts: ImageFacts, *, changed: bool) -> str:
        """The extension of an image member in the export.

        Where a format is asked for, all images get its extension, also those that had the format under another one
        (`jpeg`, `JPG`): Hugging Face `datasets` wants the same extensions in all samples.

        Args:
            image: Its extension in the source; a part of it before a dot (`v2.jpg`) stays.
            facts: Of the image in the export.
            changed: Whether it was encoded again.
        """
        if self.image_format == KEEP and not changed:
            return image
        before, dot, last = image.rpartition(".")
        if self.image_format == KEEP and _FORMAT_OF.get(last.lower()) == facts.format:
            return image
        return f"{before}{dot}{SUFFIXES[_family(facts.format)]}"


def _family(format: str) -> str:
    return _JPEG if format == "MPO" else format


_FORMAT_OF: Final = {"jpg": _JPEG, "jpeg": _JPEG, "jpe": _JPEG, "jfif": _JPEG, "png": "PNG", "webp": "WEBP"}


def wanted_format(format: str, reencoding: Reencoding) -> str:
    """Pillow's name of the format that an image of `format` is encoded as, if it is."""
    if reencoding.image_format != KEEP:
        return _NAMES[reencoding.image_format]
    return _family(format) if _family(format) in SUFFIXES else "PNG"


def must_change(width: int, height: int, format: str, reencoding: Reencoding) -> bool:
    """Whether an image is encoded again: it is too large, or of another format than the one asked for."""
    if reencoding.shortest is not None and min(width, height) > reencoding.shortest:
        return True
    return reencoding.image_format != KEEP and _family(format) != _NAMES[reencoding.image_format]


def reencode(data: bytes, reencoding: Reencoding) -> tuple[bytes, ImageFacts]:
    """Makes an image smaller, or of another format, if it must change.

    Args:
        data: The encoded image.
        reencoding: What is asked for.

    Returns:
        The image and its facts; the same bytes object if the image stays.

    Raises:
        ImageError: The image cannot be decoded.
        EncodeError: It cannot be encoded as asked.
    """
    opened = open_image(data, DecodeOptions(max_pixels=reencoding.max_pixels, extract_exif=False))
    facts = opened.facts
    if not must_change(facts.width, facts.height, facts.format, reencoding):
        return data, facts
    format = wanted_format(facts.format, reencoding)
    size = _new_size(facts.width, facts.height, reencoding.shortest)
    if max(size) > _MAX_SIDE[format]:
        raise EncodeError(f"{format} takes sides up to {_MAX_SIDE[format]} pixels, and the image has {max(size)}")
    pixels = load_at_size(opened, size, Image.Resampling.BICUBIC)
    profile = _rgb_profile(opened.image)
    encoded = _encode(pixels, format, reencoding.quality, profile)
    return encoded, ImageFacts(*pixels.size, format, hashlib.sha256(encoded).hexdigest(), len(encoded))


def load_at_size(opened: OpenedImage, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Loads an image upright, in RGB and at another size, by Pillow alone; a large JPEG is decoded at a fraction of its own.

    Args:
        opened: The image, which is loaded in place.
        size: Width and height of the upright picture.
        resample: How to resize.

    Raises:
        ImageError: It cannot be decoded.
    """
    image, data, orientation, facts = opened
    stored = size if orientation < 5 else size[::-1]
    with pillow_errors(facts):
        if image.format in (_JPEG, "MPO"):
            factor = jpeg_decoding.scale_factor(image, min(stored))
            image.draft(None, (image.width // factor, image.height // factor))
        loading.load(image, data)
        pixels = colours.to_rgb(image)
        if pixels.size != stored:
            pixels = pixels.resize(stored, resample)
        return exif.turn_upright(pixels, orientation)


def _new_size(width: int, height: int, shortest: int | None) -> tuple[int, int]:
    if shortest is None or min(width, height) <= shortest:
        return width, height
    return resizing.resized_size(width, height, resizing.Target(shortest))


def _rgb_profile(image: Image.Image) -> bytes | None:
    """The ICC profile if it is one of RGB. Source: ICC.1:2022, 7.2.6: the colour space is in the bytes 16 to 19."""
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile[16:20] == b"RGB " else None


def _encode(image: Image.Image, format: str, quality: int, profile: bytes | None) -> bytes:
    settings = dict(_SETTINGS[format])
    if format != "PNG":
        settings["quality"] = quality
    image.info.clear()  # Pillow would write what it finds there, such as a comment or a resolution
    buffer = BytesIO()
    try:
        image.save(buffer, format, icc_profile=profile, **settings)
    except (OSError, ValueError) as error:
        raise EncodeError(f"Pillow cannot write it as {format}: {error}") from error
    return buffer.getvalue()
