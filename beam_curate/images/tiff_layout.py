"""How the pixels of a TIFF are stored, by its tags."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from beam_curate.images import exif

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR, LAB = 0, 1, 2, 3, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
_FORMATS: Final = {UNSIGNED: "", SIGNED: " (signed)", FLOAT: " (floating point)"}
SIGNATURES: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a TIFF begins; the last two are of BigTIFF."""


@dataclass(frozen=True)
class Layout:
    """What the tags say; what is not there is as TIFF 6.0 has it by default.

    Attributes:
        photometric: PhotometricInterpretation; None if the tag, for which there is no default, is not there.
        bits: Bits of the first sample.
        sample_format: UNSIGNED, SIGNED or FLOAT, of the first sample.
        samples: Samples of a pixel.
        extra: ExtraSamples.
        planes: Whether each sample has a plane of its own.
        reversed_bits: Whether the first pixel is in the low bits.
        compression: The number of the tag.
    """

    photometric: int | None
    bits: int
    sample_format: int
    samples: int
    extra: tuple[int, ...]
    planes: bool
    reversed_bits: bool
    compression: int

    def __str__(self) -> str:
        photometric = "no PhotometricInterpretation" if self.photometric is None else f"photometric {self.photometric}"
        planes = " in planes" if self.planes and self.samples > 1 else ""
        return (
            f"{self.samples} x {self.bits} bits{_FORMATS.get(self.sample_format, ' (of no known format)')}{planes}, "
            f"{photometric}, compression {self.compression}"
        )


def read_layout(tags: ImageFileDirectory_v2) -> Layout:
    """Reads the tags of a directory. Source: TIFF 6.0, sections 4, 8, 18 and 19."""
    photometric = tags.get(262)
    return Layout(
        photometric=photometric if isinstance(photometric, int) else None,
        bits=_first(tags.get(258), 1),
        sample_format=_first(tags.get(339), UNSIGNED),
        samples=_first(tags.get(277), 1),
        extra=tuple(tags.get(338, ())),
        planes=tags.get(284) == 2,
        reversed_bits=tags.get(266) == 2,
        compression=_first(tags.get(259), 1),
    )


def describe_unread(data: bytes) -> str | None:
    """Says how the pixels are stored in a TIFF that Pillow does not open; None if it is damaged so that this cannot be said."""
    if data.startswith(SIGNATURES[3]):
        return "8-byte offsets with the high byte first (BigTIFF)"
    try:
        tags = ImageFileDirectory_v2(data[:16] if data[2:3] == b"+" else data[:8])
        stream = BytesIO(data)
        stream.seek(tags.next)
        tags.load(stream)
        layout = read_layout(tags)
    except exif.EXIF_ERRORS:
        return None
    whole = all(isinstance(tags.get(tag), int) for tag in (256, 257)) and (273 in tags or 324 in tags)
    return str(layout) if whole else None


def _first(value: Any, default: int) -> int:
    number = value[0] if isinstance(value, tuple) and value else value
    return number if isinstance(number, int) else default
