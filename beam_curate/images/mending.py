"""Bytes that lost no pixel and that Pillow refuses (spoilt chunks of a PNG, a JPEG without its last marker), and the reverse.

Browsers show these pictures. What is mended here is what can be shown to be whole. The reverse: of a PNG's pixels Pillow does not
check the chunks' checksums, so that zeros in place of the rest, as after a download that broke, were black or grey pixels.
"""

import struct
import zlib
from typing import Final

from PIL import Image, PngImagePlugin

from beam_curate.images.errors import DamagedImageError

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_EXIF_TEXT: Final = b"Raw profile type exif\0"
"""The keyword under which ImageMagick stores EXIF data: the one text that is looked into."""

_MAX_UNPACKED: Final = 8_000_000
"""Bytes of a profile or a text when unpacked. Source: libpng's PNG_USER_CHUNK_MALLOC_MAX; Pillow alone takes 1 MiB."""

_EOI, _SOS = b"\xff\xd9", b"\xff\xda"
_FRAMES: Final = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2")
_NEAR_END: Final = 64
_HOLE: Final = bytes(512)

PngImagePlugin.MAX_TEXT_CHUNK = _MAX_UNPACKED


def without_spoilt_chunks(data: bytes) -> bytes:
    """Leaves out the chunks of a PNG that say nothing about its pixels and for which Pillow refuses the whole.

    These are, as with libpng: chunks that a reader may skip (a small first letter) and whose checksum is wrong, and profiles
    and texts of more than 8 MB when unpacked. Other texts are left out too, since nobody here reads them.

    Args:
        data: The encoded image, of any format.

    Returns:
        The PNG without those chunks; the same bytes object where nothing is left out.

    Raises:
        DamagedImageError: A chunk of pixels is not what was written.
    """
    if not data.startswith(_PNG):
        return data
    pieces, start, at = [], 0, len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        stored = int.from_bytes(data[end - 4 : end], "big")
        content = memoryview(data)[at + 8 : end - 4]
        if kind == b"IDAT" and zlib.crc32(content, zlib.crc32(kind)) != stored:
            raise DamagedImageError(
                f"the checksum of the PNG's pixels is wrong in the chunk at byte {at} of {len(data)}"
            )
        if kind[0] & 0x20 and _is_spoilt(kind, bytes(content), stored):
            pieces.append(data[start:at])
            start = end
        at = end
    return b"".join([*pieces, data[start:]]) if pieces else data


def _is_spoilt(kind: bytes, content: bytes, stored: int) -> bool:
    if kind == b"iTXt" or (kind in (b"tEXt", b"zTXt") and not content.startswith(_EXIF_TEXT)):
        return True
    if zlib.crc32(content, zlib.crc32(kind)) != stored:
        return True
    if kind not in (b"iCCP", b"zTXt"):
        return False
    packed = content.partition(b"\0")[2][1:]  # behind the name and the number of the method
    try:
        return len(zlib.decompressobj().decompress(packed, _MAX_UNPACKED + 1)) > _MAX_UNPACKED
    except zlib.error:
        return False  # Pillow ignores it


def with_end(data: bytes, components: int) -> bytes:
    """Gives a JPEG its end marker back if that is all that it lacks.

    It is so where one scan holds all components and libjpeg-turbo decodes it without a warning. Of a JPEG of several scans
    (progressive ones) nobody can tell whether another should follow.

    Args:
        data: A JPEG whose size is within the limits: it is decoded.
        components: How many its header names.

    Returns:
        The JPEG with its end; the same bytes object where it has one, or lacks more.
    """
    if _EOI in data[-_NEAR_END:] or data.find(_EOI, scan := data.rfind(_SOS)) >= 0:
        return data
    if data.count(_SOS, data.rfind(b"\xff\xc0")) != 1 or data[scan + 4 : scan + 5] != bytes([components]):
        return data
    ended = data + (_EOI[1:] if data.endswith(_EOI[:1]) else _EOI)
    return ended if _decodes(ended) else data


def refuse_hole(image: Image.Image, data: bytes) -> None:
    """Refuses an image of which a part never came: zeros in place of compressed pixels, which decoders show as some colours.

    In a JPEG zeros may be pixels of one colour, so libjpeg-turbo must find damage besides. VP8, the lossy WebP, is coded by
    arithmetic, which gives no such rows of zeros. In other formats a hole either fails already or cannot be told.

    Args:
        image: The opened image, whose size is within the limits: a JPEG with zeros is decoded.
        data: Its bytes.

    Raises:
        DamagedImageError: At least 512 bytes, a block of a disk or of a tar, are zero.
    """
    if image.format not in ("JPEG", "WEBP") or _HOLE not in data:
        return
    if image.format == "WEBP":
        start = data.find(b"VP8 ", 12)
        end = start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        at = data.find(_HOLE, start)
        damaged = 0 <= start < at and at + len(_HOLE) <= end
    else:
        at = data.find(_HOLE, max(data.rfind(frame) for frame in _FRAMES))
        damaged = at >= 0 and image.mode in ("RGB", "L") and not _decodes(data)
    if damaged:
        raise DamagedImageError(
            f"a hole in the {image.format}: {len(_HOLE)} bytes or more from byte {at} of {len(data)} are zero"
        )


def _decodes(data: bytes) -> bool:
    """Whether libjpeg-turbo decodes a JPEG without a warning."""
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, "GRAY", strict=True)
    except ValueError:  # what simplejpeg raises for every error and every warning of libjpeg
        return False
    return True
