"""Hashes of decoded images, read from the source shards again: of all pixels, and perceptual ones."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beam_curate.images import colours, exif, loading
from beam_curate.images.decoding import PILLOW, DecodeOptions, open_image
from beam_curate.images.errors import ImageError, pillow_errors
from beam_curate.runs.part_files import damage_named
from beam_curate.runs.score_table import AGAIN, ScoreTableError
from beam_curate.storage.files import atomic_output, exists, join
from beam_curate.storage.parquet_reading import open_parquet
from beam_curate.tars.sources import SourceReader, check_sha256

COLUMNS: Final = ("key", "shard", "image", "sha256", "members")
FOLDER: Final = "duplicates/hashes"
"""Where they lie below the output folder: a search that is made again decodes nothing."""
_HASHES: Final = [("pixels", pa.string()), ("perceptual", pa.uint64()), ("mirrored", pa.uint64())]
_SCHEMA: Final = pa.schema([("sha256", pa.string()), *_HASHES])
"""By the digest of its file an image is known again: a file of hashes may be another run's."""
_SIDE: Final = 32  # of what ImageHash transforms: four times the 8 frequencies that it looks at
_BATCH: Final = 64  # images in memory at once


@dataclass(frozen=True)
class ImageHash:
    """What an image is compared by.

    Attributes:
        pixels: Hex SHA-256 of the size and the (H, W, 3) uint8 RGB pixels, upright.
        perceptual: The pHash of 64 bits.
        mirrored: That of its mirror image.
    """

    pixels: str
    perceptual: int
    mirrored: int


class _Candidate(NamedTuple):
    """An image to hash: whose it is, what it must be, and its span in the shard."""

    key: str
    shard: str
    sha256: str
    span: tuple[int, int]

    @classmethod
    def of(cls, key: str, shard: str, image: str, sha256: str, members: Sequence[Mapping[str, Any]]) -> "_Candidate":
        """From the values of COLUMNS."""
        ((start, size),) = [(each["offset"], each["size"]) for each in members if each["suffix"] == image]
        return cls(key, shard, sha256, (start, size))


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
    return ImageHash(digest.hexdigest(), *perceptual_hashes(upright))


def perceptual_hashes(image: Image.Image) -> tuple[int, int]:
    """The pHashes of an RGB image and of its mirror image: 64 bits each.

    Source: the package ImageHash, `phash` with its defaults: the signs of the 8 x 8 lowest frequencies of the image's
    luma at 32 x 32, against their median.
    """
    import imagehash

    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)  # as it does itself, once for both
    found = [imagehash.phash(one).hash for one in (small, small.transpose(Image.Transpose.FLIP_LEFT_RIGHT))]
    perceptual, mirrored = (int.from_bytes(np.packbits(bits.reshape(-1)).tobytes(), "big") for bits in found)
    return perceptual, mirrored


def hashes_name(shard_index: int, foreign: bool) -> str:
    """The path of the hashes of a shard's candidates, below the output folder."""
    return f"{FOLDER}/{'other' if foreign else 'part'}-{shard_index:05d}.parquet"


def make_hashes(output: str, name: str, rows: pa.Table, max_pixels: int, threads: int) -> pa.Table:
    """The hashes of the images of rows: those in the file if it is of these images, or they are made and written there.

    Images that could not be decoded have null hashes: they were decoded once, by another decoder or with another limit.

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
            there = read_hashes(output, name)
            if there.column("sha256").equals(rows.column("sha256")):
                return there
    samples = [_Candidate.of(*row) for row in zip(*(rows.column(name).to_pylist() for name in COLUMNS), strict=True)]
    order = sorted(range(len(samples)), key=lambda place: samples[place].span)  # links point back
    with ThreadPoolExecutor(threads) as pool:
        batches = _batches([samples[place] for place in order])
        found = [one for batch in batches for one in pool.map(lambda data: _hash(data, max_pixels), batch)]
    hashes: list[ImageHash | None] = [None] * len(samples)
    for place, one in zip(order, found, strict=True):
        hashes[place] = one
    columns = [pa.array([one and getattr(one, name) for one in hashes], kind) for name, kind in _HASHES]
    made = pa.table([rows.column("sha256"), *columns], schema=_SCHEMA)
    with atomic_output(output, name) as stream:
        pq.write_table(made, stream)
    return made


def read_hashes(output: str, name: str) -> pa.Table:
    """The hashes of a part's candidates, in their order.

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


def _batches(samples: Sequence[_Candidate]) -> Iterator[Sequence[bytes]]:
    """The image members of rows, in batches."""
    with SourceReader() as source:
        if samples:
            source.expect(samples[0].shard, [sample.span for sample in samples])
        for start in range(0, len(samples), _BATCH):
            yield [_read(source, sample) for sample in samples[start : start + _BATCH]]


def _read(source: SourceReader, sample: _Candidate) -> bytes:
    data = source.read(sample.shard, *sample.span)  # the digest tells more than the member's name
    check_sha256(data, sample.sha256, sample.key, sample.shard)
    return data
