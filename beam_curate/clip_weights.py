"""Where the weights of a CLIP visual tower come from, and how they are read: visual tensors only, one at a time.

`pretrained` names, in this order of precedence:

- `random`: seeded random weights, for trying things out; embeddings and scores then mean nothing;
- an open_clip pretrained tag of the model (`openai`, `laion2b_s32b_b82k`, ...): looked up in `model_dir` if that is
  given, else downloaded from the Hugging Face hub into its cache;
- a file: `.safetensors`, or a `torch.save` file (`.pt`, `.pth`, `.bin`), read with `weights_only=True`;
- a directory that holds a checkpoint, as open_clip or transformers publish it, or a models directory that holds one
  in one of the places that `model_dir_places` lists (NeMo Curator's `openai/clip-vit-large-patch14` is one of them).

A directory is told from a tag of the same name by a path separator: `./openai`. Names and shapes in a checkpoint are
open_clip's (`visual.*`) or those of transformers' CLIPModel (`vision_model.*`, `visual_projection.weight`), which are
mapped to open_clip's.
"""

import difflib
import hashlib
import json
import logging
import os
import pickle
import socket
import urllib.parse
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import open_clip
import torch
from open_clip import pretrained as tags
from safetensors import SafetensorError, safe_open

_LOG = logging.getLogger(__name__)

RANDOM: Final = "random"
OPEN_CLIP_CONFIG: Final = "open_clip_config.json"
# In order of preference; the names are those that open_clip and transformers publish under.
CHECKPOINT_NAMES: Final = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
# Where transformers keeps OpenAI's models. Source: https://huggingface.co/openai
_OPENAI_HUB: Final = {
    "ViT-B-32": "openai/clip-vit-base-patch32",
    "ViT-B-16": "openai/clip-vit-base-patch16",
    "ViT-L-14": "openai/clip-vit-large-patch14",
    "ViT-L-14-336": "openai/clip-vit-large-patch14-336",
}
# open_clip's own loader drops these three entries: only OpenAI's released checkpoints have them.
# Source: open_clip 3.3, model.build_model_from_openai_state_dict.
_OPENAI_MARKERS: Final = frozenset({"input_resolution", "context_length", "vocab_size"})
_BLOCK_PARTS: Final = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


class WeightsError(ValueError):
    """The weights asked for cannot be had: the message names the option, its value and the remedy."""


@dataclass(frozen=True)
class WeightsSource:
    """Weights found, not yet read: exactly one of `seed` (random), `path` (a file here) and `tag` is set.

    `quick_gelu` is what the source says of its activation (None: nothing), `said_by` who says it. `preprocess` holds
    those of mean, std, interpolation and resize_mode that the source prescribes.
    """

    clip_model: str
    pretrained: str
    seed: int | None = None
    path: str = ""
    tag: str = ""
    quick_gelu: bool | None = None
    said_by: str = ""
    preprocess: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """`random:<seed>`, `sha256:<hex digest of the file>`, or `tag:<model>/<tag>` while not yet fetched.

        Reads the whole file (about 1 s per GB).
        """
        if self.seed is not None:
            return f"{RANDOM}:{self.seed}"
        if not self.path:
            return f"tag:{self.clip_model}/{self.tag}"
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return f"sha256:{digest.hexdigest()}"


def _did_you_mean(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(sorted(known))}"


def model_config(clip_model: str) -> tuple[str, dict[str, Any]]:
    """Looks up open_clip's configuration of a model.

    Returns:
        The model's name as open_clip keeps it (`ViT-L/14` becomes `ViT-L-14`) and its configuration, a fresh copy.

    Raises:
        WeightsError: For an unknown name; lists close ones.
    """
    name = clip_model.replace("/", "-")
    if name not in open_clip.list_models():
        raise WeightsError(
            f"clip_model={clip_model!r} is no open_clip model: {_did_you_mean(name, open_clip.list_models())}"
        )
    return name, open_clip.get_model_config(name)


