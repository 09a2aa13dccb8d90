"""Another order of adding up is found where 16 bits hide it; what is found is compared with many plain products."""

import logging

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from beam_curate.clip import row_sums
from beam_curate.clip.independent_rows import IndependentRows
from beam_curate.clip.product_order import ProductOrder

ATEN = torch.ops.aten


class Kernels(TorchDispatchMode):
    """A library that begins the sums of some rows with another term.

    Args:
        which: These rows, of a batch of so many: (M,) bool.
    """

    def __init__(self, which):
        super().__init__()
        self.which = which

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is ATEN.linear.default:
            rows, weights, bias = args
            return (self.product(rows.float(), weights.float().T) + bias).to(rows.dtype)
        if func is ATEN.conv2d.default:
            rows, weights, bias = args[:3]
            patches = functional.unfold(rows.float(), weights.shape[2:]).permute(0, 2, 1)
            out = self.product(patches, weights.float().flatten(1).T) + bias
            return out.permute(0, 2, 1).unflatten(2, [size - 2 for size in rows.shape[2:]]).to(rows.dtype)
        return func(*args, **(kwargs or {}))

    def product(self, rows, weights):
        """(M, ..., E) float32, one term after the other."""
        shape = (len(rows), *[1] * (rows.dim() - 1))
        out, other = (torch.zeros(*rows.shape[:-1], weights.shape[1]) for _ in range(2))
        terms = rows.shape[-1]
        for term in range(terms):
            out += rows[..., term, None] * weights[term]
            later = (term + 5) % terms
            other += rows[..., later, None] * weights[later]
        return torch.where(self.which(len(rows)).view(shape), other, out)


def line():
    return nn.Linear(64, 8, dtype=torch.bfloat16)


def picture():
    return nn.Sequential(nn.Conv2d(16, 8, 3, dtype=torch.bfloat16), nn.Flatten())


TOWERS = [(line, (1, 64)), (picture, (1, 16, 5, 5))]


@torch.inference_mode()
@pytest.mark.parametrize(("tower", "shape"), TOWERS, ids=["line", "picture"])
def test_a_tail_is_whole_where_a_smaller_product_is_added_up_in_another_order(tower, shape):
    torch.manual_seed(0)
    tower, one = tower(), torch.zeros(shape, dtype=torch.bfloat16)
    noise = torch.randn(4, *shape[1:]).bfloat16()
    with Kernels(lambda rows: torch.full((rows,), rows < 16)):
        # Few images do not show it.
        assert torch.equal(tower(noise), tower(noise.repeat(4, *[1] * (noise.dim() - 1)))[:4])
        rows = IndependentRows(tower)
        assert [rows.shape(count, 32, one) for count in (1, 5, 9, 16)] == [16] * 4
        assert rows.all_together
    with Kernels(lambda rows: torch.zeros(rows, dtype=torch.bool)):
        rows = IndependentRows(tower)
        assert [rows.shape(count, 32, one) for count in (1, 5, 9, 16)] == [4, 8, 16, 16]


@torch.inference_mode()
@pytest.mark.parametrize("wrong", [0, 3, 7])
@pytest.mark.parametrize(("tower", "shape"), TOWERS, ids=["line", "picture"])
def test_images_go_alone_where_one_place_is_added_up_in_another_order(tower, shape, wrong, caplog):
    torch.manual_seed(0)
    tower, one = tower(), torch.zeros(shape, dtype=torch.bfloat16)
    with Kernels(lambda rows: torch.arange(rows) == wrong), caplog.at_level(logging.WARNING):
        rows = IndependentRows(tower)
        rows.look(8, one)
    assert not rows.all_together
    assert " of 8 places differ from the first" in caplog.text


@torch.inference_mode()
def test_the_tower_computes_what_it_computes_without_a_look():
    torch.manual_seed(0)
    tower = nn.Sequential(line(), nn.GELU(), nn.Linear(8, 3, dtype=torch.bfloat16))
    batch = torch.randn(5, 64).bfloat16()
    plain = tower(batch)
    with ProductOrder():
        assert torch.equal(tower(batch), plain)


