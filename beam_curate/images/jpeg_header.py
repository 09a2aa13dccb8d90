"""How a JPEG is coded, by its frame header. Source: ITU-T T.81, annex B, and T.87, annex C."""

from typing import Final

_FRAMES: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Markers of frame headers; between them lie tables, and one that nothing uses."""
_JPEG_LS: Final = 0xF7
_BITS: Final = range(2, 17)


def describe_unread(data: bytes) -> str | None:
    """Says what kind a JPEG is that Pillow does not open for its kind; None if it is none of these, so that it is damaged."""
    at = 2
    while data[at : at + 1] == b"\xff" and len(data) >= at + 10:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES:
            bits, components = data[at + 4], data[at + 9]
            if length != 8 + 3 * components or bits not in _BITS:
                return None
            if marker == _JPEG_LS:
                return "JPEG-LS"
            return None if bits == 8 else f"a JPEG of {bits} bits"
        at += 2 + length
    return None
