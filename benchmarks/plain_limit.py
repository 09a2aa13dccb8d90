"""The least that a file needs, in the plainest code: the CPU time that libraries alone take for what the pipeline does.

Each shard is read once and written once: image, caption and JSON; sha256 of each image, md5 of each tar, and a row of a
Parquet file with the embedding, as the score table has it. Nothing is checked, and a bad image ends it.
"""

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import torch
from photo_shards import BATCH
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, resize

from beam_curate.threads import usable_cores

_SIDE: Final = 224

Embed = Callable[[np.ndarray], np.ndarray]
"""(N, S, S, 3) uint8 to (N, D) float16."""

_embeds: list[Embed] = []


def run_limit(paths: Sequence[str], embed: Embed) -> None:
    """Reads and writes shards in a process per core, and deletes what was written."""
    with (
        tempfile.TemporaryDirectory(prefix="beam-curate-bench-") as output,
        get_context("fork").Pool(usable_cores(), _embeds.append, (embed,)) as processes,
    ):
        targets = [Path(output, Path(path).name) for path in paths]
        processes.starmap(_copy, zip(paths, targets, strict=True), chunksize=1)
        # Not ended by a signal, as the block does it: only what has been waited for counts as CPU time.
        processes.close()
        processes.join()


def _copy(path: str, target: Path) -> None:
    names, digests, images, embeddings = [], [], [], []
    with tarfile.open(path) as source, tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as copy:
        for member in source:
            data = source.extractfile(member).read()
            copy.addfile(member, io.BytesIO(data))
            if member.name.endswith(".jpg"):
                names.append(member.name)
                digests.append(hashlib.sha256(data).hexdigest())
                images.append(_seen(data))
                if len(images) == BATCH:
                    embeddings.append(_embeds[-1](np.stack(images)))
                    images.clear()
    if images:
        embeddings.append(_embeds[-1](np.stack(images)))
    hashlib.md5(target.read_bytes())
    matrix = np.concatenate(embeddings)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
    table = pa.table({"key": names, "sha256": digests, "embedding": vectors})
    pq.write_table(table, target.with_suffix(".parquet"), compression="zstd", compression_level=1)


def _seen(data: bytes) -> np.ndarray:
    """Resizes the shorter side and crops the centre, as open_clip does, with torchvision's kernel for uint8."""
    image = torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB")).permute(2, 0, 1)
    resized = resize(image, [_SIDE], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return center_crop(resized, [_SIDE]).permute(1, 2, 0).numpy()