@torch.inference_mode()
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, groups=8, dtype=torch.bfloat16),
        nn.Conv2d(8, 4, 3, groups=2, bias=False, dtype=torch.bfloat16),
        nn.Conv2d(7, 4, 3, bias=False, dtype=torch.bfloat16),
        nn.Conv2d(1, 4, 3, dtype=torch.bfloat16),
    ],
)
def test_other_convolutions_are_computed_too(layer):
    batch = torch.randn(5, layer.in_channels, 6, 6).bfloat16()
    with ProductOrder() as found:
        assert torch.equal(layer(batch), layer(batch.clone()))
    assert not found.differing(5).any()


def order(rows, inner, outer):
    """What the product of a layer shows."""
    with torch.inference_mode(), ProductOrder() as found:
        functional.linear(torch.zeros(rows, inner).bfloat16(), torch.zeros(outer, inner).bfloat16())
    return found


@torch.inference_mode()
@pytest.mark.parametrize(("inner", "outer"), [(384, 384), (384, 1536), (1536, 384), (768, 512)])
def test_products_that_are_said_to_be_the_same_give_the_same_numbers(inner, outer):
    """Of two thousand rows, in the products of whatever processor this is: not by ours, but by plain products."""
    numbers = torch.Generator().manual_seed(1)
    rows = torch.randn(2048, inner, generator=numbers).bfloat16()
    weights = torch.randn(outer, inner, generator=numbers).bfloat16()
    whole = torch.cat([functional.linear(part, weights) for part in rows.split(32)])
    for size in (1, 2, 4, 8, 16):
        found = order(size, inner, outer)
        assert not found.differing(size).any()
        if found.same(order(32, inner, outer)):
            assert torch.equal(torch.cat([functional.linear(part, weights) for part in rows.split(size)]), whole)


class Held(TorchDispatchMode):
    """Counts the bytes of tensors that are in memory at the same time.

    Attributes:
        most: At the peak.
    """

    def __init__(self):
        super().__init__()
        self.most, self._made = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        here = {each.untyped_storage()._cdata for each in args if isinstance(each, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage()._cdata not in here:
            self._made.append((StorageWeakRef(out.untyped_storage()), out.untyped_storage().nbytes()))
        self._made = [(storage, size) for storage, size in self._made if not storage.expired()]
        self.most = max(self.most, sum(size for _, size in self._made))
        return out


@torch.inference_mode()
@pytest.mark.parametrize("places", [64, 16])
def test_a_look_fits_where_a_batch_fits(monkeypatch, places):
    """On a GPU whose memory a batch nearly fills, the batch would be halved for good because of the look."""
    monkeypatch.setattr(row_sums, "_NUMBERS_AT_ONCE", 1 << 12)
    tower = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(inplace=True), nn.Linear(1024, 64)).bfloat16()
    batch = torch.randn(places, 64, 64).bfloat16()
    with Held() as call:
        tower(batch)
    rows = IndependentRows(tower)
    with Held() as look:
        rows.look(places, batch[:1])
    with Held() as smaller:
        rows.shape(1, places, batch[:1])
    assert max(look.most, smaller.most) <= 1.1 * call.most + 4 * batch.nbytes


@torch.inference_mode()
@pytest.mark.parametrize(("device", "function"), [("cpu", "aten.matmul.default"), ("cuda", "aten.linear.default")])
def test_attention_is_looked_at_by_the_products_that_its_device_computes(monkeypatch, device, function):
    """torch's fast path: see its sources; on a GPU, a made-up one here, the bias is a part of the product."""
    seen = []
    monkeypatch.setattr(ProductOrder, "_look_at", lambda self, product: seen.append(product))
    with FakeTensorMode():
        attention = nn.MultiheadAttention(64, 4, batch_first=True, device=device, dtype=torch.bfloat16).eval()
        tokens = torch.empty(8, 5, 64, device=device, dtype=torch.bfloat16)
        with ProductOrder():
            attention(tokens, tokens, tokens, need_weights=False)
        assert [(str(each.func), each.shape) for each in seen] == [(function, (8, 5, 64))] * 2
        if device == "cuda":
            biases = [(tuple(each.args[1].shape), tuple(each.args[2].shape)) for each in seen]
            assert biases == [((192, 64), (192,)), ((64, 64), (64,))]