def model_dir_places(clip_model: str, tag: str) -> list[str]:
    """Lists the folders, relative to a models directory, where the weights of a model and tag are looked for.

    `<model>/<tag>` first, then the name of the hub repository that open_clip downloads the tag from, then, for tag
    `openai`, transformers' repository, which is where NeMo Curator puts it.
    """
    places = [f"{clip_model}/{tag}"]
    hub = tags.get_pretrained_cfg(clip_model, tag).get("hf_hub", "")
    if hub:
        places.append(hub.rpartition("/")[0])
    base = clip_model.removesuffix("-quickgelu")
    if tag == "openai" and base in _OPENAI_HUB:
        places.append(_OPENAI_HUB[base])
    return places


def find_weights(clip_model: str, pretrained: str, *, model_dir: str | None = None, seed: int = 0) -> WeightsSource:
    """Finds the weights that `pretrained` names, without network and without reading tensors.

    Args:
        clip_model: A model name of open_clip.
        pretrained: See the module's text.
        model_dir: A models directory, where a tag is looked for before the hub.
        seed: The seed of `random`.

    Raises:
        WeightsError: For an unknown model, tag or path, for a directory without a checkpoint or with several, and
            for a checkpoint whose configuration is another model's.
    """
    name, _ = model_config(clip_model)
    if pretrained == RANDOM:
        return WeightsSource(name, pretrained, seed=seed)
    record = tags.get_pretrained_cfg(name, pretrained)
    if record:
        # Every tag's record is complete: a tag without `quick_gelu` was trained with GELU.
        found = WeightsSource(
            name,
            pretrained,
            tag=pretrained,
            quick_gelu=bool(record.get("quick_gelu", False)),
            said_by=f"open_clip's record of the tag {pretrained!r}",
            preprocess=_preprocess(record),
        )
        local = _in_models_dir(Path(model_dir), name, [pretrained]) if model_dir else []
        return _at_path(found, local[0]) if local else found
    path = Path(pretrained)
    if path.is_file():
        return _at_path(WeightsSource(name, pretrained), path)
    if pretrained and path.is_dir():
        return _at_path(WeightsSource(name, pretrained), _in_directory(path, name))
    known = open_clip.list_pretrained_tags_by_model(name)
    remedy = "copy it to a local path first" if "://" in pretrained else _did_you_mean(pretrained, [*known, RANDOM])
    raise WeightsError(
        f"pretrained={pretrained!r} is neither a pretrained tag of {name} nor an existing file or directory: {remedy}"
    )


def _in_directory(path: Path, name: str) -> Path:
    found = _checkpoints(path)
    if found:
        return found[0]
    known = open_clip.list_pretrained_tags_by_model(name)
    found = _in_models_dir(path, name, known)
    if not found:
        raise WeightsError(
            f"pretrained={str(path)!r} holds none of {', '.join(CHECKPOINT_NAMES)}, nor do its folders for {name} "
            f"({', '.join(model_dir_places(name, known[0] if known else 'TAG'))}, ...): name the file itself"
        )
    if len({file.parent for file in found}) > 1:
        raise WeightsError(f"pretrained={str(path)!r} holds several weights of {name}, name one: {found}")
    return found[0]


def _checkpoints(folder: Path) -> list[Path]:
    return [folder / name for name in CHECKPOINT_NAMES if (folder / name).is_file()]


def _in_models_dir(models: Path, name: str, known: Collection[str]) -> list[Path]:
    places = {place: None for tag in known for place in model_dir_places(name, tag)}
    return [file for place in places for file in _checkpoints(models / place)[:1]]


def _preprocess(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("mean", "std", "interpolation", "resize_mode") if record.get(key) is not None}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no JSON object: fetch it again")
    return content


