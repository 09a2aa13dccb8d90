"""Which images DALI is to decode, which part of them it is to show, and how many it is given at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from beam_curate.images import resizing
from beam_curate.images.decoding import DecodeOptions, ImageError, open_image
from beam_curate.records import ImageFacts

MAX_BATCH: Final = 64
"""The most images of one DALI run."""

MAX_CHUNK_PIXELS: Final = 1 << 25
"""The most pixels of one DALI run; larger images go to Pillow.

32 images of 1 megapixel, or 2 of 12. It bounds the memory, as DALI keeps the largest buffers that it ever needed.
"""


@dataclass(frozen=True)
class Plan:
    """What DALI is to do with an image, known from its header.

    Attributes:
        facts: The facts of the image.
        orientation: EXIF orientation (1 to 8) to apply to the result.
    """

    facts: ImageFacts
    orientation: int


def plan_image(data: bytes, options: DecodeOptions, targets: Sequence[resizing.Target] = ()) -> Plan | None:
    """Reads the header and plans what DALI has to do; None if the image is not one for DALI.

    Args:
        data: The encoded image.
        options: How to decode it.
        targets: What the models want; none means that of the options.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        image, whole, orientation, facts = open_image(data, options)
    except ImageError:
        return None  # decode_image will say it again
    suits = all(resizing.suits_array(*image.size, target) for target in targets or [options.target])
    fits = suits and image.width * image.height <= MAX_CHUNK_PIXELS
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L") or not fits or whole is not data:
        return None
    return Plan(facts, orientation) if is_plain_jpeg(data) else None


def chunks(plans: Sequence[Plan | None]) -> Iterator[list[tuple[int, Plan]]]:
    """Yields the planned images with their indices, in order, in lists of at most `MAX_BATCH` and `MAX_CHUNK_PIXELS`."""
    chunk: list[tuple[int, Plan]] = []
    pixels = 0
    for index, plan in enumerate(plans):
        if plan is None:
            continue
        own = plan.facts.width * plan.facts.height
        if chunk and (len(chunk) == MAX_BATCH or pixels + own > MAX_CHUNK_PIXELS):
            yield chunk
            chunk, pixels = [], 0
        chunk.append((index, plan))
        pixels += own
    if chunk:
        yield chunk


def region(
    facts: ImageFacts, orientation: int, target: resizing.Target
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Gives the region that resize and centre crop show, as ((y, x) start, (y, x) end) in pixels of the stored image.

    Turned by the orientation, it is what the crop of the upright image shows: a crop may be half a pixel off the centre, so
    that its mirror image is another one.
    """
    resized = resizing.resized_size(facts.width, facts.height, target)
    spans = []
    # Exif 3.0, tag 0x0112: which orientations mirror the upright image's x, and which its y.
    for length, new_length, mirrored in (
        (facts.height, resized[1], orientation in (3, 4, 7, 8)),
        (facts.width, resized[0], orientation in (2, 3, 6, 7)),
    ):
        first = resizing.crop_offset(new_length, target.size)
        start, end = first * length / new_length, min((first + target.size) * length / new_length, length)
        spans.append((length - end, length - start) if mirrored else (start, end))
    if orientation >= 5:
        spans.reverse()
    return (spans[0][0], spans[1][0]), (spans[0][1], spans[1][1])


def is_plain_jpeg(data: bytes) -> bool:
    """Says whether this is a JPEG that every decoder of DALI reads like Pillow.

    That is a baseline, extended or progressive one with Huffman coding, 8 bits, grey or YCbCr, chroma at full, half or (across)
    a quarter of the resolution, with an end marker behind its last scan.
    Source: ITU-T T.81, B.1 and B.2; JFIF 1.02; Adobe TN 5116 (APP14) and libjpeg's `default_decompress_parms` for the colours.
    """
    position, components, rgb = 2, b"", False
    while True:
        marker, length = data[position : position + 2], int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if len(marker) < 2 or marker[0] != 0xFF or length < 2 or len(body) != length - 2:
            return False
        if marker == b"\xff\xda":
            break
        if marker == b"\xff\xee" and body.startswith(b"Adobe") and len(body) >= 12:
            rgb = body[11] == 0
        elif marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"):
            if components or len(body) < 6 or body[0] != 8 or len(body) != 6 + 3 * body[5]:
                return False
            components = body[6:]
        elif 0xC3 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8):
            return False  # arithmetic, lossless or hierarchical; 0xC4 defines Huffman tables
        position += 2 + length
    # An end marker cannot be part of a scan; one in a thumbnail stands before the scans.
    whole = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if len(components) == 3:
        return whole
    usual = components[4::3] == b"\x11\x11" and components[1:2] in (b"\x11", b"\x21", b"\x12", b"\x22", b"\x41")
    return whole and len(components) == 9 and usual and not rgb and components[::3] != b"RGB"
