"""Where the weights of a CLIP visual tower come from, and how they are read: visual tensors only, one at a time.

`pretrained` names, in this order of precedence:

- `random`: seeded random weights, for trying things out; embeddings and scores then mean nothing;
- an open_clip pretrained tag of the model (`openai`, `laion2b_s32b_b82k`, ...): looked up in `model_dir` if that is
  given, else downloaded from the Hugging Face hub into its cache;
- a file: `.safetensors`, or a `torch.save` file (`.pt`, `.pth`, `.bin`), read with `weights_only=True`;
- a directory that holds a checkpoint, as open_clip or transformers publish it, or a models directory that holds one
  in one of the places that `model_dir_places` lists (NeMo Curator's `openai/clip-vit-large-patch14` is one of them).

A directory is told from a tag of the same name by a path separator: `./openai`. How a checkpoint is read: see `checkpoint`.
"""

import logging
import os
import socket
import urllib.parse
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import huggingface_hub

from beam_curate.clip.beside import OPEN_CLIP_CONFIG, said_beside
from beam_curate.clip.checkpoint import WeightsError, checkpoint_names
from beam_curate.clip.config import did_you_mean, model_config
from beam_curate.clip.open_clip_parts import tags
from beam_curate.clip.weights_files import CHECKPOINT_NAMES, checkpoints, file_digest

_LOG = logging.getLogger(__name__)

RANDOM: Final = "random"
# Checkpoints of other names, in a folder with open_clip's configuration: the first kind of which there is one.
_OTHER_NAMES: Final = (("*.safetensors",), ("*.bin", "*.pth"), ("*.pt",))
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


@dataclass(frozen=True)
class WeightsSource:
    """Weights found, not yet read: exactly one of `seed` (random), `path` (a file here) and `tag` is set.

    `quick_gelu` is what the source says of its activation (None: nothing), `said_by` who says it; `preprocess` is what it says
    of how images are prepared (None: nothing; values as they stand there), `preprocess_by` who says that.
    `recorded`: it is open_clip's record of a tag that says both.
    """

    clip_model: str
    pretrained: str
    seed: int | None = None
    path: str = ""
    tag: str = ""
    quick_gelu: bool | None = None
    said_by: str = ""
    preprocess: Mapping[str, object] | None = None
    preprocess_by: str = ""
    recorded: bool = False

    @property
    def identity(self) -> str:
        """`random:<seed>`, `sha256:<hex digest of the file>`, or `tag:<model>/<tag>` while not yet fetched.

        Reads the whole file (about 1 s per GB), once in a process as long as the file stays the same.
        """
        if self.seed is not None:
            return f"{RANDOM}:{self.seed}"
        if not self.path:
            return f"tag:{self.clip_model}/{self.tag}"
        return file_digest(self.path)


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


def for_any_folder(clip_model: str, pretrained: str) -> str:
    """The same `pretrained` for a worker that runs in another folder: a path is made absolute, all else stays."""
    if pretrained == RANDOM or tags.get_pretrained_cfg(model_config(clip_model)[0], pretrained):
        return pretrained
    path = Path(pretrained)
    return str(path.absolute()) if pretrained and path.exists() else pretrained


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
    if tags.get_pretrained_cfg(name, pretrained):
        found = _recorded(WeightsSource(name, pretrained, tag=pretrained), pretrained)
        local = _in_models_dir(Path(model_dir), name, [pretrained]) if model_dir else []
        return _at_path(found, local[0]) if local else found
    path = Path(pretrained)
    if pretrained and path.is_dir():
        path = _in_directory(path, name)
    if path.is_file():
        return _at_path(_published(WeightsSource(name, pretrained), path), path)
    known = tags.list_pretrained_tags_by_model(name)
    remedy = "copy it to a local path first" if "://" in pretrained else did_you_mean(pretrained, [*known, RANDOM])
    raise WeightsError(
        f"pretrained={pretrained!r} is neither a pretrained tag of {name} nor an existing file or directory: {remedy}"
    )


