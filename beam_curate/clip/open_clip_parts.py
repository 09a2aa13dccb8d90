"""The parts of open_clip that are used, without what its package loads besides.

`import open_clip` takes 4.4 s of CPU time, of which torch is 1.5 s: it loads all of torchvision, which loads torch's compiler
(torch._dynamo, sympy), and timm, transformers and ftfy. The records of its pretrained weights, the configurations of its models
and its vision transformer need none of these, so its `__init__` and torchvision's do not run for them: see `deferred`. All of
this project that needs a part of open_clip early takes it from here.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from beam_curate.deferred import defer

defer("open_clip", "torchvision", "torchvision.ops")

import open_clip.pretrained as tags  # noqa: E402
import open_clip.transformer as transformer  # noqa: E402, PLR0402
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD  # noqa: E402

__all__ = ["DEFAULT_PREPROCESSING", "DEFAULT_VISION", "model_names", "model_settings", "tags", "transformer"]

DEFAULT_PREPROCESSING: Final = {
    "mean": OPENAI_DATASET_MEAN,
    "std": OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
"""How open_clip prepares images where nothing is said. Source: open_clip 3.3, class PreprocessCfg."""

DEFAULT_VISION: Final = {
    "layers": 12,
    "width": 768,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "patch_size": 16,
    "image_size": 224,
}
"""A plain vision transformer where a model's `vision_cfg` says nothing. Source: open_clip 3.3, class CLIPVisionCfg."""


def _registry() -> Any:
    """open_clip's own registry of models, where it is loaded: it also has those that were added in this process."""
    return sys.modules.get("open_clip.factory")


def _file(name: str) -> Path:
    """Where open_clip keeps the configuration of a model."""
    return Path(str(tags.__file__)).parent / "model_configs" / f"{name}.json"


def model_names() -> list[str]:
    """The names of all models."""
    factory = _registry()
    if factory is None:
        return sorted(path.stem for path in _file("*").parent.glob("*.json"))
    names: list[str] = factory.list_models()
    return names


def model_settings(name: str) -> dict[str, Any] | None:
    """The configuration of a model, a fresh copy; None if there is no model of that name."""
    if name not in model_names():
        return None
    factory = _registry()
    found: dict[str, Any] = factory.get_model_config(name) if factory else json.loads(_file(name).read_text("utf-8"))
    return found