def _at_path(source: WeightsSource, path: Path) -> WeightsSource:
    """Completes a source with a file and with what the files beside it, or its own names, say of it."""
    source = replace(source, path=str(path))
    config_path = path.parent / (OPEN_CLIP_CONFIG if path.name.startswith("open_clip") else "config.json")
    preprocess: dict[str, Any] = {}
    said: bool | None = None
    if path.name in CHECKPOINT_NAMES and config_path.is_file():
        config = _json(config_path)
        if config_path.name == OPEN_CLIP_CONFIG:
            said = bool(config.get("model_cfg", {}).get("quick_gelu", False))
            preprocess = _preprocess(config.get("preprocess_cfg", {}))
            _check_open_clip(source.clip_model, config, config_path)
        else:
            # transformers leaves the default of CLIPVisionConfig.hidden_act, quick_gelu, out of older files.
            said = config.get("vision_config", config).get("hidden_act", "quick_gelu") == "quick_gelu"
            _check_transformers(source.clip_model, config, config_path)
            processor = path.parent / "preprocessor_config.json"
            if processor.is_file():
                record = _json(processor)
                preprocess = _preprocess({"mean": record.get("image_mean"), "std": record.get("image_std")})
    if source.quick_gelu is not None:  # a tag's record stands above what lies beside the file
        return source
    said_by = str(config_path)
    if not said and ("openai" in path.name.lower() or _checkpoint_names(str(path)) >= _OPENAI_MARKERS):
        said, said_by = True, f"{path.name} is a checkpoint of OpenAI's"
    return replace(source, quick_gelu=said, said_by=said_by if said is not None else "", preprocess=preprocess)


def _check_open_clip(name: str, config: Mapping[str, Any], path: Path) -> None:
    theirs = config.get("model_cfg", {})
    _, ours = model_config(name)

    def shape(model: Mapping[str, Any]) -> tuple[Any, Any]:
        vision = {**model.get("vision_cfg", {}), "timm_model_pretrained": False, "output_tokens": False}
        return model.get("embed_dim"), open_clip.CLIPVisionCfg(**vision)

    if theirs and shape(theirs) != shape(ours):
        raise WeightsError(f"{path} describes another visual tower than clip_model={name!r}: name the model it is of")


def _check_transformers(name: str, config: Mapping[str, Any], path: Path) -> None:
    # Shapes alone do not show the number of heads, so the configuration is compared.
    _, ours = model_config(name)
    cfg = open_clip.CLIPVisionCfg(**ours["vision_cfg"])
    theirs = config.get("vision_config", config)
    # Source of the defaults: transformers' CLIPVisionConfig (which leaves them out of older files).
    pairs = {
        "model_type": (config.get("model_type", "clip") in ("clip", "clip_vision_model"), True),
        "hidden_size": (theirs.get("hidden_size", 768), cfg.width),
        "num_hidden_layers": (theirs.get("num_hidden_layers", 12), cfg.layers),
        "num_attention_heads": (theirs.get("num_attention_heads", 12), cfg.width // cfg.head_width),
        "patch_size": (theirs.get("patch_size", 32), cfg.patch_size),
        "image_size": (theirs.get("image_size", 224), cfg.image_size),
        "projection_dim": (config.get("projection_dim", 512), ours["embed_dim"]),
    }
    wrong = [f"{key} {have} instead of {want}" for key, (have, want) in pairs.items() if have != want]
    if wrong:
        raise WeightsError(f"{path} is not of clip_model={name!r} ({', '.join(wrong)}): name the model it is of")


def hub_reachable(timeout: float = 5.0) -> bool:
    """Tells whether the Hugging Face hub answers: at most `timeout` seconds; true behind a proxy, without trying."""
    endpoint = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT)
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.create_connection((endpoint.hostname or "", endpoint.port or 443), timeout=timeout).close()
    except OSError:
        return False
    return True


def fetch_weights(source: WeightsSource) -> WeightsSource:
    """Downloads the weights of a tag, unless they are here already; other sources come back as they are.

    Raises:
        WeightsError: When the hub cannot be reached or refuses; says which file to put where.
    """
    if source.path or source.seed is not None:
        return source
    record = tags.get_pretrained_cfg(source.clip_model, source.tag)
    repository, _, file = record.get("hf_hub", "").rpartition("/")
    wanted = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    for name in wanted if repository else []:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return replace(source, path=cached)
    reason = "the hub does not answer"
    if not repository or hub_reachable():
        try:
            return replace(source, path=tags.download_pretrained(record))
        except (OSError, RuntimeError, ValueError) as error:  # no network, a refusal, a checksum that differs
            reason = str(error)
    where = f"https://huggingface.co/{repository}" if repository else record.get("url", "")
    place = model_dir_places(source.clip_model, source.tag)[0]
    raise WeightsError(
        f"pretrained={source.tag!r}: the weights of {source.clip_model} could not be downloaded from {where} "
        f"({reason}). Where there is a network, fetch {wanted[0]} from there, put it into MODELS/{place}/ as "
        f"{CHECKPOINT_NAMES[0] if wanted[0].endswith('.safetensors') else CHECKPOINT_NAMES[2]}, and give "
        "model_dir=MODELS; or name a file with pretrained"
    )


