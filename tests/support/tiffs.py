"""A small writer of TIFF files of every kind: any depth, photometric, planes, byte order, tiles, and what else the tags say.

Source: TIFF 6.0 (Adobe, 1992), and Adobe's technical notes for deflate and for the floating point predictor.
"""

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
RAW, DEFLATE, PACKBITS = 1, 8, 32773
_FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 11: "f", 16: "Q"}
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_KINDS = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}


@dataclass(frozen=True)
class Tiff:
    """What a file is to be; `encode` packs a strip or tile (bytes to bytes) where `compression` is none of this file's own."""

    bits: int = 8
    photometric: int | None = RGB
    order: str = "<"
    planes: bool = False
    sample_format: int = UNSIGNED
    extra: tuple[int, ...] = ()
    compression: int = RAW
    encode: object = None
    rows: int | None = None
    tile: int | None = None
    reverse_bits: bool = False
    predictor: int = 1
    big: bool = False
    tags: dict = field(default_factory=dict)


def write_tiff(samples, kind):
    """The bytes of a TIFF of (H, W, C) samples; `kind.tags` has further tags as tag to (type, values), None leaves one out."""
    samples = np.asarray(samples)
    height, width, count = samples.shape
    layers = [samples[:, :, i : i + 1] for i in range(count)] if kind.planes else [samples]
    high, wide = (kind.tile, kind.tile) if kind.tile else (kind.rows or height, width)
    chunks = []
    for layer in layers:
        for top in range(0, height, high):
            for left in range(0, width, wide):
                part = layer[top : top + high, left : left + wide]
                if kind.tile:
                    room = ((0, high - part.shape[0]), (0, wide - part.shape[1]), (0, 0))
                    part = np.pad(part, room, mode="edge")
                chunks.append(_packed(part, kind))
    return _file(width, height, count, chunks, kind)


def _packed(part, kind):
    rows = [_row(row, kind) for row in part]
    if kind.encode:
        data = kind.encode(part, b"".join(rows))
    elif kind.compression == DEFLATE:
        data = zlib.compress(b"".join(rows))
    elif kind.compression == PACKBITS:  # of at most 128 bytes each, which are not repeated
        data = b"".join(
            bytes([len(row[at : at + 128]) - 1]) + row[at : at + 128] for row in rows for at in range(0, len(row), 128)
        )
    else:
        data = b"".join(rows)
    return data.translate(_REVERSED) if kind.reverse_bits else data


def _row(row, kind):
    """One row of (W, C) samples as bytes."""
    if kind.bits in (8, 16, 32, 64):
        row = row.astype(f"{kind.order}{_KINDS[kind.sample_format]}{kind.bits // 8}")
        if kind.predictor == 2:
            row = np.concatenate([row[:1], row[1:] - row[:-1]]).astype(row.dtype)
        if kind.predictor == 3:
            flat = row.astype(f">f{kind.bits // 8}").reshape(-1)
            planes = flat.view(np.uint8).reshape(flat.size, kind.bits // 8).T.reshape(-1)
            step = row.shape[1]
            return np.concatenate([planes[:step], planes[step:] - planes[:-step]]).tobytes()
        return row.tobytes()
    bits = (row.reshape(-1, 1).astype(np.int64) >> np.arange(kind.bits - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def _file(width, height, count, chunks, kind):
    long = 16 if kind.big else 4
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [kind.bits] * count),
        259: (3, [kind.compression]),
        277: (3, [count]),
        284: (3, [2 if kind.planes else 1]),
        339: (3, [kind.sample_format] * count),
    }
    if kind.photometric is not None:
        entries[262] = (3, [kind.photometric])
    if kind.reverse_bits:
        entries[266] = (3, [2])
    if kind.predictor != 1:
        entries[317] = (3, [kind.predictor])
    if kind.extra:
        entries[338] = (3, list(kind.extra))
    if kind.tile:
        entries |= {322: (4, [kind.tile]), 323: (4, [kind.tile])}
    else:
        entries[278] = (4, [kind.rows or height])
    entries |= kind.tags
    places, sizes = (324, 325) if kind.tile else (273, 279)
    header = 16 if kind.big else 8
    data, starts = b"", []
    for chunk in chunks:
        starts.append(header + len(data))
        data += chunk + b"\0" * (len(chunk) % 2)
    entries |= {places: (long, starts), sizes: (long, [len(chunk) for chunk in chunks])}
    return _assembled(data, {tag: entry for tag, entry in entries.items() if entry is not None}, kind)


def _assembled(data, entries, kind):
    """The header, the chunks, the long values and the directory."""
    order, inline = kind.order, 8 if kind.big else 4
    header = 16 if kind.big else 8
    rows = []
    for tag, (type, values) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(values)}{_FORMATS[type]}", *values)
        if len(value) > inline:
            at = header + len(data)
            data += value + b"\0" * (len(value) % 2)
            value = struct.pack(order + ("Q" if kind.big else "I"), at)
        rows.append(
            struct.pack(order + ("HHQ" if kind.big else "HHI"), tag, type, len(values)) + value.ljust(inline, b"\0")
        )
    directory = struct.pack(order + ("Q" if kind.big else "H"), len(rows)) + b"".join(rows) + b"\0" * inline
    mark = b"II" if order == "<" else b"MM"
    at = header + len(data)
    start = struct.pack(f"{order}HHHQ", 43, 8, 0, at) if kind.big else struct.pack(f"{order}HI", 42, at)
    return mark + start + data + directory
