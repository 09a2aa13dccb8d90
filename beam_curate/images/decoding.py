"""Encoded images to what a CLIP model sees: (S, S, 3) uint8 RGB, from bytes that nobody vouches for.

`decode_image` gives the pixels and the facts of one image, or raises `ImageError` with a stable reason, and nothing else,
whatever the bytes are. It holds no state and may be called from many threads at once.

Three decoders. `pillow` is the reference: for RGB images its pixels are bit for bit those of open_clip's evaluation
transform. `fast` decodes JPEG with libjpeg-turbo into the same pixels as Pillow, and resizes them at most 1 level away (see
`resizing`): 1.4 times faster than the reference at 640 x 480, 1.6 times at 1024 x 768, 1.7 times at 12 megapixels. `scaled`
decodes large JPEGs at 1/2, 1/4 or 1/8 of their size and does without the construction that bounds `fast`: 2 times faster
than the reference at 640 x 480 and at 1024 x 768, 3 times at 12 megapixels, and not as close (see `DecodeOptions`).
What these refuse goes to Pillow.

What differs from open_clip's transform: EXIF orientation is applied (an option), and the image becomes RGB before it is
resized, not after. So grey, palette and CMYK images are resized as what they show.

Bounds, for bytes made to hurt: the header's pixel count is checked before anything is decoded. At the peak a pixel costs 4 to 9
bytes of memory, 16 in WebP: with the default limit at most 2.8 GB a thread (measured), so lower `max_pixels` where memory is
short. JPEGs of very many scans are refused, no external program is ever run, and Pillow's own limits on text chunks, tiles and
embedded images stay in force. What libtiff writes to standard error about damaged TIFFs cannot be silenced from here.
"""

import functools
import hashlib
import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from beam_curate import reasons
from beam_curate.images import colours, exif, jpeg_decoding, resizing
from beam_curate.images.errors import ImageError, pillow_errors
from beam_curate.images.frames import count_frames
from beam_curate.images.tiff_bounds import bound_directories
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

FAST: Final = "fast"
PILLOW: Final = "pillow"
SCALED: Final = "scaled"
DALI: Final = "dali"
DECODERS: Final = (FAST, PILLOW)
"""The decoders for one image at a time; `scaled` is a variant of `fast`, and `dali` is for batches: see `DecodeOptions`."""

MAX_PIXELS: Final = 178_956_970
"""The most pixels that Pillow decodes: twice its `Image.MAX_IMAGE_PIXELS`, where its warning turns into an error."""

MAX_SIZE: Final = 2048  # pixels; open_clip's largest models take 512

MAX_JPEG_SCANS: Final = 100
"""Progressive JPEGs of more scans are refused: a scan of a few bytes costs 0.6 ns for each pixel of the image (measured).

Encoders write about 10. Source for the attack: "Two Issues with the JPEG Standard", the libjpeg-turbo project.
"""

MAX_SLOW_PIXELS: Final = 1 << 25
"""The most pixels of an image for which Pillow has no decoder but one in Python (QOI, plain PPM, 16-bit PPM, …), 33.5 million.

Those take 0.1 to 1.6 microseconds a pixel (measured), so at most about a minute instead of five.
"""

_MAX_COPY_PIXELS: Final = 1 << 22  # to hand larger images from Pillow to torch costs what it gains (measured)

# Pillow's formats except those that run a program (EPS: Ghostscript), that open what they embed without this list (IPTC), or
# that it can only identify (BUFR, GRIB, HDF5, MPEG, WMF).
_FORMATS: Final = (
    "AVIF BLP BMP CUR DCX DDS DIB FITS FLI FTEX GBR GIF ICNS ICO IM IMT JPEG JPEG2000 MCIDAS MSP PCD PCX PIXAR PNG PPM "
    "PSD QOI SGI SPIDER SUN TGA TIFF WEBP XBM XPM XVTHUMB"
)