@contextmanager
def _opened(path: str) -> Iterator[tuple[list[str], Callable[[str], torch.Tensor]]]:
    """Opens a checkpoint as its names and a function that reads one tensor."""
    if path.endswith(".safetensors"):
        try:
            opened = safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise WeightsError(f"{path} is no complete safetensors file ({error}): fetch it again") from error
        with opened as file:
            yield list(file.keys()), file.get_tensor
        return
    state = _torch_state(path)
    yield list(state), state.__getitem__


def _torch_state(path: str) -> dict[str, torch.Tensor]:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if scripted:
            raise WeightsError(
                f"{path} is a TorchScript archive (as OpenAI publishes them), which holds code and is not loaded. "
                "Use pretrained='openai', or convert it once: python -c \"import sys, torch; "
                'torch.save(dict(torch.jit.load(sys.argv[1], "cpu").state_dict()), sys.argv[2])" ' + f"{path} NEW.pt"
            )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} cannot be read as plain weights ({type(error).__name__}): fetch it again, or use the safetensors file"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {str(name).removeprefix("module."): value for name, value in state.items() if torch.is_tensor(value)}


def _checkpoint_names(path: str) -> frozenset[str]:
    with _opened(path) as (names, _):
        return frozenset(names)


def read_visual_state(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Reads the tensors of the visual tower from a checkpoint, one at a time, under open_clip's names.

    Yields:
        `(name, tensor)`: the name within the tower (`conv1.weight`), the tensor as stored, perhaps a view of the
        mapped file, so copy it.

    Raises:
        WeightsError: For a file that is damaged, holds code, or is no CLIP checkpoint.
    """
    with _opened(path) as (names, get):
        visual = [name for name in names if name.startswith("visual.")]
        if visual:
            for name in visual:
                yield name.removeprefix("visual."), get(name)
        elif any(name.startswith("vision_model.") for name in names):
            yield from _from_transformers(names, get)
        else:
            raise WeightsError(
                f"{path} has neither open_clip's `visual.*` nor transformers' `vision_model.*` tensors (it starts with "
                f"{', '.join(names[:3]) or 'nothing'}): it is no CLIP checkpoint that can be read"
            )


def _from_transformers(
    names: Collection[str], get: Callable[[str], torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Maps CLIPModel's visual tensors to open_clip's; an unknown name is passed on, to be reported as unexpected.

    Source: transformers' CLIPVisionTransformer and open_clip's VisionTransformer.
    """
    fixed = {
        "vision_model.embeddings.class_embedding": "class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    }
    norms = {"vision_model.pre_layrnorm": "ln_pre", "vision_model.post_layernorm": "ln_post"}
    for name in names:
        if name == "visual_projection.weight":
            yield "proj", get(name).T  # a Linear there, x @ proj here
        elif name in fixed:
            yield fixed[name], get(name)
        elif name.rpartition(".")[0] in norms:
            owner, _, kind = name.rpartition(".")
            yield f"{norms[owner]}.{kind}", get(name)
        elif name.startswith("vision_model.encoder.layers."):
            number, _, part = name.removeprefix("vision_model.encoder.layers.").partition(".")
            owner, _, kind = part.rpartition(".")
            block = f"transformer.resblocks.{number}"
            if owner == "self_attn.q_proj":
                fused = [get(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
                yield f"{block}.attn.in_proj_{kind}", torch.cat(fused)
            elif owner not in ("self_attn.k_proj", "self_attn.v_proj"):
                yield f"{block}.{_BLOCK_PARTS.get(owner, owner)}.{kind}", get(name)
        elif name.startswith("vision_model.") and not name.endswith("position_ids"):
            yield name, get(name)
