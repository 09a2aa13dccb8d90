"""What makes a row that a tower gives depend on its image (or its text) alone, whatever its place in a batch.

By itself torch does not, on a CPU. Equal images of one batch were found to get other last bits in two ways:

- MKL, which multiplies matrices of float32, cuts the rows between threads and adds up the rows of one thread in another order
  than those of the next where the cut is not at its tile's edge: two threads, ViT-B-32-256, 4 images of 65 tokens, up to 2.8e-7
  of a row's length. In its mode AUTO of conditional numerical reproducibility it does not; it reads the mode with its first
  product, and never again. Source: oneMKL Developer Guide, Obtaining Numerically Reproducible Results.
- GELU, SiLU and sigmoid are computed with vectors, and with other formulas for what is left at the end of each thread's share:
  of 4096 normal numbers 32% of the GELUs differ, 3% of the sigmoids. Where the shares are whole vectors nothing is left, so a
  number's value does not depend on its place, and the batch is computed at once; so it is with 1, 2 or 4 threads nearly always.
  Else, such as with three threads, each image is computed by itself, and all images are then shared out alike.

What this leaves on a processor that nobody has tried is found by a look: a batch of one image, at all places. Where its rows
differ, images go through the tower one at a time, each in a call of the same shape.

The number of images in a call matters too, since libraries choose their kernels by the size of a matrix. A bundle's last batch
may be computed as a smaller one only where a look at both sizes finds the same bits.
"""

import copy
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from beam_curate.clip.open_clip_parts import transformer

_LOG = logging.getLogger(__name__)
_MKL_MODE: Final = "MKL_CBWR"
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


def fix_arithmetic() -> None:
    """Has MKL compute each row of a product alike, in this process and in those that it starts; a mode that is set stays.

    It must come before this process's first product of matrices in torch.
    """
    os.environ.setdefault(_MKL_MODE, "AUTO")


def separate_activations(tower: nn.Module) -> None:
    """Has the activations of a tower for the CPU give an image the same values at all places of a batch."""
    timm = sys.modules.get("timm.layers.activations")  # where it is not loaded, no tower is of it
    curved = (*_CURVED, *(getattr(timm, name) for name in _CURVED_OF_TIMM if timm))
    for module in list(tower.modules()):
        for name, child in module.named_children():
            if isinstance(child, curved) and not isinstance(module, _AtAnyPlace):
                setattr(module, name, _AtAnyPlace(child))


class _Look(NamedTuple):
    """What a batch of one image has shown: how many places differ from the first one, and the bits of that."""

    differ: int
    bits: list[torch.Tensor]


