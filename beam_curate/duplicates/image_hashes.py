"""Hashes of decoded images, read from the source shards again: of all pixels, and perceptual ones."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beam_curate.duplicates.spilling import WORK
from beam_curate.images import colours, exif, loading
from beam_curate.images.decoding import PILLOW, DecodeOptions, open_image
from beam_curate.images.errors import ImageError, pillow_errors
from beam_curate.runs.part_files import damage_named
from beam_curate.runs.score_table import AGAIN, ScoreTableError
from beam_curate.storage.files import atomic_output, exists, join
from beam_curate.storage.parquet_reading import open_parquet
from beam_curate.tars.sources import SourceReader, check_sha256

COLUMNS: Final = ("key", "shard", "image", "sha256", "members")
_SCHEMA: Final = pa.schema([("pixels", pa.string()), ("perceptual", pa.uint64())])
_BATCH: Final = 64  # images in memory at once


@dataclass(frozen=True)
class ImageHash:
    """What an image is compared by.

    Attributes:
        pixels: Hex SHA-256 of the size and the (H, W, 3) uint8 RGB pixels, upright.
        perceptual: The pHash of 64 bits.
    """

    pixels: str
    perceptual: int


def hash_image(data: bytes, max_pixels: int) -> ImageHash:
    """Decodes an image as a person would see it, at its full size, and hashes it.

    Raises:
        ImageError: It cannot be decoded.
    """
    options = DecodeOptions(decoder=PILLOW, extract_exif=False, max_pixels=max_pixels)
    image, data, orientation, facts = open_image(data, options)
    with pillow_errors(facts):
        loading.load(image, data)
        upright = exif.turn_upright(colours.to_rgb(image), orientation)
    digest = hashlib.sha256(b"%dx%d " % upright.size)
    digest.update(upright.tobytes())
    return ImageHash(digest.hexdigest(), perceptual_hash(upright))


def perceptual_hash(image: Image.Image) -> int:
    """The pHash of an RGB image: 64 bits.

    Source: the package ImageHash, `phash` with its defaults: the signs of the 8 x 8 lowest frequencies of the image's
    luma at 32 x 32, against their median.
    """
    import imagehash

    bits = imagehash.phash(image).hash
    return int.from_bytes(np.packbits(bits.reshape(-1)).tobytes(), "big")


def hashes_name(shard_index: int, foreign: bool) -> str:
    """The path of the hashes of a shard's candidates, below the output folder."""
    return f"{WORK}/{'other-' if foreign else ''}hashes-{shard_index:05d}.parquet"


def write_hashes(output: str, name: str, rows: pa.Table, max_pixels: int, threads: int) -> int:
    """Hashes the images of rows, unless that was done before; gives the number of images that could not be decoded.

    These have null hashes: they were decoded once, by another decoder or with another limit.

    Args:
        output: Folder.
        name: Of the file, see `hashes_name`.
        rows: COLUMNS of the candidates of a part, in their order.
        max_pixels: Images of more are not decoded.
        threads: Images that are decoded at once.

    Raises:
        SourceChangedError: A source is no longer what was scored.
    """
    if exists(join(output, name)):
        with contextlib.suppress(ScoreTableError):  # damaged: they are made again
            return read_hashes(output, name).column("pixels").null_count
    samples: list[dict[str, Any]] = rows.to_pylist()
    order = sorted(range(len(samples)), key=lambda place: _span(samples[place]))  # links point back
    with ThreadPoolExecutor(threads) as pool:
        batches = _batches([samples[place] for place in order])
        found = [one for batch in batches for one in pool.map(lambda data: _hash(data, max_pixels), batch)]
    hashes: list[ImageHash | None] = [None] * len(samples)
    for place, one in zip(order, found, strict=True):
        hashes[place] = one
    columns = {
        "pixels": pa.array([one and one.pixels for one in hashes], pa.string()),
        "perceptual": pa.array([one and one.perceptual for one in hashes], pa.uint64()),
    }
    with atomic_output(output, name) as stream:
        pq.write_table(pa.table(columns), stream)
    return columns["pixels"].null_count


def read_hashes(output: str, name: str) -> pa.Table:
    """The columns `pixels` and `perceptual` of a part's candidates, in their order.

    Raises:
        ScoreTableError: The file is damaged.
        StorageError: It cannot be read.
    """
    path = join(output, name)
    with damage_named(path), open_parquet(path) as file:
        found = file.read()
    if found.schema != _SCHEMA:
        raise ScoreTableError(f"{path} is damaged: its columns are {found.column_names}; {AGAIN}")
    return found


def _hash(data: bytes, max_pixels: int) -> ImageHash | None:
    try:
        return hash_image(data, max_pixels)
    except ImageError:
        return None


def _batches(samples: Sequence[dict[str, Any]]) -> Iterator[Sequence[bytes]]:
    """The image members of rows, in batches."""
    with SourceReader() as source:
        if samples:
            source.expect(samples[0]["shard"], [_span(sample) for sample in samples])
        for start in range(0, len(samples), _BATCH):
            yield [_read(source, sample) for sample in samples[start : start + _BATCH]]


def _span(sample: dict[str, Any]) -> tuple[int, int]:
    (member,) = [member for member in sample["members"] if member["suffix"] == sample["image"]]
    return member["offset"], member["size"]


def _read(source: SourceReader, sample: dict[str, Any]) -> bytes:
    data = source.read(sample["shard"], *_span(sample))  # the digest tells more than the member's name
    check_sha256(data, sample["sha256"], sample["key"], sample["shard"])
    return data
