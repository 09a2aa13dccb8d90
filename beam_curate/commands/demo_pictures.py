"""The pictures of the demo's data: photographs, views of them, and the formats in which they are stored."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION: Final = 0x0112  # EXIF tag; 6 means: turn by 90 degrees clockwise to view (EXIF 2.3, section 4.6.4)


class Photo(NamedTuple):
    """A photograph, with what stands beside it."""

    file: str
    caption: str
    licence: str
    source: str


class Encoding(NamedTuple):
    """A format: the extension of its files, and what makes one."""

    suffix: str
    encode: Callable[["Image.Image"], bytes]


_PUBLIC: Final = "public domain"
_UNRESTRICTED: Final = "no known copyright restrictions"
# Licences and sources as the docstrings of skimage.data 0.26 state them; files without a stated licence are not used.
PHOTOS: Final = (
    Photo("astronaut.png", "An astronaut in an orange suit before a flag", _PUBLIC, "NASA"),
    Photo("brick.png", "A brick wall", "CC0", "CC0Textures, Bricks25"),
    Photo("camera.png", "A man with a camera on a tripod", "CC0", "Lav Varshney"),
    Photo("chelsea.png", "A tabby cat", "CC0", "Stefan van der Walt"),
    Photo("clock_motion.png", "A wall clock, blurred by motion", _PUBLIC, "Stefan van der Walt"),
    Photo("coffee.png", "A cup of coffee on a wooden table", "CC0", "Rachel Michetti"),
    Photo("coins.png", "Greek coins from Pompeii", _UNRESTRICTED, "Brooklyn Museum"),
    Photo("grass.png", "Grass", "CC0", "linolafett, DeviantArt"),
    Photo("gravel.png", "Gravel", "CC0", "CC0Textures, Gravel04"),
    Photo("hubble_deep_field.jpg", "Galaxies in the Hubble deep field", _PUBLIC, "NASA, HubbleSite"),
    Photo("ihc.png", "Stained colonic glands under a microscope", _UNRESTRICTED, "CMMI"),
    Photo("retina.jpg", "The retina of a human eye", "CC0", "Mikael Häggström, Wikimedia Commons"),
    Photo("rocket.jpg", "A rocket on its launch pad at dusk", _PUBLIC, "SpaceX"),
)
# The part of the photograph as fractions (left, upper, right, lower), the scale, and whether it is mirrored.
VIEWS: Final[dict[str, tuple[tuple[float, float, float, float], float, bool]]] = {
    "whole": ((0, 0, 1, 1), 1.0, False),
    "mirrored": ((0, 0, 1, 1), 0.75, True),
    "centre": ((1 / 8, 1 / 8, 7 / 8, 7 / 8), 1.0, False),
    "upper-left": ((0, 0, 2 / 3, 2 / 3), 0.8, False),
    "lower-right": ((1 / 3, 1 / 3, 1, 1), 0.8, True),
    "half-size": ((0, 0, 1, 1), 0.5, False),
}


def _saved(image: "Image.Image", format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(quality: int, mode: str | None = None, **options: Any) -> Callable[["Image.Image"], bytes]:
    """What stores a picture as JPEG."""
    return lambda image: _saved(image.convert(mode or image.mode), "JPEG", quality=quality, **options)


def _rotated_jpeg(image: "Image.Image") -> bytes:
    """Stores the picture lying on its side, with the EXIF tag that turns it upright, as cameras do."""
    from PIL import Image

    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return _saved(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=88, exif=exif)


def _png_with_alpha(image: "Image.Image") -> bytes:
    """An RGBA picture, opaque inside an ellipse and transparent at the corners."""
    from PIL import Image, ImageDraw

    alpha = Image.new("L", image.size, 0)
    ImageDraw.Draw(alpha).ellipse((0, 0, image.width - 1, image.height - 1), fill=255)
    rgba = image.convert("RGB")
    rgba.putalpha(alpha)
    return _saved(rgba, "PNG")


def _animated_gif(image: "Image.Image") -> bytes:
    """Two frames: the picture, and the picture upside down."""
    from PIL import Image

    frames = [frame.convert("RGB").quantize(128) for frame in (image, image.transpose(Image.Transpose.ROTATE_180))]
    return _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=500, loop=0)


# The first samples are all .jpg: Hugging Face `datasets` takes the columns from the first five samples of a set.
JPEGS: Final = (
    Encoding("jpg", jpeg(92)),
    Encoding("jpg", jpeg(75)),
    Encoding("jpg", jpeg(60, progressive=True)),
    Encoding("jpg", jpeg(95, subsampling="4:4:4")),
    Encoding("jpg", jpeg(85, mode="L")),
)
ALL: Final = (
    Encoding("jpg", jpeg(85)),
    Encoding("png", lambda image: _saved(image, "PNG")),
    Encoding("webp", lambda image: _saved(image, "WEBP", quality=80)),
    Encoding("JPG", jpeg(80)),
    Encoding("jpg", _rotated_jpeg),
    Encoding("gif", _animated_gif),
    Encoding("jpeg", jpeg(70)),
    Encoding("tiff", lambda image: _saved(image, "TIFF")),  # uncompressed: libtiff leaves a random byte
    Encoding("jpg", jpeg(90, mode="CMYK")),
    Encoding("png", _png_with_alpha),
)


def view_of(photo: "Image.Image", name: str) -> "Image.Image":
    """A view of a photograph, by its name."""
    from PIL import Image

    box, scale, mirrored = VIEWS[name]
    left, upper, right, lower = (round(f * n) for f, n in zip(box, photo.size * 2, strict=True))
    part = photo.crop((left, upper, right, lower))
    if scale != 1:
        part = part.resize((round(part.width * scale), round(part.height * scale)), Image.Resampling.LANCZOS)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part
