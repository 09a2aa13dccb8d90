"""Activations whose value of a number does not depend on where in a batch it stands.

By itself torch does not see to it, on a CPU: GELU, SiLU and sigmoid are computed with vectors, and with other formulas for what
is left at the end of each thread's share. Of 4096 normal numbers 32% of the GELUs differ, 3% of the sigmoids. Where the shares
are whole vectors nothing is left, and the batch is computed at once; so it is with 1, 2 or 4 threads nearly always. Else, such as
with three threads, each image is computed by itself, and all images are then shared out alike.
"""

import sys
from typing import Final

import torch
from torch import nn

from beam_curate.clip.open_clip_parts import transformer

# Those whose vector and scalar code may differ; ReLU and the like round nothing.
_CURVED: Final = (nn.ELU, nn.GELU, nn.Mish, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Tanh, transformer.QuickGELU)
_CURVED_OF_TIMM: Final = ("GELU", "GELUTanh", "Mish", "QuickGELU", "Sigmoid", "Swish", "Tanh")
# torch gives each thread an equal share of at least this many numbers. Source: ATen/TensorIterator.h, GRAIN_SIZE; for GELU it is
# less (ATen/native/cpu/Activation.cpp), so that with T times as many all of T threads have a share in any case.
_GRAIN: Final = 32768
# Numbers in the longest step of a loop: two vectors of 32, which are bfloat16 in AVX-512 (ATen/native/cpu/Loops.h); twice that.
_STEP: Final = 128


class _AtAnyPlace(nn.Module):
    """An activation whose value of a number does not depend on where in a batch it stands."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Maps (N, ...) to (N, ...)."""
        if _in_whole_steps(batch):
            mapped: torch.Tensor = self.activation(batch)
            return mapped
        out = torch.empty_like(batch)
        for place, image in enumerate(batch):
            out[place] = self.activation(image)
        return out


def _in_whole_steps(batch: torch.Tensor) -> bool:
    """Says whether each thread's share of a batch is a whole number of steps, in one piece of memory."""
    threads = torch.get_num_threads()
    if batch.numel() < threads * _GRAIN or batch.numel() % (threads * _STEP):
        return False
    return batch.is_contiguous() or (batch.ndim == 4 and batch.is_contiguous(memory_format=torch.channels_last))


def separate_activations(tower: nn.Module) -> None:
    """Has the activations of a tower for the CPU give an image the same values at all places of a batch."""
    timm = sys.modules.get("timm.layers.activations")  # where it is not loaded, no tower is of it
    curved = (*_CURVED, *(getattr(timm, name) for name in _CURVED_OF_TIMM if timm))
    for module in list(tower.modules()):
        for name, child in module.named_children():
            if isinstance(child, curved) and not isinstance(module, _AtAnyPlace):
                setattr(module, name, _AtAnyPlace(child))
