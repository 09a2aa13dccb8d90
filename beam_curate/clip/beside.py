"""What the files beside a checkpoint say of it: open_clip's configuration, and transformers'.

open_clip's `open_clip_config.json` is read beside a checkpoint of any name, as its own `local-dir:` loader reads it;
transformers' `config.json` and its image processor's, where the tensors have transformers' names. Values are passed on as they
stand: they are checked where they are used, so that an option can stand in for a wrong one.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from beam_curate.clip.checkpoint import WeightsError
from beam_curate.clip.config import read_config
from beam_curate.clip.towers import check_open_clip, check_transformers

OPEN_CLIP_CONFIG: Final = "open_clip_config.json"
_TRANSFORMERS_CONFIG: Final = "config.json"
# The second is transformers 5's, which has the image processor's under a key.
_PROCESSORS: Final = ("preprocessor_config.json", "processor_config.json")
# Pillow's numbers, as transformers writes them.
_RESAMPLE: Final = {2: "bilinear", 3: "bicubic"}
_ACTIVATIONS: Final = {"quick_gelu": True, "gelu": False}


@dataclass(frozen=True)
class Said:
    """What files say: None where they say nothing, with the path of who says it."""

    quick_gelu: bool | None = None
    quick_gelu_by: str = ""
    preprocess: Mapping[str, Any] | None = None
    preprocess_by: str = ""


def said_beside(clip_model: str, path: Path, names: Collection[str]) -> Said:
    """Reads what lies beside a checkpoint.

    Args:
        clip_model: A model name as open_clip keeps it.
        path: The checkpoint.
        names: Of its tensors.

    Raises:
        WeightsError: For a file that cannot be read, or that describes another visual tower.
    """
    said = Said()
    if any(name.startswith(("vision_model.", "text_model.")) for name in names):
        said = _transformers(clip_model, path.parent)
    config = path.parent / OPEN_CLIP_CONFIG
    return _open_clip(clip_model, config, said) if config.is_file() else said


def check_text_beside(clip_model: str, path: Path) -> None:
    """Compares open_clip's configuration beside a checkpoint, if there is one, with the text tower of the model asked for.

    Raises:
        WeightsError: It is another text tower's.
    """
    config = path.parent / OPEN_CLIP_CONFIG
    model = _open_clip_model(read_config(config), config) if config.is_file() else {}
    if model:
        check_open_clip(clip_model, model, config, "text_cfg")


def _open_clip_model(config: Mapping[str, Any], path: Path) -> dict[str, object]:
    """The model's part of open_clip's configuration, which is all of it in a file of open_clip's model_configs.

    Raises:
        WeightsError: It is not a JSON object.
    """
    return _part(config, "model_cfg", path) if "model_cfg" in config or "vision_cfg" not in config else dict(config)


def said_by_file(path: Path) -> Mapping[str, Any]:
    """Reads how images are prepared from open_clip's configuration or that of an image processor of transformers.

    Raises:
        WeightsError: It cannot be read or does not say it.
    """
    config = read_config(path)
    said = _part(config, "preprocess_cfg", path) or _processor(config)
    if not said:
        raise WeightsError(f"{path} does not say how images are prepared: it has neither preprocess_cfg nor image_mean")
    return said


def _part(config: Mapping[str, Any], key: str, path: Path) -> dict[str, object]:
    part = config.get(key)
    if part is not None and not isinstance(part, dict):
        raise WeightsError(
            f"{path}: {key} is {part!r}, but it must be a JSON object; correct the file, or move it away"
        )
    return part or {}


def _open_clip(clip_model: str, path: Path, said: Said) -> Said:
    config = read_config(path)
    model, preprocess = _open_clip_model(config, path), _part(config, "preprocess_cfg", path)
    use, by = said.quick_gelu, said.quick_gelu_by
    if model:
        check_open_clip(clip_model, model, path)
        value = model.get("quick_gelu")
        if value not in (None, False, True):
            raise WeightsError(f"{path}: quick_gelu is {value!r}; write true or false")
        use, by = bool(value), str(path)
    # A whole file (with model_cfg) without the part means open_clip's defaults, as open_clip reads it.
    if preprocess or (model and "model_cfg" in config):
        return Said(use, by, preprocess, str(path))
    return Said(use, by, said.preprocess, said.preprocess_by)


def _transformers(clip_model: str, folder: Path) -> Said:
    use: bool | None = None
    path = folder / _TRANSFORMERS_CONFIG
    if path.is_file():
        config = read_config(path)
        vision = _part(config, "vision_config", path) or config
        check_transformers(clip_model, config, vision, path)
        # transformers leaves the default of CLIPVisionConfig.hidden_act, quick_gelu, out of older files.
        activation = vision.get("hidden_act") or "quick_gelu"
        if activation not in _ACTIVATIONS:
            raise WeightsError(
                f"{path}: hidden_act is {activation!r}; the towers of open_clip have {' or '.join(_ACTIVATIONS)}"
            )
        use = _ACTIVATIONS[activation]
    by = str(path) if use is not None else ""
    for name in _PROCESSORS:
        if (folder / name).is_file():
            preprocess = _processor(read_config(folder / name))
            if preprocess:
                return Said(use, by, preprocess, str(folder / name))
    return Said(use, by)


def _processor(config: Mapping[str, Any]) -> dict[str, object]:
    """What an image processor of transformers does, in open_clip's words; what open_clip cannot do keeps a word of its own.

    Empty if it is not an image processor. Source: transformers' CLIPImageProcessor, SiglipImageProcessor.
    """
    inner = config.get("image_processor")
    config = inner if isinstance(inner, dict) else config
    if not {"image_mean", "do_normalize", "image_processor_type", "feature_extractor_type"} & set(config):
        return {}
    said: dict[str, object] = {"mean": config.get("image_mean"), "std": config.get("image_std")}
    if config.get("do_normalize") is False:
        said |= {"mean": [0, 0, 0], "std": [1, 1, 1]}
    if (resample := config.get("resample")) is not None:
        said["interpolation"] = (
            _RESAMPLE.get(resample, f"resample {resample}") if isinstance(resample, int) else resample
        )
    size, crop = config.get("size"), config.get("crop_size")
    crop = crop.get("height") if isinstance(crop, dict) else crop
    if isinstance(size, dict) and "shortest_edge" not in size:
        said["resize_mode"] = "squash"
    elif size is not None:
        side = size["shortest_edge"] if isinstance(size, dict) else size
        cropped = config.get("do_center_crop") is not False and crop in (None, side)
        said["resize_mode"] = "shortest" if cropped else f"shortest {side}, then crop {crop}"
    if abs((config.get("rescale_factor") or 1 / 255) - 1 / 255) > 1e-6 or config.get("do_rescale") is False:
        said["mode"] = f"RGB times {config.get('rescale_factor')}"
    return said
