"""Visual towers without weights, as open_clip builds them for the configuration of a model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from beam_curate.clip.open_clip_parts import DEFAULT_VISION, transformer


class _NoNumbers(TorchFunctionMode):
    """Makes and scales no random numbers on meta, where there are none: torch loads its compiler for it (1.9 s of CPU time)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls a function of torch."""
        if func is torch.Tensor.mul and isinstance(args[1], int | float):
            return args[0]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def empty_tower(config: dict[str, Any], quick_gelu: bool, dtype: torch.dtype) -> nn.Module:
    """Builds the tower on meta (or, where that loses buffers, on the CPU) with the types that its tensors shall have."""
    with torch.device("meta"), _NoNumbers():
        tower = tower_of(config, quick_gelu)
    if set(dict(tower.named_buffers())) - set(tower.state_dict()):
        tower = tower_of(config, quick_gelu)
    return tower.to(dtype)


def tower_of(config: dict[str, Any], quick_gelu: bool) -> nn.Module:
    """Builds the visual tower of a configuration.

    open_clip's builder can do it for all models, but loads timm, transformers and torchvision for it (3 s of CPU time). A
    plain vision transformer is made as it makes one. Source: open_clip 3.3, model._build_vision_tower.
    """
    vision = config["vision_cfg"]
    if not vision.keys() <= DEFAULT_VISION.keys() or isinstance(vision.get("layers"), list):
        from open_clip.model import _build_vision_tower

        tower: nn.Module = _build_vision_tower(
            config["embed_dim"], {**vision, "timm_model_pretrained": False}, quick_gelu
        )
        return tower
    plain = {**DEFAULT_VISION, **vision}
    heads = plain["width"] // plain.pop("head_width")
    activation = transformer.QuickGELU if quick_gelu else nn.GELU
    return transformer.VisionTransformer(
        **plain, heads=heads, output_dim=config["embed_dim"], act_layer=activation, norm_layer=transformer.LayerNorm
    )
