"""Embeddings depend on their image alone: float32, before they are rounded, at every place of a batch and with any neighbours."""

import functools
import json
import logging
import os
import pathlib
import tempfile

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from beam_curate.clip import visual_tower
from beam_curate.clip.activations import _in_whole_steps, separate_activations
from beam_curate.clip.independent_rows import IndependentRows
from beam_curate.clip.text_tower import build_text_tower
from beam_curate.clip.visual_tower import build_visual_tower
from beam_curate.clip.weights import find_weights
from tests.conftest import torch_threads
from tests.support import forked

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
LOG = "beam_curate.clip.independent_rows"


def unrounded(tower, pixels):
    """(N, D) float32 of a tower for the CPU, before they become float16."""
    real = torch.Tensor.to
    torch.Tensor.to = lambda tensor, *args, **options: (
        tensor if args == (torch.float16,) else real(tensor, *args, **options)
    )
    try:
        return tower.embed(pixels)
    finally:
        torch.Tensor.to = real


TEXT = {"context_length": 8, "vocab_size": 10, "width": 32, "heads": 1, "layers": 1}
# ViT-B-32-256 with two blocks of its twelve, and small ones of other kinds: convolutions, and pooling by attention.
TOWERS = {
    "wide-of-two-blocks": {"image_size": 256, "layers": 2, "width": 768, "patch_size": 32},
    "quick": {"image_size": 224, "layers": 3, "width": 256, "patch_size": 32},
    "small-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "small-coca": {"image_size": 64, "layers": 2, "width": 128, "patch_size": 16, "attentional_pool": True,
                   "attn_pooler_heads": 8, "output_tokens": True},
    "small-convnext": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
}  # fmt: skip


def add_models():
    """Makes the towers known to open_clip."""
    with tempfile.TemporaryDirectory() as folder:
        for name, vision in TOWERS.items():
            width = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": TEXT, "quick_gelu": name == "quick"}
            (pathlib.Path(folder) / f"{name}.json").write_text(json.dumps(width))
        open_clip.add_model_config(pathlib.Path(folder))


@functools.cache
def built(name, precision):
    """A tower of these, which looks at each size of a batch by itself."""
    add_models()
    return build_visual_tower(find_weights(name, "random"), precision=precision, device="cpu")


def differing(name, precision, batch, threads):
    """At how many places of a batch, or with how many kinds of neighbours, an image has another embedding than elsewhere."""
    with torch_threads(threads):
        return _differing(built(name, precision), batch)


