"""What makes a row that a tower gives depend on its image (or its text) alone, whatever its place in a batch.

By itself torch does not, on a CPU. Equal images of one batch were found to get other last bits in two ways:

- MKL, which multiplies matrices of float32, cuts the rows between threads and adds up the rows of one thread in another order
  than those of the next where the cut is not at its tile's edge: two threads, ViT-B-32-256, 4 images of 65 tokens, up to 2.8e-7
  of a row's length. In its mode AUTO of conditional numerical reproducibility it does not; it reads the mode with its first
  product, and never again. Source: oneMKL Developer Guide, Obtaining Numerically Reproducible Results.
- GELU and the like, which beam_curate/clip/activations.py sees to.

What this leaves on a processor that nobody has tried is found by a look: a batch of few images of noise, each at several places.
Where their rows differ, images go through the tower one at a time, each in a call of the same shape.

The number of images in a call matters too, since libraries choose their kernels by the size of a matrix. A bundle's last batch
may be computed as a smaller one only where a look at both sizes finds the same bits: of all images of the look, at all places.

In 16 bits most differences are rounded away, and those of one embedding in some hundred are not. So such a tower's products are
looked at by themselves besides, with numbers that leave nothing but the rounding: see beam_curate/clip/product_order.py.
"""

import copy
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from beam_curate.clip.product_order import ProductOrder
from beam_curate.clip.row_sums import row_sums

_LOG = logging.getLogger(__name__)
_MKL_MODE: Final = "MKL_CBWR"
# What computes in 32 bits and rounds to 16 shows a difference in one number of some ten thousand: 19,200 tokens' numbers of one
# image were found equal where other images' were not. So such a tower is looked at with more images.
_ROUNDS_OF_SHORT_NUMBERS: Final = 4
_WINDOW_STEP: Final = 1009  # numbers; a prime, so that no patch of an image is the patch of another one


def fix_arithmetic() -> None:
    """Has MKL compute each row of a product alike, in this process and in those that it starts; a mode that is set stays.

    It must come before this process's first product of matrices in torch.
    """
    os.environ.setdefault(_MKL_MODE, "AUTO")


class _Look(NamedTuple):
    """What a batch of noise like `one` has shown.

    Attributes:
        one: (1, ...) of what the tower takes.
        differ: How many places differ from others with the same image.
        marks: Of each turn, (I, M) of its images, see `IndependentRows._marks`.
        products: What its products have shown, of a tower of 16-bit numbers.
    """

    one: torch.Tensor
    differ: int
    marks: list[torch.Tensor]
    products: ProductOrder


class IndependentRows:
    """Calls a tower, with whole batches where a row is then the same at all places, and else with one image at a time."""

    def __init__(self, tower: nn.Module) -> None:
        """Takes the tower to look at, which may have a transformer of many blocks alike; nothing is computed yet."""
        self._tower = _shortened(tower)
        self._watched = _watched(tower)
        self._short = any(values.element_size() < 4 for values in tower.parameters())
        self._rounds = _ROUNDS_OF_SHORT_NUMBERS if self._short else 1
        self._looks: dict[int, _Look] = {}
        self._alike: dict[tuple[int, int], bool] = {}

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
                if (shape, places) not in self._alike:
                    self._alike[shape, places] = self._as_in(whole, shape)
                if self._alike[shape, places]:
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
            self._looks[places] = self._look(places, one.clone())
        return self._looks[places]

    def _look(self, places: int, one: torch.Tensor) -> _Look:
        """Puts each image at four places of a batch or more, in an order without a pattern: few places alone may be alike."""
        images = max(1, places // 4)
        order = torch.randperm(places, generator=torch.Generator().manual_seed(places))
        which = (torch.arange(places) % images)[order]
        first = torch.stack([(which == image).nonzero()[0, 0] for image in range(images)])
        differs, marks = torch.zeros(places, dtype=torch.bool), []
        for turn in range(self._rounds):
            rows = self._marks(one, _noise(one, images, turn), which)
            marks.append(rows[first])
            differs |= (rows != marks[-1][which]).any(dim=1)
        products = self._products(one, places)
        differ = int((differs | products.differing(places)).sum())
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
        return _Look(one, differ, marks, products)

    def _as_in(self, whole: _Look, shape: int) -> bool:
        """Says whether the images of a look have the same bits in batches of `shape`, at all of their places."""
        for turn, marks in enumerate(whole.marks):
            noise = _noise(whole.one, len(marks), turn)
            for start in range(0, len(marks), shape):
                which = torch.arange(start, start + shape) % len(marks)
                if not torch.equal(self._marks(whole.one, noise, which), marks[which]):
                    return False
        return self._products(whole.one, shape).same(whole.products)

    def _products(self, one: torch.Tensor, places: int) -> ProductOrder:
        """Has the tower of 16-bit numbers compute a batch, and says in which order its products are added up."""
        products = ProductOrder()
        if self._short:
            with products:
                self._tower(_batch(one, _noise(one, 1, 0), torch.zeros(places, dtype=torch.int64)))
        return products

    def _marks(self, one: torch.Tensor, noise: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Has the tower compute a batch, and says what tells its rows' bits apart.

        Args:
            one: (1, ...) of what the tower takes.
            noise: (I, M) images, see `_noise`.
            which: (N,) the image at each place.

        Returns:
            (N, M) int64 on the CPU: two sums of the bits of each row of what is watched, and of the output.
        """
        batch = _batch(one, noise, which)
        seen: list[torch.Tensor] = []
        thread = threading.get_ident()

        def keep(_: nn.Module, __: Any, tokens: torch.Tensor) -> None:
            if threading.get_ident() == thread and len(tokens) == len(which):  # other threads may be in the same block
                seen.append(row_sums(tokens))

        hooks = [module.register_forward_hook(keep) for module in self._watched]
        try:
            out = self._tower(batch)
        finally:
            for hook in hooks:
                hook.remove()
        seen.append(row_sums(out[0] if isinstance(out, tuple) else out))
        return torch.cat(seen, dim=1).cpu()


def _watched(tower: nn.Module) -> list[nn.Module]:
    """What is watched besides the output, where the tower is a transformer of open_clip.

    It is the first block, whose output is all tokens: one bit's difference there may be rounded away in the end, and of another
    image not.
    """
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) < 2:
        return []
    return [blocks[0]]


def _batch(one: torch.Tensor, noise: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """The batch of these images, in memory as the real ones lie: see `_marks`."""
    shape, strides = (len(which), *one.shape[1:]), (noise.shape[1], *one.stride()[1:])
    return noise.index_select(0, which.to(noise.device)).as_strided(shape, strides)


def _noise(one: torch.Tensor, images: int, turn: int) -> torch.Tensor:
    """Noise instead of an image, which may be black, and leave nothing to round; of a text, its tokens moved along.

    Args:
        one: (1, ...) of what the tower takes.
        images: How many to make.
        turn: Each turn has others.

    Returns:
        (I, M) images, each as its numbers lie in memory: windows of one sequence, for noise takes longer to make than to copy.
    """
    if not one.is_floating_point():
        return torch.cat([one.roll(turn * images + number, dims=-1) for number in range(images)])
    size = one[0].numel()
    sequence = torch.randn(size + (images - 1) * _WINDOW_STEP, generator=torch.Generator().manual_seed(turn)) * 64
    return sequence.to(one.device, one.dtype).unfold(0, size, _WINDOW_STEP)


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
