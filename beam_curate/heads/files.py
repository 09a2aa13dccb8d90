"""Finds and loads the files of the scoring heads, and checks them against the CLIP model, before any work starts.

A model directory, local or on any file system that Beam knows, holds them as `beam-curate fetch-models` lays them out

    heads/sac_logos_ava1-l14-linearMSE.safetensors     aesthetic, ViT-L-14
    heads/nsfw_vit_l_14.safetensors                    NSFW, ViT-L-14
    heads/nsfw_vit_l_14_lookup.json                    its categorical lookup: with it the chain is `laion`
    heads/sa_0_4_vit_b_32_linear.safetensors, heads/nsfw_vit_b_32.safetensors, …        the same for other models

or as NeMo Curator downloads them (`ttj/…/model.safetensors`, `laion/…/clip_autokeras_binary_nsfw.pth`; no lookup
there, so the chain is `plain`). Publishers' own names and .pth files are found too, in heads/ or in the directory itself.
"""

import hashlib
import io
import json
import logging
import pickle
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_curate.heads.head import AESTHETIC, LAION, NSFW, PLAIN, Head, HeadError, head_from_state, random_head
from beam_curate.heads.nsfw_lookup import Lookup

Weights = Mapping[str, npt.NDArray[np.floating]]

AUTO: Final = "auto"
CHAINS: Final = (AUTO, LAION, PLAIN)
NONE: Final = "none"
RANDOM: Final = "random"
HEADS_DIR: Final = "heads"

# By score and CLIP model: names without ending, ours first, then the publisher's.
STEMS: Final = {
    (AESTHETIC, "ViT-L-14"): ("sac_logos_ava1-l14-linearMSE", "sac+logos+ava1-l14-linearMSE"),
    (AESTHETIC, "ViT-B-32"): ("sa_0_4_vit_b_32_linear",),
    (AESTHETIC, "ViT-B-16"): ("sa_0_4_vit_b_16_linear",),
    (NSFW, "ViT-L-14"): ("nsfw_vit_l_14", "clip_autokeras_binary_nsfw"),
    (NSFW, "ViT-B-32"): ("nsfw_vit_b_32", "clip_autokeras_nsfw_b32"),
}
# Source: nemo_curator/models/aesthetics.py and nsfw.py of github.com/NVIDIA-NeMo/Curator.
_NEMO_CURATOR: Final = {
    (AESTHETIC, "ViT-L-14"): "ttj/sac-logos-ava1-l14-linearMSE/model.safetensors",
    (NSFW, "ViT-L-14"): "laion/clip-autokeras-binary-nsfw/clip_autokeras_binary_nsfw.pth",
}
_ENDINGS: Final = (".safetensors", ".pth")

_log = logging.getLogger(__name__)


def find_heads(
    model_dir: str,
    clip_model: str,
    width: int,
    *,
    aesthetic_head: str | None = None,
    nsfw_head: str | None = None,
    nsfw_chain: str = AUTO,
    seed: int = 0,
) -> tuple[Head, ...]:
    """Finds, loads and checks the heads of a run.

    Args:
        model_dir: Where to look for a head that is not named; may be empty if all are.
        clip_model: The open_clip name of the model; a `-quickgelu` at its end makes no difference.
        width: The width of the model's embeddings.
        aesthetic_head: A file, `none` (no such score), `random` (see `random_head`), or None to look for it.
        nsfw_head: The same.
        nsfw_chain: `laion` (LAION's own, with the categorical lookup), `plain` (without it, as NeMo Curator computes
            it), or `auto`: `laion` if the lookup file lies beside the head, else `plain`.
        seed: For random heads.

    Returns:
        The heads, aesthetic before NSFW; none for a score that is turned off.

    Raises:
        HeadError: A head is missing, damaged or of another width, or a value is unknown; one line with the remedy.
    """
    if nsfw_chain not in CHAINS:
        raise HeadError(f"`nsfw_chain` is {nsfw_chain!r}; it can be {', '.join(CHAINS)}")
    heads = []
    for name, chosen in ((AESTHETIC, aesthetic_head), (NSFW, nsfw_head)):
        if chosen == NONE:
            continue
        if chosen == RANDOM:
            head = random_head(name, width, seed)
        else:
            if chosen and not _exists(chosen):
                raise HeadError(f"`{name}_head` {chosen!r} is not a file; give a file, {NONE} or {RANDOM}")
            path = chosen or _look_for(name, model_dir, clip_model)
            lookup = _lookup_of(path, nsfw_chain) if name == NSFW else None
            head = load_head(path, lookup)
        _check(head, name, clip_model, width)
        _log.info("%s head: %s", name, head.description)
        heads.append(head)
    return tuple(heads)


def load_head(path: str, lookup_path: str | None = None) -> Head:
    """Loads a head from a .safetensors or .pth file, and for the `laion` chain its lookup from a JSON file.

    Raises:
        HeadError: A file is missing, unreadable or not of a known kind, or would run code when loaded.
    """
    weights, sha256 = read_weights(path)
    lookup = _lookup(lookup_path) if lookup_path else None
    return head_from_state(weights, sha256, lookup, path)