def _recorded(source: WeightsSource, tag: str) -> WeightsSource:
    record = tags.get_pretrained_cfg(source.clip_model, tag)
    _, config = model_config(source.clip_model)
    by = f"open_clip's record of the tag {tag!r}"
    # Every tag's record is complete: one without `quick_gelu` was trained with the activation of open_clip's model.
    use = bool(record.get("quick_gelu", config.get("quick_gelu", False)))
    return replace(source, quick_gelu=use, said_by=by, preprocess=record, preprocess_by=by, recorded=True)


def _published(source: WeightsSource, path: Path) -> WeightsSource:
    """Adds a tag's record to a file that lies in one of the tag's folders, of a models directory or the hub's cache."""
    folder = Path(os.path.abspath(path)).parent  # not resolved: the hub's cache links to files without names
    for tag in tags.list_pretrained_tags_by_model(source.clip_model):
        for place in model_dir_places(source.clip_model, tag):
            cached = f"models--{place.replace('/', '--')}"
            if folder.match(place) or (folder.parent.name == "snapshots" and folder.parent.parent.name == cached):
                return _recorded(source, tag)
    return source


def _in_directory(path: Path, name: str) -> Path:
    found = checkpoints(path) or _of_other_names(path)
    if found:
        return found[0]
    known = tags.list_pretrained_tags_by_model(name)
    found = _in_models_dir(path, name, known)
    if not found:
        parts = sorted(path.glob("*.index.json"))
        raise WeightsError(
            f"found no weights in pretrained={str(path)!r}: looked for {', '.join(CHECKPOINT_NAMES)} there and in the folders "
            f"for {name} ({', '.join(model_dir_places(name, known[0] if known else 'TAG'))}, ...); "
            + (f"save the parts of {parts[0].name} as one file" if parts else "name the file itself")
        )
    if len({file.parent for file in found}) > 1:
        raise WeightsError(f"pretrained={str(path)!r} holds several weights of {name}, name one: {found}")
    return found[0]


def _of_other_names(path: Path) -> list[Path]:
    """The checkpoint of another name in a folder that open_clip's configuration marks as one of a model."""
    if not (path / OPEN_CLIP_CONFIG).is_file():
        return []
    kinds = ([file for pattern in patterns for file in sorted(path.glob(pattern))] for patterns in _OTHER_NAMES)
    found = next(filter(None, kinds), [])
    if len(found) > 1:
        raise WeightsError(
            f"pretrained={str(path)!r} holds several checkpoints, name one: {', '.join(file.name for file in found)}"
        )
    return found


def _in_models_dir(models: Path, name: str, known: Collection[str]) -> list[Path]:
    places = {place: None for tag in known for place in model_dir_places(name, tag)}
    return [file for place in places for file in checkpoints(models / place)[:1]]


def _at_path(source: WeightsSource, path: Path) -> WeightsSource:
    """Completes a source with a file and with what the files beside it, or its own names, say of it."""
    source = replace(source, path=str(path))
    names = checkpoint_names(str(path))
    said = said_beside(source.clip_model, path, names)
    if source.recorded:  # a tag's record stands above what lies beside the file
        return source
    found = replace(
        source,
        quick_gelu=said.quick_gelu,
        said_by=said.quick_gelu_by,
        preprocess=said.preprocess,
        preprocess_by=said.preprocess_by,
    )
    if "openai" not in path.name.lower() and not names >= _OPENAI_MARKERS:
        return found
    by = f"{path.name} is a checkpoint of OpenAI's"
    if found.quick_gelu is None:
        found = replace(found, quick_gelu=True, said_by=by)
    record = tags.get_pretrained_cfg(source.clip_model, "openai")
    return replace(found, preprocess=record, preprocess_by=by) if record and found.preprocess is None else found


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
        f"({reason}). Where there is a network, beam-curate fetch-models --model_dir MODELS --clip_model "
        f"{source.clip_model} --pretrained {source.tag} --only clip gets them; or fetch {wanted[0]} from there, and put it into "
        f"MODELS/{place}/ as {CHECKPOINT_NAMES[0] if wanted[0].endswith('.safetensors') else CHECKPOINT_NAMES[2]}. Then give "
        "`model_dir` MODELS, or name a file with `pretrained`. To try the steps without the weights, give `pretrained` random"
    )
