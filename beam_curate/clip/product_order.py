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
# torch's fast path of attention multiplies by these of its arguments, and the bias stands behind each: on a CPU as matmul does,
# on a GPU as linear does, which is another kernel. Source: ATen/native/transformers/attention.cpp and cuda/attention.cu,
# native_multi_head_attention_cuda (without a mask, and open_clip's masks do not come this way).
_ATTENTION: Final = _aten._native_multi_head_attention.default
_ATTENTION_WEIGHTS: Final = (5, 7)
_PIECES: Final = 8  # in which rows are made, so that they are not twice in memory


class _Product(NamedTuple):
    """A kind of product, without the numbers that go in.

    Attributes:
        func: What of torch is called.
        args: Its arguments; where the rows stand is None.
        kwargs: Its arguments by name.
        shape: Of the rows.
        strides: Of the rows.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: torch.Size
    strides: tuple[int, ...]

    @property
    def place(self) -> _Operands:
        """Where its operands are."""
        return _MATRICES.get(self.func) or _CONVOLUTIONS[self.func]


class ProductOrder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no types
    """Computes each kind of product once more that this thread has computed while it was entered, with terms that cancel.

    What the thread calls gives what it gives without this. The products come when it is left and the thread's own numbers are out
    of memory: they find room wherever a batch does.
    """

    def __init__(self) -> None:
        """Notes nothing yet."""
        super().__init__()  # type: ignore[no-untyped-call]  # nor has this
        self._marks: list[torch.Tensor] = []  # of each kind, (C, 2): what tells the results of C different rows apart
        self._differing: list[torch.Tensor] = []  # of each kind, (M,): the result is not that of the first row like it
        self._products: dict[tuple[Any, ...], _Product] = {}

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
                if args[0].device.type == "cpu":
                    self._note(_aten.matmul.default, (args[0], args[weights].t()), {})
                else:
                    self._note(_aten.linear.default, (args[0], args[weights], args[weights + 1]), {})
        elif func in _MATRICES or func in _CONVOLUTIONS:
            self._note(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        place = _MATRICES.get(func) or _CONVOLUTIONS[func]
        rows, weights = args[place.rows], args[place.weights]
        kind = (func, rows.shape, rows.stride(), weights.shape, weights.stride())
        # A product of two batches, as in attention, is one for each image; a convolution of each channel adds up too little.
        if rows.dim() > 1 and (weights.dim() == 2 if func in _MATRICES else weights.shape[1] == rows.shape[1]):
            others = (*args[: place.rows], None, *args[place.rows + 1 :])
            self._products.setdefault(kind, _Product(func, others, kwargs, rows.shape, rows.stride()))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Computes what was seen, unless the block has failed."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]  # nor has this
        products, self._products = self._products, {}
        for product in products.values() if error is None else ():
            self._look_at(product)

    def _look_at(self, product: _Product) -> None:
        func, place, made = product.func, product.place, list(product.args)
        weights, shape, matrices = made[place.weights], product.shape, func in _MATRICES
        numbers = torch.Generator().manual_seed(len(self._marks))
        order = torch.randperm(weights.shape[1 - place.columns], generator=numbers)
        columns = _cancelling(weights.movedim(place.columns, 0).shape[1:], -1, order, numbers, weights)
        values = columns[torch.arange(weights.shape[place.columns]) % _CONTENTS].movedim(0, place.columns)
        made[place.weights] = _empty(weights.shape, weights.stride(), weights).copy_(values)
        together = shape[:-1] if matrices else shape[:1]  # the dimensions along which rows lie
        contents = _cancelling(shape[len(together) :], 1, order, numbers, weights)
        total = math.prod(together)
        count = max(1, min(_CONTENTS, total // 4))
        which = torch.arange(total) % count
        which = which[torch.randperm(total, generator=torch.Generator().manual_seed(total))]
        rows = made[place.rows] = _empty(shape, product.strides, weights)
        size = -(-len(rows) // _PIECES)
        contained = which.to(rows.device).view(together)
        for part, content in zip(torch.split(rows, size), torch.split(contained, size), strict=True):
            part.copy_(contents[content])
        if place.bias is not None and len(made) > place.bias and made[place.bias] is not None:
            made[place.bias] = torch.zeros_like(made[place.bias])
        sums = row_sums(func(*made, **product.kwargs).reshape(total, -1)).cpu()
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


def _empty(shape: torch.Size, strides: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Room for numbers on the device and of the type of `like`, with these strides, if each number then has its own place."""
    if 0 in strides:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    return torch.empty_strided(shape, strides, dtype=like.dtype, device=like.device)
