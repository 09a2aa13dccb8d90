"""Input of the benchmarks: WebDataset shards of photographs, written as JPEG in code.

The photographs are those inside the scikit-image wheel, read as files. Cropped, mirrored, resized and saved at quality
90 they give 36 different images, which repeat under unique keys: about 100 KB each at 640 x 480.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from PIL import Image

SIZES: Final = {"S": (640, 480), "M": (1024, 768)}
"""Width and height in pixels."""
BATCH: Final = 32
"""Images of a batch of every model that a benchmark runs; shards hold whole batches, or the bare model runs smaller ones."""

_PHOTOS: Final = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "rocket.jpg",
)
_QUALITY: Final = 90


def photo_jpegs(size: str) -> list[bytes]:
    """Makes the different images of a size (`S` or `M`): 4:2:0 JPEGs, in an order that mixes the photographs."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("error: scikit-image is not installed; its photographs are used: pip install scikit-image")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    jpegs = []
    for crop in (0.0, 0.15):
        for mirrored in (False, True):
            for name in _PHOTOS:
                photo = Image.open(folder / name).convert("RGB")
                left, upper = round(crop * photo.width), round(crop * photo.height)
                image = photo.resize(
                    SIZES[size], Image.Resampling.LANCZOS, box=(left, upper, photo.width, photo.height)
                )
                if mirrored:
                    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=_QUALITY)
                jpegs.append(buffer.getvalue())
    return jpegs


def write_shards(folder: Path, size: str, shards: int, per_shard: int) -> list[Path]:
    """Writes `shards` tars of `per_shard` samples, each a .jpg, a .txt and a .json, and gives their paths in order."""
    jpegs = photo_jpegs(size)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{shard:05d}.tar" for shard in range(shards)]
    for shard, path in enumerate(paths):
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for number in range(shard * per_shard, (shard + 1) * per_shard):
                for suffix, data in _members(number, jpegs[number % len(jpegs)]):
                    info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return paths


def _members(number: int, jpeg: bytes) -> Iterator[tuple[str, bytes]]:
    yield "jpg", jpeg
    yield "txt", f"Photograph number {number}, with a caption of an ordinary length.".encode()
    yield "json", json.dumps({"url": f"https://example.org/{number}.jpg", "number": number}).encode()
