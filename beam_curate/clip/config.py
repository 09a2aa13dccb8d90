"""open_clip's configuration of a model, and whether the one that lies beside a checkpoint agrees with it."""

import difflib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import open_clip

from beam_curate.clip.checkpoint import WeightsError


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Words a remedy for an unknown name: close ones, else all that are known."""
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
            f"clip_model={clip_model!r} is no open_clip model: {did_you_mean(name, open_clip.list_models())}"
        )
    return name, open_clip.get_model_config(name)


def read_config(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        WeightsError: The file holds none.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no JSON object: fetch it again")
    return content


def check_open_clip(name: str, config: Mapping[str, Any], path: Path) -> None:
    """Compares open_clip's configuration beside a checkpoint with that of the model asked for.

    Raises:
        WeightsError: It is another visual tower's.
    """
    theirs = config.get("model_cfg", {})
    _, ours = model_config(name)

    def shape(model: Mapping[str, Any]) -> tuple[Any, Any]:
        vision = {**model.get("vision_cfg", {}), "timm_model_pretrained": False, "output_tokens": False}
        return model.get("embed_dim"), open_clip.CLIPVisionCfg(**vision)

    if theirs and shape(theirs) != shape(ours):
        raise WeightsError(f"{path} describes another visual tower than clip_model={name!r}: name the model it is of")


def check_transformers(name: str, config: Mapping[str, Any], path: Path) -> None:
    """Compares transformers' configuration beside a checkpoint with the visual tower of the model asked for.

    Raises:
        WeightsError: It is another visual tower's.
    """
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