def _differing(tower, batch):
    numbers = np.random.default_rng(batch)
    size = tower.describe().image_size
    image, *others = numbers.integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    rows = unrounded(tower, np.repeat(image[None], batch, axis=0))
    assert rows.dtype == np.float32
    found = int((rows != rows[:1]).any(axis=1).sum())
    for place, other in ((0, others[0]), (batch // 2, others[1]), (batch - 1, np.zeros_like(image))):
        mixed = np.repeat(other[None], batch, axis=0)
        mixed[place] = image
        found += not np.array_equal(unrounded(tower, mixed)[place], rows[0])
    together = tower._independent.all_together
    return found, together


def in_a_process(cases, **environment):
    """What `differing` says in a process of its own, whose products are its first."""
    code = f"from tests.clip.test_independent_rows import differing\nfor case in {cases!r}: print(*differing(*case))"
    code += "\nimport torch; print(torch.backends.cpu.get_cpu_capability(), 0)"
    kept = {name: value for name, value in os.environ.items() if name not in {"MKL_CBWR", *AVX2}}
    done = forked.run(code, env={**kept, **environment})
    *found, (capability, _) = [tuple(line.split()) for line in done.stdout.splitlines()]
    assert capability.lower() == environment.get("ATEN_CPU_CAPABILITY", capability.lower())
    return found


CASES = [
    ("wide-of-two-blocks", precision, batch, threads)
    for precision in ("fp32", "bf16")
    for batch, threads in ((4, 2), (5, 2), (3, 3))
] + [(name, precision, 5, 2) for name in list(TOWERS)[1:] for precision in ("fp32", "bf16")]


@pytest.mark.parametrize("instructions", [{}, AVX2], ids=["as it is", "AVX2"])
def test_rows_are_the_same_at_all_places(instructions):
    found = in_a_process(CASES, **instructions)
    assert [differ for differ, _ in found] == ["0"] * len(CASES)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch has no MKL here")
def test_they_are_where_mkl_cannot_be_told_any_more():
    code = (
        "import torch; torch.randn(4, 4) @ torch.randn(4, 4); import logging; logging.basicConfig(); "
        "from tests.clip.test_independent_rows import differing; print(*differing('wide-of-two-blocks', 'fp32', 4, 2))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    done = forked.run(code, env=environment)
    differ, together = done.stdout.split()
    assert differ == "0"
    # Not every MKL on every processor cuts the rows so that it matters; where it does, it is said.
    assert (together == "False") == ("start it with MKL_CBWR=AUTO" in done.stderr)


@pytest.mark.usefixtures("two_threads")
def test_texts_likewise():
    tower = build_text_tower(find_weights("ViT-S-32-alt", "random"))
    rows = tower.embed(["a dog"] * 8 + ["a dog", "a cat", "", "some longer words about a dog in a garden"])
    assert np.array_equal(rows[:9], np.repeat(rows[:1], 9, axis=0))
    assert not np.array_equal(rows[9], rows[0])


class Placed(nn.Module):
    """A tower whose rows depend on their place where there are several: the fault that torch's products have."""

    def __init__(self, width=6):
        super().__init__()
        self.line = nn.Linear(width, 3)
        self.calls = []

    def forward(self, batch):
        self.calls.append(len(batch))
        places = torch.arange(len(batch)) // 3
        return self.line(batch) * (1 + places[:, None] * 1e-7)


@torch.inference_mode()
def test_images_go_alone_through_a_tower_whose_rows_differ_by_place(caplog):
    torch.manual_seed(0)
    tower, batch = Placed(), torch.randn(5, 6)
    rows = IndependentRows(tower)
    with caplog.at_level(logging.WARNING, LOG):
        out = rows.call(tower, batch)
    assert tower.calls == [5, 1, 1, 1, 1, 1]
    assert "2 of 5 places differ from the first" in caplog.text
    assert torch.equal(out, torch.cat([tower(one[None]) for one in batch]))
    tower.calls.clear()
    caplog.clear()
    rows.call(tower, batch.flip(0))
    assert tower.calls == [1] * 5  # looked into and told once
    assert torch.equal(rows.call(tower, batch[:3]), tower(batch[:3]))
    assert tower.calls[5:] == [3, 3, 3]  # of this size they do not differ
    assert not caplog.records


def sized(grain):
    """A tower whose rows depend on the size of the batch, in steps of `grain`, by a bit in a block that the end rounds away."""

    class Block(nn.Module):
        def forward(self, batch):
            return batch * (1 + len(batch) // grain * 1e-7)

    class Rounding(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = nn.Module()
            self.transformer.resblocks = nn.ModuleList([Block(), nn.Identity()])

        def forward(self, batch):
            return self.transformer.resblocks[0](batch).half().float()

    return Rounding()


@torch.inference_mode()
@pytest.mark.parametrize(("grain", "shapes"), [(100, [4, 4, 8, 16, 32]), (10, [32, 32, 32, 32, 32]), (1, [32] * 5)])
def test_a_tail_is_a_smaller_batch_only_where_that_gives_the_same_bits(grain, shapes):
    rows = IndependentRows(sized(grain))
    one = torch.zeros(1, 6)
    assert [rows.shape(count, 32, one) for count in (0, 4, 5, 15, 17)] == shapes
    assert rows.shape(32, 32, one) == 32
    assert rows.shape(1, 1, one) == 1


class Rarely(nn.Module):
    """A tower of 16-bit numbers with a fault that a third of all images of noise do not show, by their first number."""

    def __init__(self, sign, wrong):
        super().__init__()
        self.line = nn.Linear(6, 3, dtype=torch.bfloat16)
        self.sign, self.wrong = sign, wrong

    def forward(self, batch):
        shown = (batch[:, :1] * self.sign > -32) & self.wrong(len(batch))[:, None]
        return self.line(batch) * (1 + shown * 2**-6)


@torch.inference_mode()
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("wrong", [0, 5, 31])
def test_a_fault_of_one_place_that_few_images_show_is_found(sign, wrong):
    torch.manual_seed(0)
    rows = IndependentRows(Rarely(sign, lambda places: torch.arange(places) == wrong))
    rows.look(32, torch.zeros(1, 6, dtype=torch.bfloat16))
    assert not rows.all_together


@torch.inference_mode()
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("wrong", [0, 3])
def test_a_tail_is_not_smaller_where_few_images_show_that_it_is_not_the_same(sign, wrong):
    torch.manual_seed(0)
    rows = IndependentRows(Rarely(sign, lambda places: (torch.arange(places) == wrong) & (places < 32)))
    assert rows.shape(3, 32, torch.zeros(1, 6, dtype=torch.bfloat16)) == 32
    assert rows.all_together


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_rows_of_a_tail_are_those_of_a_whole_batch(precision):
    tower = build_visual_tower(find_weights("ViT-S-32-alt", "random"), precision=precision, device="cpu")
    pixels = np.random.default_rng(4).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    whole, sizes = tower.embed(pixels), []
    tower._module.register_forward_hook(lambda _, given, out: sizes.append(len(given[0])))
    for count in (1, 2, 3, 4, 5):
        assert np.array_equal(tower.embed(pixels[:count], 8), whole[:count])
    assert max(sizes) == 8
    assert all(size <= 8 for size in sizes)


class PlacedMlp(nn.Module):
    """A block's part with the same fault: the later images' values are one step larger."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, tokens):
        out = self.part(tokens)
        return torch.cat([out[:2], out[2:] * (1 + 2**-20)])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("small-coca", "transformer.resblocks.0.mlp"),
        ("small-resnet", "layer4"),
        ("small-convnext", "trunk.stages.2"),
    ],
)
def test_the_look_finds_a_fault_within_each_kind_of_tower(name, part, caplog):
    add_models()
    tower = build_visual_tower(find_weights(name, "random"), precision="fp32", device="cpu")
    size = tower.describe().image_size
    batch = np.repeat(np.random.default_rng(1).integers(0, 256, (1, size, size, 3), dtype=np.uint8), 4, axis=0)
    place, _, child = part.rpartition(".")
    above = tower._module.get_submodule(place)
    setattr(above, child, PlacedMlp(above.get_submodule(child)))
    with torch.inference_mode(), caplog.at_level(logging.WARNING, LOG):
        rows = unrounded(tower, batch)
    assert (rows == rows[:1]).all()
    assert "2 of 4 places differ from the first" in caplog.text


@torch.inference_mode()
def test_the_look_goes_through_two_blocks_alone_and_changes_nothing():
    tower = build_visual_tower(find_weights("ViT-S-32-alt", "random"), precision="fp32", device="cpu")
    blocks = list(tower._module.transformer.resblocks)
    seen = []
    for number, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, number=number: seen.append(number))
    tower.embed(np.zeros((2, 224, 224, 3), np.uint8))
    last = len(blocks) - 1
    assert seen[:2] == [0, last]
    assert seen[2 : 2 + len(blocks)] == list(range(len(blocks)))
    assert list(tower._module.transformer.resblocks) == blocks


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [nn.GELU(), QuickGELU(), nn.SiLU(), nn.Sigmoid(), nn.GELU("tanh")])
def test_activations_are_the_same_at_all_places(activation, dtype, threads):
    torch.manual_seed(0)
    with torch_threads(threads):
        module = nn.Sequential(nn.Identity(), activation)
        separate_activations(module)
        separate_activations(module)  # a second time does nothing
        for width in (1001, 1024):
            one = torch.randn(1, 65, width).to(dtype)
            batch = one.expand(5, -1, -1).contiguous()
            out = module(batch)
            assert torch.equal(out, out[:1].expand_as(out))
            torch.testing.assert_close(out, activation(batch))


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [nn.GELU(), QuickGELU(), nn.SiLU(), nn.Sigmoid(), nn.GELU("tanh")])
def test_activations_are_applied_to_the_whole_batch_only_where_places_do_not_matter(activation, dtype, threads):
    """Numbers that are shuffled give the same values where the batch is computed at once, and it is whenever that holds."""
    torch.manual_seed(0)
    with torch_threads(threads):
        for length, whole in ((threads * 128 * 300, True), (threads * 128 * 300 + 16, False), (128 * 129, False)):
            batch, order = torch.randn(length).to(dtype), torch.randperm(length)
            assert _in_whole_steps(batch) == whole
            if whole:
                assert torch.equal(activation(batch)[order], activation(batch[order]))
        pictures = torch.empty(4, 64, 32, 16 * threads)
        assert _in_whole_steps(pictures)
        assert _in_whole_steps(pictures.contiguous(memory_format=torch.channels_last))
        assert not _in_whole_steps(pictures.transpose(1, 2))


def test_towers_for_the_cpu_have_all_their_activations_separated():
    for name in ("ViT-S-32-alt", "RN50"):
        tower = build_visual_tower(find_weights(name, "random"), precision="fp32", device="cpu")._module
        curved = [module for module in tower.modules() if isinstance(module, nn.GELU | nn.SiLU | QuickGELU)]
        wrapped = [module for module in tower.modules() if type(module).__name__ == "_AtAnyPlace"]
        assert len(curved) == len(wrapped)
        assert wrapped or name == "RN50"
    assert visual_tower.separate_activations is separate_activations