class IndependentRows:
    """Calls a tower, with whole batches where a row is then the same at all places, and else with one image at a time."""

    def __init__(self, tower: nn.Module) -> None:
        """Takes the tower to look at, which may have a transformer of many blocks alike; nothing is computed yet."""
        self._tower = _shortened(tower)
        self._first = _first_block(tower)
        self._looks: dict[int, _Look] = {}
        self._one: torch.Tensor | None = None

    @property
    def all_together(self) -> bool:
        """Whether batches of every size so far went through the tower as they are."""
        return not any(look.differ for look in self._looks.values())

    def look(self, places: int, one: torch.Tensor) -> None:
        """Looks at batches of one size before the first is there.

        Args:
            places: Images in a batch.
            one: (1, ...) of what the tower takes.
        """
        if places > 1:
            self._looked(places, one)

    def shape(self, count: int, places: int, one: torch.Tensor) -> int:
        """The smallest batch for so many images in which a row has the same bits as in a batch of `places`.

        Tried are an eighth, a quarter and a half of `places`: few shapes, so that the looks cost little and kernels are chosen
        (and memory is kept) for few.

        Args:
            count: How many images there are, at most `places`.
            places: The size of a whole batch.
            one: (1, ...) of what the tower takes.
        """
        smaller = sorted({places // part for part in (8, 4, 2)} - {0})
        if count >= places or not smaller or count > smaller[-1]:
            return places
        whole = self._looked(places, one)
        if whole.differ:
            return places
        for shape in smaller:
            if shape >= count:
                look = self._looked(shape, one)
                if not look.differ and all(map(torch.equal, look.bits, whole.bits)):
                    return shape
        return places

    def call(self, forward: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
        """Applies a function that applies the tower.

        Args:
            forward: Maps (M, ...) to (M, D), for any M.
            batch: (N, ...) of what the tower takes. The first batch of each N is looked into first, with its first row.

        Returns:
            (N, D): row n is the same wherever in a batch of N it stands and whatever stands beside it.
        """
        if len(batch) <= 1 or not self._looked(len(batch), batch[:1]).differ or batch.device.type != "cpu":
            return forward(batch)
        return torch.cat([forward(one) for one in batch.unsqueeze(1)])

    def _looked(self, places: int, one: torch.Tensor) -> _Look:
        if places not in self._looks:
            if self._one is None:
                self._one = _noise(one)
            self._looks[places] = self._look(places, self._one)
        return self._looks[places]

    def _look(self, places: int, one: torch.Tensor) -> _Look:
        """Puts one image at all places of a batch that lies in memory as the real ones do."""
        same = torch.empty_strided(
            (places, *one.shape[1:]), (one[0].numel(), *one.stride()[1:]), dtype=one.dtype, device=one.device
        )
        same.copy_(one.expand_as(same))
        seen: list[torch.Tensor] = []
        thread = threading.get_ident()

        def keep(_: nn.Module, __: Any, tokens: torch.Tensor) -> None:
            if threading.get_ident() == thread:  # others may be in the same block
                seen.append(tokens)

        hook = self._first.register_forward_hook(keep) if self._first is not None else None
        try:
            out = self._tower(same)
        finally:
            if hook is not None:
                hook.remove()
        # The tokens of the first block too: one bit's difference there may be rounded away in the end, and of another image not.
        values = [tokens for tokens in seen[:1] if len(tokens) == places]
        values.append(out[0] if isinstance(out, tuple) else out)
        bits = [_bits(value.reshape(places, -1)) for value in values]
        differ = int(torch.stack([(rows != rows[:1]).any(dim=1) for rows in bits]).any(dim=0).sum())
        if differ and one.device.type == "cpu":
            _LOG.warning(
                "In this process the last bits of an embedding depend on the place of the image in its batch: %d of %d places "
                "differ from the first. So images go through the model one by one, which is slower. If the program computes "
                "with torch before it loads the model, start it with %s=AUTO",
                differ, places, _MKL_MODE,
            )  # fmt: skip
        elif differ:
            _LOG.warning(
                "On this device the last bits of an embedding depend on the place of the image in its batch: %d of %d places "
                "differ from the first",
                differ, places,
            )  # fmt: skip
        return _Look(differ, [rows[0].clone() for rows in bits])


def _bits(rows: torch.Tensor) -> torch.Tensor:
    """The bits of floating-point numbers, as integers: NaN is then equal to itself."""
    return rows.view({2: torch.int16, 4: torch.int32}[rows.element_size()])


def _first_block(tower: nn.Module) -> nn.Module | None:
    """The first block of open_clip's transformers, whose output is all tokens."""
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    return blocks[0] if isinstance(blocks, nn.ModuleList) and len(blocks) > 1 else None


def _noise(one: torch.Tensor) -> torch.Tensor:
    """Noise instead of an image, which may be black, and leave nothing to round; tokens as they are."""
    if not one.is_floating_point():
        return one
    numbers = torch.randn(one.shape, generator=torch.Generator().manual_seed(0)) * 64
    return torch.empty_like(one).copy_(numbers)


def _shortened(tower: nn.Module) -> nn.Module:
    """The tower with the first and the last block of its transformer alone, where it is open_clip's: those between are alike."""
    transformer = getattr(tower, "transformer", None)
    blocks = getattr(transformer, "resblocks", None)
    if not isinstance(transformer, nn.Module) or not isinstance(blocks, nn.ModuleList) or len(blocks) <= 2:
        return tower
    few, short = copy.copy(transformer), copy.copy(tower)
    few._modules = {**transformer._modules, "resblocks": nn.ModuleList([blocks[0], blocks[-1]])}
    short._modules = {**tower._modules, "transformer": few}
    return short
