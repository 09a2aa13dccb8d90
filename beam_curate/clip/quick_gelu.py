"""QuickGELU as SiLU: the same function, with one pass over the numbers instead of three.

    QuickGELU(x) = x sigmoid(1.702 x) = silu(1.702 x) / 1.702

with 1.702 taken into the layer before and 1/1.702 into the one behind, in fp32, before they are rounded to the tower's precision.
open_clip's module writes out 1.702 x and the sigmoid of it, each a whole tensor, where SiLU works in place.
Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, section 2, for both functions.
"""

from typing import Final

import torch
from torch import nn

from beam_curate.clip.open_clip_parts import transformer

_FACTOR: Final = 1.702  # of open_clip's QuickGELU, as OpenAI's


def fold_quick_gelu(tower: nn.Module) -> dict[str, float]:
    """Puts SiLU in the place of QuickGELU in open_clip's blocks, in a tower whose weights are still to come.

    Returns:
        By the names of tensors what they have to be multiplied with: see `scaled`.
    """
    factors: dict[str, float] = {}
    for name, module in tower.named_modules():
        if isinstance(module, nn.Sequential) and _foldable(dict(module.named_children())):
            module.gelu = nn.SiLU(inplace=True)
            factors |= {f"{name}.c_fc.weight": _FACTOR, f"{name}.c_fc.bias": _FACTOR}
            factors[f"{name}.c_proj.weight"] = 1 / _FACTOR
    return factors


def _foldable(layers: dict[str, nn.Module]) -> bool:
    """Whether it is two linear layers with QuickGELU between them, and nothing else that a factor would go through."""
    others = [layer for name, layer in layers.items() if name not in ("c_fc", "gelu", "c_proj")]
    return (
        isinstance(layers.get("gelu"), transformer.QuickGELU)
        and all(isinstance(layers.get(name), nn.Linear) for name in ("c_fc", "c_proj"))
        and all(isinstance(layer, nn.Identity) for layer in others)
    )


def scaled(tensor: torch.Tensor, factor: float | None, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A copy of a stored tensor on the device, times a factor, which is rounded once."""
    if factor is None:
        return tensor.to(device=device, dtype=dtype, copy=True)
    return (tensor.to(device=device, dtype=torch.float32, copy=True) * factor).to(dtype)