def read_weights(path: str) -> tuple[Weights, str]:
    """Reads a .safetensors or .pth file: arrays by name, and the hex digest of the file.

    Raises:
        HeadError: The file is missing or unreadable, or would run code when loaded.
    """
    data = _read(path)
    weights = _safetensors(path, data) if path.endswith(".safetensors") else _pth(path, data)
    return weights, hashlib.sha256(data).hexdigest()


def _look_for(name: str, model_dir: str, clip_model: str) -> str:
    """The path of the first file there is of those that hold this head for this model."""
    key = name, clip_model.removesuffix("-quickgelu")
    off = f"name a file with `{name}_head`, or turn the score off with `{name}_head` none"
    if key not in STEMS:
        raise HeadError(f"no {name} head is published for {clip_model}: {off}")
    if not model_dir:
        raise HeadError(f"no {name} head is given: set `model_dir`, {off}")
    names = [stem + ending for stem in STEMS[key] for ending in _ENDINGS]
    root = model_dir.rstrip("/")
    places = [f"{root}/{HEADS_DIR}/{each}" for each in names] + [f"{root}/{each}" for each in names]
    if key in _NEMO_CURATOR:
        places.append(f"{root}/{_NEMO_CURATOR[key]}")
    for place in places:
        if _exists(place):
            return place
    raise HeadError(
        f"no {name} head for {clip_model} in {model_dir}: run beam-curate fetch-models --model_dir {model_dir} "
        f"--clip_model {clip_model}, put it at {places[0]}, {off}"
    )


def _lookup_of(path: str, chain: str) -> str | None:
    """The path of the lookup file that the chain takes for this head: beside it, named after it."""
    if chain == PLAIN:
        return None
    stem = path.rpartition(".")[0]
    places = [f"{stem}{ending}" for ending in ("_lookup.json", "_keras_lookup.json")]
    for place in places:
        if _exists(place):
            return place
    if chain == LAION:
        raise HeadError(
            f"`nsfw_chain` laion needs the lookup file {places[0]}: run beam-curate fetch-models, which makes it, or "
            "choose `nsfw_chain` plain"
        )
    _log.warning(
        "no %s: NSFW scores are computed without LAION's categorical lookup (chain 'plain', as in NeMo Curator)",
        places[0],
    )
    return None


def _check(head: Head, name: str, clip_model: str, width: int) -> None:
    if head.name != name:
        raise HeadError(f"`{name}_head` {head.file} is an {head.name} head; give it to `{head.name}_head`")
    if head.width != width:
        raise HeadError(
            f"the {name} head {head.file} is for embeddings of width {head.width}, but those of {clip_model} are of "
            f"width {width}: name a head made for {clip_model} with `{name}_head`, or none"
        )


def _exists(path: str) -> bool:
    try:
        return bool(FileSystems.exists(path))
    except (BeamIOError, ValueError, OSError) as error:
        raise HeadError(f"cannot look for {path}: {error}") from error


def _read(path: str) -> bytes:
    if not _exists(path):
        raise HeadError(f"the file {path} does not exist")
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            return bytes(file.read())
    except (BeamIOError, OSError) as error:
        raise HeadError(f"cannot read {path}: {error}") from error


def _safetensors(path: str, data: bytes) -> Weights:
    import safetensors
    import safetensors.numpy

    try:
        return dict(safetensors.numpy.load(data))
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise HeadError(
            f"{path} is damaged or not a safetensors file ({error}): delete it and fetch it again"
        ) from error


def _pth(path: str, data: bytes) -> Weights:
    """Loads a state dict with torch, weights alone: what else is in the pickle is refused, never run."""
    import torch

    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise HeadError(
            f"{path} is damaged, or more than weights (loading it would run code): use the .safetensors file that "
            f"beam-curate fetch-models makes, or save its state_dict with safetensors where you trust it "
            f"({type(error).__name__})"
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise HeadError(f"{path} is not a state dict (names to tensors): save the model's state_dict() instead")
    return {str(key): value.to(torch.float32).numpy() for key, value in loaded.items()}


def _lookup(path: str) -> Lookup:
    """Reads `{"columns": {"180": {"0.125488": 1, …}, …}}`: by column, text as `%f` prints it to rank."""
    data = _read(path)
    try:
        columns = json.loads(data)["columns"]
        vocabulary = {
            int(column): {word: int(rank) for word, rank in ranks.items()} for column, ranks in columns.items()
        }
        if not vocabulary or min(vocabulary) < 0:
            raise ValueError("it has no columns, or one below 0")
        return Lookup.from_vocabulary(vocabulary, hashlib.sha256(data).hexdigest())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeadError(f"{path} is not a lookup vocabulary ({error}): delete it and fetch it again") from error
