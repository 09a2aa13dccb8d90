"""The scoring heads as their publishers have them: where, with which checksum, and which scores they must give."""

import os
import urllib.parse
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from beam_curate.heads.files import load_head, read_weights
from beam_curate.heads.head import AESTHETIC, NSFW, HeadError
from beam_curate.heads.saved_model import read_nsfw_zip, write_vocabulary
from beam_curate.heads.tf_checkpoint import FormatError

_TOLERANCE: Final = 1e-4
# Chosen so that the NSFW scores are not all near 0, and the two chains differ.
_ROWS: Final = (89, 549, 765, 1138, 1167, 1883)


@dataclass(frozen=True)
class PublishedHead:
    """A head as its publisher has it, at a fixed commit.

    Attributes:
        path: Its path on GitHub's server of raw files.
        sha256: The hex digest of that file.
        scores: Of the fixed embeddings; for an NSFW head by the `laion` chain.
        plain_scores: The same by the `plain` chain.
    """

    path: str
    sha256: str
    scores: tuple[float, ...]
    plain_scores: tuple[float, ...] = ()

    @property
    def file_name(self) -> str:
        """The last part of the path, as a file is called."""
        return urllib.parse.unquote(self.path.rpartition("/")[2])


_IMPROVED: Final = "/christophschuhmann/improved-aesthetic-predictor/6934dd81792f086e613a121dbce43082cb8be85e"
_LINEAR: Final = "/LAION-AI/aesthetic-predictor/6d122adad522ab246644d9dc1c6d7a3810ee255f"
_DETECTOR: Final = "/LAION-AI/CLIP-based-NSFW-Detector/d6bb8fe31fd4aecbfed7dfb62df4fe5858bfc014"

PUBLISHED: Final = {
    (AESTHETIC, "ViT-L-14"): PublishedHead(
        f"{_IMPROVED}/sac%2Blogos%2Bava1-l14-linearMSE.pth",
        "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        (6.703275, 4.814396, 6.096368, 4.91394, 5.416347, 4.756082),
    ),
    (AESTHETIC, "ViT-B-32"): PublishedHead(
        f"{_LINEAR}/sa_0_4_vit_b_32_linear.pth",
        "c7b14cead230694acc7b9447974d3cad78003c72da032e402a303b6c2429e85f",
        (4.351235, 0.872933, 3.543071, 0.620559, 4.47306, 4.556306),
    ),
    (AESTHETIC, "ViT-B-16"): PublishedHead(
        f"{_LINEAR}/sa_0_4_vit_b_16_linear.pth",
        "8ad3923d7ecf019df20ecd2ab5542a3075fbba0278d239c0371345f3d7fcbde0",
        (5.143196, 2.635111, 5.133895, 1.190941, 2.984557, 2.754891),
    ),
    (NSFW, "ViT-L-14"): PublishedHead(
        f"{_DETECTOR}/clip_autokeras_binary_nsfw.zip",
        "905520bb0336accc73ee282c605d926aef90cf14248889d44b9cee50eef71f8a",
        (0.488106, 0.492889, 0.018993, 0.335856, 0.005739, 0.391199),
        (0.57248, 0.612299, 0.020123, 0.498863, 0.008053, 0.45001),
    ),
    (NSFW, "ViT-B-32"): PublishedHead(
        f"{_DETECTOR}/clip_autokeras_nsfw_b32.zip",
        "78715ab9d64485167e8c9ade3b8e6761a17a16c24d114bd47431ac1dab46462b",
        (0.012546, 0.0, 0.254217, 0.0, 0.69353, 0.529807),
        (0.012546, 0.0, 0.495499, 0.0, 0.835864, 0.529799),
    ),
}


def fixed_embeddings(width: int) -> npt.NDArray[np.float16]:
    """Makes a few embeddings that are the same everywhere: (6, width), L2-normalised, from whole numbers alone."""
    row, column = np.array(_ROWS)[:, None], np.arange(width)
    numbers = (7919 * row + (row + 1) * (column + 1) * (column + 3) * 31) % 2003 - 1001.0
    unit: npt.NDArray[np.float64] = numbers / np.sqrt((numbers**2).sum(axis=1, keepdims=True))
    return unit.astype(np.float16)


def convert(source: Path, target: Path) -> None:
    """Writes a published head (.pth, or a zip with a Keras SavedModel) as safetensors, an NSFW lookup beside it.

    Raises:
        HeadError: The published file is not as expected.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".zip":
        try:
            with zipfile.ZipFile(source) as archive:
                state, vocabulary = read_nsfw_zip(archive)
        except (FormatError, zipfile.BadZipFile) as error:
            raise HeadError(f"{source} cannot be converted: {error}") from error
        _replace(_lookup_path(target), write_vocabulary(vocabulary))
        _replace(target, save(state))
    else:
        weights, _ = read_weights(str(source))
        _replace(target, save(dict(weights)))


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def _lookup_path(target: Path) -> Path:
    return target.with_name(f"{target.stem}_lookup.json")


def problem(target: Path, published: PublishedHead) -> str:
    """Says what is wrong with a converted head; nothing if its scores of the fixed embeddings are right."""
    if not target.exists():
        return "it is not there"
    chains = [(published.scores, str(_lookup_path(target)) if published.plain_scores else None)]
    if published.plain_scores:
        chains.append((published.plain_scores, None))
    try:
        for expected, lookup in chains:
            head = load_head(str(target), lookup)
            scores = head.score(fixed_embeddings(head.width))
            worst = float(np.abs(scores - np.array(expected)).max())
            if not worst <= _TOLERANCE:
                return f"its scores of fixed embeddings are off by up to {worst:.3g}"
    except HeadError as error:
        return str(error)
    return ""
