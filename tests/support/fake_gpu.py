"""A GPU for tests on machines without one: torch knows the shapes and places of its tensors, and computes nothing."""

import contextlib
from collections.abc import Iterator

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from beam_curate.clip import independent_rows, visual_tower
from beam_curate.clip.product_order import ProductOrder
from beam_curate.clip.visual_tower import VisualTower, build_visual_tower
from beam_curate.clip.weights import find_weights

CUDA = torch.device("cuda:0")


def made_up_events(monkeypatch, waits: list) -> None:
    """Puts events in the place of CUDA's that note each wait for them: `sleeping` or `busy`, and for which stream."""

    class Event:
        def __init__(self, blocking=False):
            self._how, self._stream = "sleeping" if blocking else "busy", None

        def record(self, stream):
            self._stream = stream

        def synchronize(self):
            waits.append((self._how, self._stream))

    monkeypatch.setattr(torch.cuda, "Event", Event)


def without_pinning(monkeypatch) -> list:
    """Has memory that CUDA is to pin be ordinary memory; gives the list of what was asked for."""
    empty, pinned = torch.empty, []

    def unpinned(*shape, pin_memory=False, **how):
        made = empty(*shape, **how)
        if pin_memory:
            pinned.append(made)
        return made

    monkeypatch.setattr(torch, "empty", unpinned)
    return pinned


class Operations(TorchDispatchMode):
    """What torch was asked to do in the block.

    Attributes:
        names: The operations, in order.
        moved: From which device to which one tensors have gone: an operation that reads one and writes to the other.
    """

    def __init__(self):
        super().__init__()
        self.names, self.moved = [], []

    def __torch_dispatch__(self, function, types, given=(), named=None):
        out = function(*given, **(named or {}))
        self.names.append(str(function))
        if isinstance(out, torch.Tensor):
            places = {each.device.type for each in given if isinstance(each, torch.Tensor)} - {out.device.type}
            self.moved += [(place, out.device.type) for place in places]
        return out


@contextlib.contextmanager
def tower_on_fake_gpu(monkeypatch, model: str) -> Iterator[VisualTower]:
    """A model in bf16 whose weights and pixels lie on the GPU; whatever waits for a value of the GPU raises.

    But the result, which goes to the host, is a tensor. The look at the first batch of each size is left out.
    """
    monkeypatch.setattr(visual_tower, "separate_activations", lambda module: None)  # as a tower is on a GPU
    tower = build_visual_tower(find_weights(model, "random"), precision="bf16", device="cpu", quick_gelu=True)

    def there(tensor):
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)

    look = independent_rows._Look(one=torch.empty(0), differ=0, marks=[], products=ProductOrder())
    monkeypatch.setattr(independent_rows.IndependentRows, "_looked", lambda self, places, one: look)
    monkeypatch.setattr(independent_rows.IndependentRows, "_as_in", lambda self, whole, shape: True)
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: "the model's")
    made_up_events(monkeypatch, [])
    without_pinning(monkeypatch)
    with FakeTensorMode():
        for module in tower._module.modules():
            for name, tensor in [*module._parameters.items()]:
                if tensor is not None:
                    module._parameters[name] = torch.nn.Parameter(there(tensor), requires_grad=False)
        for name in ("_shift", "_scale", "_one"):
            setattr(tower, name, there(getattr(tower, name)))
        tower._device = CUDA
        yield tower
