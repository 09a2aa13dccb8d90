"""The parts of open_clip that are used, without what its package loads besides.

`import open_clip` takes 4.4 s of CPU time, of which torch is 1.5 s: it loads all of torchvision, which loads torch's compiler
(torch._dynamo, sympy), and timm, transformers and ftfy. The records of its pretrained weights, the configurations of its models
and its vision transformer need none of these. So the packages below are made known to Python without running their
`__init__`, which is run as soon as somebody asks for something in it: `import open_clip; open_clip.create_model(...)` works as
ever, for a user's scorer too. A process that has loaded them already keeps them.

All of this project that needs a part of open_clip early takes it from here.
"""

import importlib.util
import json
import sys
import threading
import types
from pathlib import Path
from typing import Any, Final

_DEFERRED: Final = ("open_clip", "torchvision", "torchvision.ops")


class _Deferred(types.ModuleType):
    """A package whose `__init__` has not run; its submodules can be imported."""

    _lock: Final = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        """Runs the `__init__`, and gives what was asked for."""
        with _Deferred._lock:
            if type(self) is _Deferred:
                object.__setattr__(self, "__class__", types.ModuleType)
                assert self.__spec__ is not None
                assert self.__spec__.loader is not None
                self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _defer(name: str) -> None:
    """Makes a package known without running it, unless it has run."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Deferred  # a package's `__init__` sets what it needs on the same object later
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


for _name in _DEFERRED:
    _defer(_name)

# In this way of writing it: `from open_clip import pretrained` would ask the package for it, and run it.
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
