"""Opens an image of which nothing is known: what its header says, checked against the limits; no pixel is decoded."""

import functools
import hashlib
import logging
import warnings
from dataclasses import replace
from io import BytesIO
from typing import Final, NamedTuple

from PIL import Image

from beam_curate import reasons
from beam_curate.images import exif, loading, mending
from beam_curate.images.errors import ImageError, pillow_errors
from beam_curate.images.frames import count_frames
from beam_curate.images.options import DecodeOptions
from beam_curate.images.tiff_bounds import bound_directories
from beam_curate.records import ImageFacts

MAX_JPEG_SCANS: Final = 100
"""Progressive JPEGs of more scans are refused: a scan of a few bytes costs 0.6 ns for each pixel of the image (measured).

Encoders write about 10. Source for the attack: "Two Issues with the JPEG Standard", the libjpeg-turbo project.
"""

MAX_SLOW_PIXELS: Final = 1 << 25
"""The most pixels of an image for which Pillow has no decoder but one in Python (QOI, plain PPM, 16-bit PPM, …), 33.5 million.

Those take 0.1 to 1.6 microseconds a pixel (measured), so at most about a minute instead of five.
"""

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


class OpenedImage(NamedTuple):
    """An image of which the header is known.

    Attributes:
        image: Not loaded yet.
        data: What its pixels are to be read from: the bytes that were given, mended where they lost no pixel (see `mending`).
        orientation: Of EXIF; 1 if that is not to be applied.
        facts: What is known of it; size and checksum are those of the bytes that were given.
    """

    image: Image.Image
    data: bytes
    orientation: int
    facts: ImageFacts


def open_image(data: bytes, options: DecodeOptions) -> OpenedImage:
    """Opens an image and checks its header; no pixel is decoded, save of a JPEG without an end.

    Raises:
        ImageError: The header cannot be read, or claims too many pixels or none.
    """
    facts = ImageFacts(0, 0, "", hashlib.sha256(data).hexdigest(), len(data))
    if not data:
        raise ImageError(reasons.NOT_AN_IMAGE, "the image member is empty (0 bytes)", facts)
    with pillow_errors(facts, data):
        data = mending.without_spoilt_chunks(data)
        image = Image.open(BytesIO(data), formats=_formats())
        facts = replace(facts, format=image.format or "", frames=count_frames(image, data))
    with pillow_errors(facts):
        loading.prepare(image, data)
    orientation, facts = describe(image, options, facts)
    # Pillow notes that a JPEG is progressive: only then can it have many scans, and only then are they counted.
    if image.info.get("progressive") and (scans := data.count(b"\xff\xda")) > MAX_JPEG_SCANS:
        message = f"a progressive JPEG of {scans} scans, more than {MAX_JPEG_SCANS}: decoding it could take minutes"
        raise ImageError(reasons.UNSUPPORTED_IMAGE, message, facts)
    pixels = facts.width * facts.height
    # Pillow's table of decoders holds those written in Python.
    if pixels > MAX_SLOW_PIXELS and any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", ())):
        message = f"a {facts.format} image of {pixels} pixels, the limit for this slow encoding is {MAX_SLOW_PIXELS}"
        raise ImageError(reasons.TOO_MANY_PIXELS, message, facts)
    with pillow_errors(facts):
        mending.refuse_hole(image, data)
    if image.format == "JPEG" and (ended := mending.with_end(data, len(image.getbands()))) is not data:
        data, image = ended, Image.open(BytesIO(ended), formats=["JPEG"])
    return OpenedImage(image, data, orientation, facts)


def describe(image: Image.Image, options: DecodeOptions, facts: ImageFacts) -> tuple[int, ImageFacts]:
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
    """The allowed formats that this Pillow was built with: first those that it knows by their first bytes.

    The others read and parse before they refuse, and took a quarter of the time of opening a JPEG. Pillow's own order depends
    on what else the process has loaded, and so would the format of bytes that two of them take.
    """
    Image.init()
    built = [name for name in _FORMATS.split() if name in Image.OPEN]
    return tuple(sorted(built, key=lambda name: Image.OPEN[name][1] is None))
