"""Whether the configuration that lies beside a checkpoint is that of the model asked for.

Compared is what the tower computes: keys of training, keys of the other tower, a default spelled out and another spelling of
the same value are no difference.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from beam_curate.clip.checkpoint import WeightsError
from beam_curate.clip.config import model_config
from beam_curate.clip.open_clip_parts import DEFAULT_VISION, model_names

# What acts in training alone, or on what is returned beside the embedding.
_IDLE: Final = frozenset(
    {"patch_dropout", "output_tokens", "timm_model_pretrained", "timm_drop", "timm_drop_path", "hf_model_pretrained"}
)
# A text tower's tokenizer is not a part of it, and is looked for by its own rules.
_OF_TOKENIZER: Final = ("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")
_SQUARES: Final = ("image_size", "patch_size")
_OF_TIMM: Final = ("timm_model_name", "timm_pool", "timm_proj", "timm_proj_bias", "image_size")
_OF_RESNET: Final = ("layers", "width", "head_width", "image_size")
_POOLER: Final = ("attn_pooler_queries", "attn_pooler_heads")
# Any of these makes open_clip choose the block_type `custom`. Source: open_clip 3.3, class Transformer.
_CUSTOM: Final = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")


def _kind(part: str) -> type[Any]:
    """open_clip's class of the configuration of a tower."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    kind: type[Any] = CLIPVisionCfg if part == "vision_cfg" else CLIPTextCfg
    return kind


def _tower(part: str, config: Mapping[str, Any]) -> dict[str, object]:
    """What a configuration makes open_clip's _build_vision_tower or _build_text_tower build, in one spelling."""
    kind = _kind(part)
    full: dict[str, object] = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, value in config.items():
        if name in full and name not in _IDLE:
            # null is how open_clip's own files switch off what is a truth value or, of timm's, a text.
            off = isinstance(full[name], bool) or name in ("timm_pool", "timm_proj")
            full[name] = type(full[name])() if value is None and off else value
        elif name not in full and value:
            full[name] = value  # of a later version: who knows what it does
    later = [name for name in full if name not in {field.name for field in dataclasses.fields(kind)}]
    if full.get("timm_model_name"):
        full["timm_model_name"] = str(full["timm_model_name"]).partition(".")[0]  # the rest names timm's own weights
        names = [*_OF_TIMM, *later]
    elif part == "vision_cfg" and isinstance(full["layers"], list | tuple):
        names = [*_OF_RESNET, *later]
    else:
        full["block_type"] = full["block_type"] or ("custom" if any(full[name] for name in _CUSTOM) else "default")
        unused = _IDLE.union(_OF_TOKENIZER, _OF_TIMM[:-1], () if full.get("attentional_pool") else _POOLER)
        names = [name for name in full if name not in unused]
    return {name: _spelled(name, full[name]) for name in names}


def _spelled(name: str, value: Any) -> Any:
    if name in _SQUARES and isinstance(value, int):
        return (value, value)
    return tuple(value) if isinstance(value, list) else value


def check_open_clip(
    name: str, theirs: Mapping[str, Any], path: Path, part: Literal["vision_cfg", "text_cfg"] = "vision_cfg"
) -> None:
    """Compares a tower of open_clip's configuration beside a checkpoint with that of the model asked for.

    Args:
        name: The model asked for.
        theirs: The model's part of the configuration.
        path: Where it was read.
        part: Which tower.

    Raises:
        WeightsError: It is another tower's, or has a key that this open_clip does not know; names what differs.
    """
    which = "visual" if part == "vision_cfg" else "text"
    if not isinstance(theirs.get(part), dict):
        raise WeightsError(f"{path}: {part} is {theirs.get(part)!r}, but it must be a JSON object; correct the file")
    _, ours = model_config(name)
    if theirs[part] == ours[part] and theirs.get("embed_dim") == ours["embed_dim"]:
        return  # as open_clip publishes it; the classes that know the defaults take seconds to load
    have = {"embed_dim": theirs.get("embed_dim"), **_tower(part, theirs[part])}
    want = {"embed_dim": ours["embed_dim"], **_tower(part, ours[part])}
    if have == want:
        return
    known = {"embed_dim", *(field.name for field in dataclasses.fields(_kind(part)))}
    later = sorted(key for key in have if key not in known)
    if later and {**want, **{key: have[key] for key in later}} == have:
        from open_clip.version import __version__

        raise WeightsError(
            f"{path} has {', '.join(f'{key}={have[key]!r}' for key in later)} in {part}, which open_clip "
            f"{__version__} does not know, so it is not clear whether the {which} tower is that of {name}: remove "
            "the keys that do not change it from the file"
        )
    keys = [key for key in {**have, **want} if have.get(key) != want.get(key)]
    wrong = [f"{key} {have.get(key)!r} instead of {want.get(key)!r}" for key in keys[:4]]
    raise WeightsError(
        f"{path} describes another {which} tower than clip_model={name!r} ({', '.join(wrong)}): name the model it is of"
        f"{_same_as(have, part)}"
    )


def _same_as(tower: Mapping[str, Any], part: str) -> str:
    """Names open_clip's models that have a tower, if there are any."""
    configs = {name: model_config(name)[1] for name in model_names()}
    found = [name for name, c in configs.items() if {"embed_dim": c["embed_dim"], **_tower(part, c[part])} == tower]
    return f", such as {' or '.join(found[:3])}" if found else "; open_clip has none by name"


def check_transformers(name: str, config: Mapping[str, Any], vision: Mapping[str, Any], path: Path) -> None:
    """Compares transformers' configuration beside a checkpoint with the visual tower of the model asked for.

    Args:
        name: The model asked for.
        config: The configuration.
        vision: The part of it about the visual tower.
        path: Where it was read.

    Raises:
        WeightsError: It is another visual tower's.
    """
    # Shapes alone do not show the number of heads, so the configuration is compared.
    _, ours = model_config(name)
    cfg = {**DEFAULT_VISION, **ours["vision_cfg"]}
    # Source of the defaults: transformers' CLIPVisionConfig (which leaves them out of older files).
    pairs = {
        "model_type": (config.get("model_type", "clip") in ("clip", "clip_vision_model"), True),
        "hidden_size": (vision.get("hidden_size", 768), cfg["width"]),
        "num_hidden_layers": (vision.get("num_hidden_layers", 12), cfg["layers"]),
        "num_attention_heads": (vision.get("num_attention_heads", 12), cfg["width"] // cfg["head_width"]),
        "patch_size": (vision.get("patch_size", 32), cfg["patch_size"]),
        "image_size": (vision.get("image_size", 224), cfg["image_size"]),
        "projection_dim": (config.get("projection_dim", 512), ours["embed_dim"]),
    }
    spelled = {key: (_spelled(key, have), _spelled(key, want)) for key, (have, want) in pairs.items()}
    wrong = [
        f"{key} {pairs[key][0]} instead of {pairs[key][1]}" for key, (have, want) in spelled.items() if have != want
    ]
    if wrong:
        raise WeightsError(f"{path} is not of clip_model={name!r} ({', '.join(wrong)}): name the model it is of")
