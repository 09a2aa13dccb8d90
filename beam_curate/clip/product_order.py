"""Shows whether a tower's products add up a row's terms in the same order at all places, and in batches of several sizes.

A product of 16-bit numbers is added up in 32 bits and rounded to 16: another order of adding changes about one number of ten
thousand, so that few images of noise may not show it. Here the terms of each sum cancel in pairs. What is left is the rounding of
the 32-bit sums alone, and that is another number for another order: products of 1 and of 32 rows by the same 384 x 384 bf16
matrix (AMX, torch 2.13) gave equal rows of noise, and of such rows three numbers of four differed.

Libraries choose the kernel of a product by the shapes, the strides and the type of its operands, and not by their values.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from beam_curate.clip.row_sums import row_sums

# The noise is spread over powers of two: in 32 bits, sums of few numbers of one size are exact in any order. Of sums of 64 terms
# of bf16 from the last to the first 18 % differ without it, and 81 % with it.
_SPREAD: Final = 5
# Different columns of a product, and at most as many different rows, each at four places or more.
_CONTENTS: Final = 16


class _Operands(NamedTuple):
    """Where a function has its operands."""

    rows: int
    weights: int
    bias: int | None
    columns: int  # dimension of the weights; the other one, or the next one, is added up


_aten: Any = torch.ops.aten
# In inference mode linear, matmul and conv2d come as they were called.
_MATRICES: Final[Mapping[Any, _Operands]] = {
    _aten.linear.default: _Operands(rows=0, weights=1, bias=2, columns=0),
    _aten.matmul.default: _Operands(rows=0, weights=1, bias=None, columns=1),
    _aten.mm.default: _Operands(rows=0, weights=1, bias=None, columns=1),
    _aten.addmm.default: _Operands(rows=1, weights=2, bias=0, columns=1),
}
_CONVOLUTIONS: Final[Mapping[Any, _Operands]] = {
    _aten.conv2d.default: _Operands(rows=0, weights=1, bias=2, columns=0),
    _aten.convolution.default: _Operands(rows=0, weights=1, bias=2, columns=0),
}
# torch's fast path of attention multiplies by these of its arguments, as matmul does.
_ATTENTION: Final = _aten._native_multi_head_attention.default
_ATTENTION_WEIGHTS: Final = (5, 7)


class ProductOrder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no types
    """While it is entered, each kind of product in this thread is computed once more, with terms that cancel.

    What the thread calls gives what it gives without this.
    """

    def __init__(self) -> None:
        """Notes nothing yet."""
        super().__init__()  # type: ignore[no-untyped-call]  # nor has this
        self._marks: list[torch.Tensor] = []  # of each kind, (C, 2): what tells the results of C different rows apart
        self._differing: list[torch.Tensor] = []  # of each kind, (M,): the result is not that of the first row like it
        self._seen: set[tuple[Any, ...]] = set()

    def differing(self, places: int) -> torch.Tensor:
        """(N,) the places of a batch of N in which some row of a product is not as at another place."""
        found = torch.zeros(places, dtype=torch.bool)
        for rows in self._differing:
            found |= rows.view(places, -1).any(dim=1) if len(rows) % places == 0 else rows.any()
        return found

    def same(self, whole: "ProductOrder") -> bool:
        """Says whether all products gave the same bits as those of a larger batch, at all places."""
        if len(self._marks) != len(whole._marks) or any(rows.any() for rows in self._differing):
            return False
        pairs = zip(self._marks, whole._marks, strict=True)
        return all(torch.equal(marks, others[: len(marks)]) for marks, others in pairs)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Says to torch that its compiler may see this; else it imports the compiler, in 1.6 s, to keep it out."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Passes each call of torch on."""
        if func is _ATTENTION:
            for weights in _ATTENTION_WEIGHTS:
                self._note(_aten.matmul.default, (args[0], args[weights].t()), {})
        elif func in _MATRICES or func in _CONVOLUTIONS:
            self._note(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        place = _MATRICES.get(func) or _CONVOLUTIONS[func]
        rows, weights, made = args[place.rows], args[place.weights], list(args)
        kind = (func, rows.shape, rows.stride(), weights.shape, weights.stride())
        matrices = func in _MATRICES
        # A product of two batches, as in attention, is one for each image; a convolution of each channel adds up too little.
        if kind in self._seen or (weights.dim() != 2 if matrices else weights.shape[1] != rows.shape[1]):
            return
        self._seen.add(kind)
        numbers = torch.Generator().manual_seed(len(self._marks))
        order = torch.randperm(weights.shape[1 - place.columns], generator=numbers)
        columns = _cancelling(weights.movedim(place.columns, 0).shape[1:], -1, order, numbers, weights)
        values = columns[torch.arange(weights.shape[place.columns]) % _CONTENTS].movedim(0, place.columns)
        made[place.weights] = _like(weights, values)
        together = rows.shape[:-1] if matrices else rows.shape[:1]  # the dimensions along which rows lie
        contents = _cancelling(rows.shape[len(together) :], 1, order, numbers, rows)
        total = math.prod(together)
        count = max(1, min(_CONTENTS, total // 4))
        which = torch.arange(total) % count
        which = which[torch.randperm(total, generator=torch.Generator().manual_seed(total))]
        made[place.rows] = _like(rows, contents[which.to(rows.device)].view(rows.shape))
        if place.bias is not None and len(args) > place.bias and args[place.bias] is not None:
            made[place.bias] = torch.zeros_like(args[place.bias])
        sums = row_sums(func(*made, **kwargs).reshape(total, -1)).cpu()
        first = torch.stack([(which == content).nonzero()[0, 0] for content in range(count)])
        self._marks.append(sums[first])
        self._differing.append((sums != sums[first][which]).any(dim=1))


def _cancelling(
    shape: Sequence[int], sign: int, order: torch.Tensor, numbers: torch.Generator, like: torch.Tensor
) -> torch.Tensor:
    """(C, *shape) noise, as `like` is; along the first dimension of `shape` one half is the other times `sign`."""
    half = [_CONTENTS, shape[0] // 2, *shape[1:]]
    noise = torch.randn(half, generator=numbers)
    noise *= torch.exp2(torch.randint(-_SPREAD, _SPREAD + 1, half, generator=numbers))
    odd = torch.zeros(_CONTENTS, shape[0] % 2, *shape[1:])
    return torch.cat([noise, noise * sign, odd], dim=1)[:, order].to(like)


def _like(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The values as the tensor lies in memory: its strides, if each number has its own place, and its device."""
    strides = tensor.stride() if 0 not in tensor.stride() else values.stride()
    made = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return made.copy_(values)
