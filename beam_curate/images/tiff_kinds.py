"""TIFF: the kinds that Pillow opens and reads as something else.

Pillow has a table of the kinds that it opens, and two ways to read them: by itself where nothing is compressed, else with
libtiff. The table leaves out what the numbers mean (which one is white, and whether they have a sign), and each way garbles
kinds that the other reads. What both garble is refused.

Source of what is right: TIFF 6.0, sections 3 to 8 and 16 to 23.
"""

from typing import Any, Final

from PIL import Image, ImagePalette
from PIL.TiffImagePlugin import II, MM, OPEN_INFO, TiffImageFile

from beam_curate.images.colours import GREYS, Greys
from beam_curate.images.errors import UnsupportedKindError
from beam_curate.images.tiff_layout import (
    BLACK_IS_ZERO,
    LAB,
    PALETTE,
    SIGNED,
    UNSIGNED,
    WHITE_IS_ZERO,
    YCBCR,
    Layout,
    read_layout,
)

_COMPRESSION, _WHITE_POINT, _COLOR_MAP, _INK_SET, _EXTRA_SAMPLES = 259, 318, 320, 332, 338
_RAW, _OLD_JPEG, _DEFLATE, _WEBP = 1, 6, 8, 50001
_D50: Final = (0.3457, 0.3585)
"""The white of Lab, x and y, that Pillow takes for granted, and the one of a TIFF that names none (Adobe Photoshop TIFF Technical
Notes, 2002; libtiff's `TIFFGetFieldDefaulted`)."""
_SAME_WHITE: Final = 0.002  # D65, the next one that is used, is 0.03 away
_FAX: Final = (2, 3, 4)
"""CCITT compressions: of black on white, whether the file says so or not, to libtiff too (`TIFFRGBAImageBegin`)."""

# Kinds that Pillow reads with the low byte first, but has not in its table with the high byte first; and 12 bits from white
# to black, which are packed alike in both. The key: byte order, photometric, sample format, fill order, bits, extra samples.
_BOTH_ORDERS: Final[dict[tuple[bytes, int, tuple[int], int, tuple[int, ...], tuple[int, ...]], tuple[str, str]]] = {
    (MM, WHITE_IS_ZERO, (UNSIGNED,), 1, (16,), ()): ("I;16B", "I;16B"),
    (MM, BLACK_IS_ZERO, (UNSIGNED,), 1, (32,), ()): ("I", "I;32B"),
    (MM, BLACK_IS_ZERO, (UNSIGNED,), 1, (12,), ()): ("I;16", "I;12"),
    (MM, WHITE_IS_ZERO, (UNSIGNED,), 1, (12,), ()): ("I;16", "I;12"),
    (II, WHITE_IS_ZERO, (UNSIGNED,), 1, (12,), ()): ("I;16", "I;12"),
}
OPEN_INFO.update(_BOTH_ORDERS)

# What libtiff gives is in the order of this machine's bytes, but Pillow reads some of it in the file's order.
_NATIVE: Final = {"I;16BS": "I;16NS", "I;32B": "I;32N", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}


def prepare(image: Image.Image) -> None:
    """Chooses the way that reads the opened image right.

    Raises:
        UnsupportedKindError: Neither does, or the file does not say what its values mean.
    """
    assert isinstance(image, TiffImageFile)
    layout = read_layout(image.tag_v2)
    if layout.photometric is None and layout.compression not in (*_FAX, _OLD_JPEG):
        raise UnsupportedKindError("a TIFF that does not say what its values mean: it has no PhotometricInterpretation")
    if layout.compression == _WEBP:  # libtiff is built without it into Pillow's packages, and says only that it failed
        raise UnsupportedKindError("a TIFF of WebP's compression, which Pillow's libtiff does not read")
    if layout.photometric == LAB and not _is_d50(image.tag_v2.get(_WHITE_POINT, _D50)):
        raise UnsupportedKindError(
            f"a TIFF of Lab whose white is {image.tag_v2[_WHITE_POINT]}, where {_D50} (D50) is read"
        )
    if image.mode == "CMYK" and image.tag_v2.get(_INK_SET, 1) != 1:
        raise UnsupportedKindError("a TIFF of inks other than CMYK, which are not read")
    if layout.planes and (image.mode in ("LA", "LAB", "PA") or (image.mode == "RGBA" and layout.samples != 4)):
        raise UnsupportedKindError(f"a TIFF of {layout}: planes of this kind are not read")
    if layout.compression == _RAW and _is_for_libtiff(layout):
        # Pillow sees a compression, and libtiff what stands in the file.
        image.tag_v2[_COMPRESSION] = _DEFLATE
        image._setup()
        image.tag_v2[_COMPRESSION] = _RAW
    if image.use_load_libtiff:
        image.tile = [
            tile._replace(args=(_NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))  # type: ignore[index]
            for tile in image.tile
        ]
    if image.mode in ("P", "PA"):
        _set_palette(image, layout)


def _is_d50(white: Any) -> bool:
    return len(white) == 2 and all(abs(float(said) - own) < _SAME_WHITE for said, own in zip(white, _D50, strict=True))


def _is_for_libtiff(layout: Layout) -> bool:
    """Whether Pillow's own reading of uncompressed data garbles the kind.

    It takes YCbCr for RGB, and knows planes only of 8 bits, and reversed bits only of some kinds.
    """
    garbled_planes = layout.planes and (layout.bits != 8 or bool(layout.extra) or layout.samples == 1)
    return layout.photometric == YCBCR or layout.reversed_bits or garbled_planes


def _set_palette(image: TiffImageFile, layout: Layout) -> None:
    """Reads the palette: of 16 bits, or where none of its values needs more than 8, of 8 bits, as libtiff does."""
    values = image.tag_v2.get(_COLOR_MAP, ())
    if layout.photometric != PALETTE or len(values) != 3 << layout.bits:
        raise UnsupportedKindError(
            f"a TIFF with a palette of {len(values)} values for {layout.bits} bits, which needs 3 for each"
        )
    if max(values) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(values))


def amend(image: Image.Image) -> None:
    """Notes what the numbers of a loaded image mean, for `colours.to_rgb`, and opens an alpha that is none."""
    assert isinstance(image, TiffImageFile)
    layout = read_layout(image.tag_v2)
    if image.mode == "L" and layout.sample_format == SIGNED:
        image.info[GREYS] = Greys(values="i1")
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
        unsigned = image.mode == "I" and layout.sample_format == UNSIGNED
        image.info[GREYS] = Greys(
            white=float((1 << layout.bits) - 1) if unsigned or image.mode.startswith("I;16") else None,
            values="u4" if unsigned else "",
            white_is_zero=layout.photometric == WHITE_IS_ZERO,
        )
    elif image.mode == "RGBA" and _EXTRA_SAMPLES not in image.tag_v2:
        # A fourth sample of which the file does not say what it is: alpha, as it is taken, unless nothing would be seen.
        if image.getchannel("A").getextrema() == (0, 0):
            image.putalpha(255)
    elif image.mode == "LAB" and layout.photometric != LAB:
        raise UnsupportedKindError(f"a TIFF of {layout}, which is not read")