def _quiet_pillow() -> None:
    """Keeps Pillow's remarks on bad files from being printed for each: they are no news beside the sample's failure.

    Filters belong to the whole process, and setting them for each call is not safe with threads: so once, at import.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)


_quiet_pillow()
bound_directories()


@dataclass(frozen=True)
class DecodeOptions:
    """How images are decoded.

    Attributes:
        size: S, the model's image size in pixels.
        resize_mode: `shortest` (resize the shorter side to S, crop the centre) or `squash` (both sides to S), by the names
            of open_clip's `preprocess_cfg`.
        interpolation: `bicubic` or `bilinear`, both antialiased.
        decoder: `pillow` (the reference); `fast`: nowhere more than 1 level from it; `scaled`: 1 level
            from it, and 2 in one pixel of 300 photographs; but JPEGs whose shorter side is 10 times S or more may be decoded
            at a fraction of their size: there it is at most 4 levels on photographs as cameras take them, 8 where they
            are sharp to the pixel, and 25 in coloured text. `dali`: JPEGs
            in batches, see `dali_decoding`; an image alone is decoded as with `pillow`.
        apply_exif_orientation: Turn images upright first. open_clip's transform does not. Pillow turns TIFF by itself in any
            case.
        extract_exif: Write the EXIF tags into the facts: 0.3 ms for the 40 tags of a camera, nothing where there are none.
        max_pixels: Images whose header claims more are refused.
    """

    size: int = 224
    resize_mode: str = resizing.SHORTEST
    interpolation: str = "bicubic"
    decoder: str = FAST
    apply_exif_orientation: bool = True
    extract_exif: bool = True
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"size is {self.size}: use the image size of the model, 1 to {MAX_SIZE} pixels")
        if self.resize_mode == "longest":
            raise ValueError(
                "resize_mode is 'longest', which pads the image: this is not supported; use a model whose "
                "preprocess_cfg says 'shortest' or 'squash'"
            )
        for name, value, choices in (
            ("resize_mode", self.resize_mode, resizing.RESIZE_MODES),
            ("interpolation", self.interpolation, tuple(resizing.INTERPOLATIONS)),
            ("decoder", self.decoder, (*DECODERS, SCALED, DALI)),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}: use one of {', '.join(choices)}")
        if not 1 <= self.max_pixels <= MAX_PIXELS:
            raise ValueError(f"max_pixels is {self.max_pixels}: use 1 to {MAX_PIXELS}, the most that Pillow decodes")

    @property
    def target(self) -> resizing.Target:
        """The size and the way to it."""
        return resizing.Target(self.size, self.resize_mode, self.interpolation)


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
    image, orientation, facts = open_image(data, options)
    found: dict[resizing.Target, Pixels] = {}
    if options.decoder in (FAST, SCALED) and image.format in ("JPEG", "MPO"):
        found = _decode_fast(data, image, orientation, options, targets)
    if not found.keys() >= set(targets):
        facts, others = _decode_with_pillow(image, options, facts, [each for each in targets if each not in found])
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
            pixels = resizing.resize_array(small, image.size, target, orientation, exact=options.decoder == FAST)
            found[target] = pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
    return found


def _decode_with_pillow(
    image: Image.Image, options: DecodeOptions, facts: ImageFacts, targets: Iterable[resizing.Target]
) -> tuple[ImageFacts, dict[resizing.Target, Pixels]]:
    with pillow_errors(facts):
        image.load()
    # What a PNG has behind its pixels and an icon file inside is known only now.
    orientation, facts = _describe(image, options, facts)
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
    return open_image(data, options)[2]


def open_image(data: bytes, options: DecodeOptions) -> tuple[Image.Image, int, ImageFacts]:
    """Opens an image and checks its header; no pixel is decoded.

    Returns:
        The image, not loaded, its EXIF orientation (1 if that is not to be applied), and its facts.

    Raises:
        ImageError: The header cannot be read, or claims too many pixels or none.
    """
    facts = ImageFacts(0, 0, "", hashlib.sha256(data).hexdigest(), len(data))
    if not data:
        raise ImageError(reasons.NOT_AN_IMAGE, "the image member is empty (0 bytes)", facts)
    with pillow_errors(facts, data):
        image = Image.open(BytesIO(data), formats=_formats())
        frames = count_frames(image, data)
    orientation, facts = _describe(image, options, replace(facts, frames=frames))
    # Pillow notes that a JPEG is progressive: only then can it have many scans, and only then are they counted.
    if image.info.get("progressive") and (scans := data.count(b"\xff\xda")) > MAX_JPEG_SCANS:
        message = f"a progressive JPEG of {scans} scans, more than {MAX_JPEG_SCANS}: decoding it could take minutes"
        raise ImageError(reasons.UNSUPPORTED_IMAGE, message, facts)
    pixels = facts.width * facts.height
    # Pillow's table of decoders holds those written in Python.
    if pixels > MAX_SLOW_PIXELS and any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", ())):
        message = f"a {facts.format} image of {pixels} pixels, the limit for this slow encoding is {MAX_SLOW_PIXELS}"
        raise ImageError(reasons.TOO_MANY_PIXELS, message, facts)
    return image, orientation, facts


def _describe(image: Image.Image, options: DecodeOptions, facts: ImageFacts) -> tuple[int, ImageFacts]:
    """Completes the facts and checks the size; gives them with the EXIF orientation to apply."""
    # Sizes are read from text in some formats (IM): they may have fractions, signs or three parts.
    if len(image.size) != 2 or not all(isinstance(side, int) and side > 0 for side in image.size):
        size = " x ".join(map(str, image.size))
        raise ImageError(
            reasons.CORRUPT_IMAGE, f"the image is {size}: no pixels", replace(facts, format=image.format or "")
        )
    tags = exif.read_exif(image)
    orientation = exif.orientation(image, tags) if options.apply_exif_orientation else 1
    width, height = image.size if orientation < 5 else image.size[::-1]
    text = exif.exif_json(tags) if options.extract_exif and not facts.exif else facts.exif
    facts = replace(facts, width=width, height=height, format=image.format or "", exif=text)
    if width * height > options.max_pixels:
        message = f"the image is {width} x {height} = {width * height} pixels, the limit is {options.max_pixels}"
        raise ImageError(reasons.TOO_MANY_PIXELS, message, facts)
    return orientation, facts


@functools.cache
def _formats() -> tuple[str, ...]:
    """The allowed formats that this Pillow was built with, in the order in which it tries them itself."""
    Image.init()
    allowed = set(_FORMATS.split())
    return tuple(name for name in Image.ID if name in allowed)
