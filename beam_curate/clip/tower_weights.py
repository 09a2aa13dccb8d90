"""The tensors of a tower: those of a file, copied and checked, or random ones."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch

from beam_curate.clip.checkpoint import WeightsError
from beam_curate.clip.quick_gelu import scaled
from beam_curate.clip.weights import WeightsSource


def fitted(
    stored: Iterator[tuple[str, torch.Tensor]],
    wanted: Mapping[str, torch.Tensor],
    device: torch.device,
    source: WeightsSource,
    factors: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, torch.Tensor]:
    """Copies the stored tensors to the device, in the types wanted, times their factors; checks that all are there and fit."""
    state: dict[str, torch.Tensor] = {}
    wrong: list[str] = []
    for name, tensor in stored:
        like = wanted.get(name)
        if like is None:
            wrong.append(f"{name} is unexpected")
        elif tensor.shape != like.shape:
            wrong.append(f"{name} is {tuple(tensor.shape)} instead of {tuple(like.shape)}")
            state[name] = like
        else:
            state[name] = scaled(tensor, factors.get(name), device, like.dtype)
    wrong += [f"{name} is missing" for name in wanted if name not in state]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise WeightsError(
            f"the visual weights of {source.path} do not fit {source.clip_model} ({'; '.join(wrong[:8])}{more}): name their "
            "model with clip_model"
        )
    return state


def random_state(wanted: Mapping[str, torch.Tensor], seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Makes random weights: each tensor from its own generator, so the order and other threads do not matter.

    Matrices and kernels are normal with variance 1/fan-in, which keeps the signal's size through the layers
    (Source: LeCun et al., Efficient BackProp, 1998, section 4.6); norms are the identity, biases zero.
    """
    for name, like in wanted.items():
        if like.ndim >= 2 or name.endswith("class_embedding"):
            number = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
            generator = torch.Generator().manual_seed(number)
            fan_in = math.prod(like.shape[1:]) if like.ndim >= 2 else like.shape[0]
            yield name, torch.randn(like.shape, generator=generator) * fan_in**-0.5
        else:
            one = name.endswith(("weight", "gamma", "running_var"))
            yield name, torch.full(like.shape, float(one))
