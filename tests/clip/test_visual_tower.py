import json
import os
import re
from collections import OrderedDict

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch import nn

from beam_curate.clip import empty_towers, tower_weights, visual_tower
from beam_curate.clip.checkpoint import WeightsError
from beam_curate.clip.model_description import choose_device, choose_precision, describe_model
from beam_curate.clip.quick_gelu import fold_quick_gelu
from beam_curate.clip.visual_tower import build_visual_tower
from beam_curate.clip.weights import find_weights

FIRST_OF_SEED_5 = [-0.2196207344532013, 0.3381994664669037]
TEXT = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 1, "layers": 1}
VIT = {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16}
TINY = {
    "tiny-vit": (VIT, {}),
    "tiny-vit-quickgelu": (VIT, {"quick_gelu": True}),
    "tiny-gap": ({**VIT, "pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}, {}),
    "tiny-sincos": ({**VIT, "pos_embed_type": "sin_cos_2d", "ls_init_value": 0.5}, {}),
    "tiny-custom": ({**VIT, "qk_norm": True}, {}),
    "tiny-coca": (
        {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        {"custom_text": True, "multimodal_cfg": {**TEXT, "attn_pooler_heads": 1}},
    ),
    "tiny-resnet": ({"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}, {}),
    # Rotary embeddings: buffers that no checkpoint holds.
    "tiny-timm": ({"image_size": 224, "timm_model_name": "eva02_tiny_patch14_224", "timm_proj": "linear"}, {}),
}


@pytest.fixture(autouse=True, scope="module")
def _tiny_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    for name, (vision, rest) in TINY.items():
        config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT, **rest}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def reference(name, seed=0, **options):
    """open_clip's own model, of well-spread random weights."""
    torch.manual_seed(seed)
    model = open_clip.create_model(name, **options).eval()
    state = dict(tower_weights.random_state(model.visual.state_dict(), seed))
    for tensor in state.values():
        if tensor.ndim == 1:
            tensor.add_(0.1 * torch.randn_like(tensor).abs())  # biases and norms that matter
    model.visual.load_state_dict(state)
    return model


def saved(model, folder, name="weights.safetensors"):
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / name)
    return str(folder / name)


def photos(count, size=64, seed=0):
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.random((count, 3, 5, 5), dtype=np.float32))
    large = torch.nn.functional.interpolate(small, size, mode="bilinear")
    return (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def expected(model, pixels):
    """The embeddings as open_clip computes them: fp32, its own normalisation."""
    mean, std = (torch.tensor(getattr(model.visual, f"image_{which}")).view(3, 1, 1) for which in ("mean", "std"))
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.inference_mode():
        return model.encode_image(images, normalize=True).numpy()


@pytest.fixture
def exact(monkeypatch):
    """Embeddings before they are rounded to float16."""
    real = torch.Tensor.to

    def to(tensor, *args, **options):
        return tensor if args == (torch.float16,) else real(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)


@pytest.mark.parametrize("name", TINY)
def test_fp32_is_open_clips_encode_image(name, tmp_path, exact):
    model = reference(name)
    source = find_weights(name, saved(model, tmp_path))
    tower = build_visual_tower(source, precision="fp32", device="cpu", preprocess="openai")
    pixels = photos(4, tower.describe().image_size)
    got = tower.embed(pixels)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected(model, pixels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TINY)
def test_bf16_is_close_and_float16_comes_out(name, tmp_path):
    model = reference(name)
    source = find_weights(name, saved(model, tmp_path))
    tower = build_visual_tower(source, precision="bf16", device="cpu", preprocess="openai")
    assert tower.runtime() == ("cpu", "bf16")
    pixels = photos(4, tower.describe().image_size)
    got = tower.embed(pixels)
    assert got.dtype == np.float16
    assert got.shape == (4, 32)
    assert (got.astype(np.float32) * expected(model, pixels)).sum(1).min() >= 0.999
    np.testing.assert_allclose(np.linalg.norm(got.astype(np.float32), axis=1), 1, atol=2e-3)


def test_unfolded_normalisation_gives_the_same(tmp_path, exact, monkeypatch):
    model = reference("tiny-vit")
    source = find_weights("tiny-vit", saved(model, tmp_path))
    options = {"precision": "fp32", "device": "cpu", "preprocess": "openai"}
    folded = build_visual_tower(source, **options).embed(photos(4))
    monkeypatch.setattr(visual_tower.VisualTower, "_fold", lambda self: None)
    np.testing.assert_allclose(folded, build_visual_tower(source, **options).embed(photos(4)), rtol=0, atol=1e-6)


def test_the_last_block_runs_for_the_class_token_alone(tmp_path):
    tower = build_visual_tower(find_weights("tiny-vit", "random"), precision="fp32", device="cpu")
    seen = []
    tower._module.ln_post.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    tower.embed(photos(4))
    assert set(seen) == {(4, 1, 64)}  # by the look at rows of this batch size, too


def test_quick_gelu_changes_the_embeddings_and_is_decided_openly(tmp_path, exact):
    model = reference("tiny-vit", force_quick_gelu=True)
    plain, openai = saved(model, tmp_path), saved(model, tmp_path, "vit-openai.safetensors")
    right = expected(model, photos(4))

    def error(*source, **options):
        options |= {"precision": "fp32", "device": "cpu", "preprocess": "openai"}
        tower = build_visual_tower(find_weights(*source), **options)
        return np.abs(tower.embed(photos(4)) - right).max(), tower.describe().quick_gelu, tower.describe().quick_gelu_by

    assert error("tiny-vit", openai)[1:] == (True, "vit-openai.safetensors is a checkpoint of OpenAI's")
    assert error("tiny-vit", openai)[0] < 1e-6
    assert error("tiny-vit-quickgelu", plain)[:2] == (pytest.approx(0, abs=1e-6), True)
    assert error("tiny-vit", plain, quick_gelu=True)[0] < 1e-6
    assert error("tiny-vit", openai, quick_gelu=False)[0] > 1e-3
    wrong, used, by = error("tiny-vit", plain)
    assert wrong > 1e-3
    assert (used, by) == (False, "the configuration of tiny-vit")


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "RN50"])
def test_weights_that_may_need_quick_gelu_are_not_guessed(tmp_path, name):
    path = tmp_path / "mine.safetensors"
    save_file({"visual.x": torch.ones(1), "logit_scale": torch.tensor(4.6052)}, path)
    with pytest.raises(WeightsError, match=r"mine\.safetensors.*give `quick_gelu` yes"):
        describe_model(name, str(path))
    for choice in (True, False):
        model = describe_model(name, str(path), quick_gelu=choice, preprocess="openai")
        assert (model.quick_gelu, model.quick_gelu_by) == (choice, "the option quick_gelu")
    assert describe_model(f"{name}-quickgelu", str(path), preprocess="openai").quick_gelu is True
    assert describe_model(name, "random").quick_gelu is False


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-g-14", "EVA02-B-16"])
def test_weights_of_models_that_never_use_quick_gelu_need_no_word(tmp_path, name):
    save_file({"visual.x": torch.ones(1)}, tmp_path / "mine.safetensors")
    assert describe_model(name, str(tmp_path / "mine.safetensors")).quick_gelu is False


def test_transformers_directory_is_the_same_tower(tmp_path, exact):
    transformers = pytest.importorskip("transformers")
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision |= {"image_size": 64, "patch_size": 16, "projection_dim": 32, "initializer_range": 0.2}
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    full = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=vision,
            text_config={**text, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2},
            projection_dim=32,
        )
    ).eval()
    alone = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**vision)).eval()
    pixels = photos(4)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    for model, folder in ((full, tmp_path / "full"), (alone, tmp_path / "alone")):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        with torch.inference_mode():
            if model is full:
                want = model.visual_projection(model.vision_model(images).pooler_output)
            else:
                want = model(images).image_embeds
        source = find_weights("tiny-vit", str(folder))
        tower = build_visual_tower(source, precision="fp32", device="cpu", preprocess="openai")
        assert tower.describe().quick_gelu is True
        np.testing.assert_allclose(
            tower.embed(pixels), torch.nn.functional.normalize(want, dim=-1).numpy(), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["tiny-vit", "ViT-S-32-alt"])
def test_a_row_depends_on_its_image_alone(name, precision):
    tower = build_visual_tower(find_weights(name, "random"), precision=precision, device="cpu")
    size = tower.describe().image_size
    pixels, others = photos(6, size), photos(6, size, seed=9)
    rows = tower.embed(pixels)
    assert np.array_equal(tower.embed(pixels[::-1].copy()), rows[::-1])
    for place in (0, 3, 5) if size < 100 else (5,):
        mixed = others.copy()
        mixed[place] = pixels[3]
        assert np.array_equal(tower.embed(mixed)[place], rows[3])


def test_random_weights_depend_on_the_seed_alone_and_spread():
    def state(seed, names):
        return dict(tower_weights.random_state({name: torch.empty(3, 5, device="meta") for name in names}, seed))

    one = state(5, ["a", "b"])
    torch.manual_seed(99)
    two = state(5, ["b", "a"])
    assert all(torch.equal(one[name], two[name]) for name in "ab")
    assert not torch.equal(one["a"], one["b"])
    assert not torch.equal(one["a"], state(6, "a")["a"])
    # The same in every process: a value computed in another one.
    assert one["a"].flatten()[:2].tolist() == pytest.approx(FIRST_OF_SEED_5)
    rows = build_visual_tower(find_weights("tiny-vit", "random", seed=5), device="cpu").embed(photos(6))
    similar = (rows.astype(np.float32) @ rows.astype(np.float32).T)[~np.eye(6, dtype=bool)]
    assert similar.max() < 0.999
    assert similar.std() > 0.01


def test_nothing_of_a_tower_stays_without_memory():
    for name in TINY:
        module = build_visual_tower(find_weights(name, "random"), precision="bf16", device="cpu")._module
        tensors = [*module.parameters(), *module.buffers()]
        assert not any(tensor.is_meta for tensor in tensors)
        assert not module.training


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = {f"visual.{name}": tensor for name, tensor in reference("tiny-vit").visual.state_dict().items()}
    del state["visual.proj"]
    state["visual.conv1.weight"] = torch.zeros(64, 3, 8, 8)
    state["visual.extra"] = torch.zeros(1)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError) as error:
        source = find_weights("tiny-vit", str(tmp_path / "a.safetensors"))
        build_visual_tower(source, device="cpu", preprocess="openai")
    for part in ("proj is missing", "extra is unexpected", "conv1.weight is (64, 3, 8, 8) instead of (64, 3, 16, 16)"):
        assert part in str(error.value)


def test_pixels_of_another_shape_are_a_mistake():
    tower = build_visual_tower(find_weights("tiny-vit", "random"), device="cpu")
    with pytest.raises(TypeError, match=r"expected uint8 \(64, 64, 3\)"):
        tower.embed(photos(1, 32))
    with pytest.raises(TypeError, match=r"float32 .* expected uint8 \(N, 64, 64, 3\)"):
        tower.embed(photos(1).astype(np.float32))


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-resnet"])
def test_images_on_the_host_and_on_the_device_are_put_together(name):
    tower = build_visual_tower(find_weights(name, "random"), precision="fp32", device="cpu")
    pixels = photos(5)
    mixed = [torch.from_numpy(image) if place in (0, 3) else image.tobytes() for place, image in enumerate(pixels)]
    want = tower.embed(pixels, 6)
    assert np.array_equal(tower.embed(mixed, 6), want)
    assert np.array_equal(tower.embed([torch.from_numpy(image) for image in pixels], 6), want)
    assert tower.embed([], 6).shape == (0, 32)


QUICK = {"tiny-vit-quickgelu": True, "tiny-vit": False}


@pytest.mark.parametrize("name", QUICK)
def test_quick_gelu_is_computed_as_silu_in_place(name):
    tower = build_visual_tower(find_weights(name, "random"), precision="bf16", device="cpu")
    kinds = [type(module) for module in tower._module.modules()]
    assert (nn.SiLU in kinds, nn.GELU in kinds, QuickGELU in kinds) == (QUICK[name], not QUICK[name], False)
    assert all(module.inplace for module in tower._module.modules() if isinstance(module, nn.SiLU))


def test_quick_gelu_folded_is_as_near_to_fp32_as_unfolded(tmp_path, exact, monkeypatch):
    """In fp32 it is the same function; in bf16 another rounding, which costs nothing more."""
    model = reference("tiny-vit-quickgelu")
    source, pixels = find_weights("tiny-vit-quickgelu", saved(model, tmp_path)), photos(8)
    want = expected(model, pixels).astype(np.float64)

    def apart(precision):
        tower = build_visual_tower(source, precision=precision, device="cpu", preprocess="openai")
        got = tower.embed(pixels).astype(np.float64)
        return 1 - (got * want).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1)

    folded = {precision: apart(precision) for precision in ("fp32", "bf16")}
    monkeypatch.setattr(visual_tower, "fold_quick_gelu", lambda module: {})
    unfolded = apart("bf16")
    assert folded["fp32"].max() < 1e-6
    assert folded["bf16"].mean() < 1.5 * unfolded.mean()


def test_what_stands_between_the_layers_keeps_quick_gelu():
    """A norm there sees what the factor is on."""
    layers = {"c_fc": nn.Linear(4, 8), "gelu": QuickGELU(), "ln": nn.LayerNorm(8), "c_proj": nn.Linear(8, 4)}
    tower = nn.Sequential(OrderedDict(mlp=nn.Sequential(OrderedDict(layers))))
    assert fold_quick_gelu(tower) == {}
    assert isinstance(tower.mlp.gelu, QuickGELU)
    tower.mlp.ln = nn.Identity()
    assert fold_quick_gelu(tower).keys() == {"mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight"}


def test_description_needs_no_tower(monkeypatch, tmp_path):
    monkeypatch.setattr(empty_towers, "tower_of", None)
    model = describe_model("ViT-L/14", "openai")
    assert (model.clip_model, model.embed_dim, model.image_size, model.quick_gelu) == ("ViT-L-14", 768, 224, True)
    assert (model.mean, model.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    assert (model.interpolation, model.resize_mode, model.random) == ("bicubic", "shortest", False)
    assert model.weights == "tag:ViT-L-14/openai"
    siglip = describe_model("ViT-B-16-SigLIP", "webli")
    assert (siglip.mean, siglip.resize_mode, siglip.quick_gelu) == ((0.5, 0.5, 0.5), "squash", False)
    chance = describe_model("ViT-M-32", "random", seed=3)
    assert (chance.random, chance.weights, chance.embed_dim) == (True, "random:3", 512)
    assert describe_model("ViT-B-32", "openai", quick_gelu=False).quick_gelu is False
    with pytest.raises(WeightsError, match="own activation"):
        describe_model("ViT-B-16-SigLIP", "webli", quick_gelu=True)


def test_the_private_builder_of_open_clip_is_as_expected():
    """When this fails, read open_clip's model.py again: the tower is built by a function it may change."""
    import inspect

    from open_clip.model import _build_vision_tower

    assert open_clip.__version__.startswith("3.3.")
    assert list(inspect.signature(_build_vision_tower).parameters) == [
        "embed_dim",
        "vision_cfg",
        "quick_gelu",
        "cast_dtype",
    ]


def test_devices_and_precisions():
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    assert choose_precision("auto", cpu) in (torch.bfloat16, torch.float32)
    assert choose_precision("bf16", cpu) == torch.bfloat16
    with pytest.raises(ValueError, match="fp16"):
        choose_precision("fp16", cpu)
    with pytest.raises(ValueError, match="precision='int8'"):
        choose_precision("int8", cpu)
    with pytest.raises(ValueError, match="device='gpu'"):
        choose_device("gpu")
    with pytest.raises(RuntimeError, match="CUDA devices here"):
        choose_device(f"cuda:{torch.cuda.device_count()}")


@pytest.mark.parametrize(
    ("capability", "expected_type"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)],
)
def test_auto_precision_is_that_of_the_gpu_asked_for(monkeypatch, capability, expected_type):
    """And not of the first one, which is another one here."""
    found = {torch.device("cuda:1"): capability, torch.device("cuda:0"): (8, 0) if capability < (8, 0) else (7, 5)}
    first = found[torch.device("cuda:0")]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: first >= (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", found.__getitem__)
    assert choose_precision("auto", torch.device("cuda:1")) == expected_type


@pytest.mark.parametrize("why", ["The NVIDIA driver on your system is too old (found version 12040).", ""])
def test_a_gpu_that_cuda_cannot_use_is_none(monkeypatch, why):
    """As on a machine whose driver is too old for torch's CUDA: its management library (NVML) sees the GPU."""

    def init():
        if why:
            raise RuntimeError(f"{why}\nMore lines.")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not why)
    monkeypatch.setattr(torch.cuda, "init", init)
    assert choose_device("auto").type == ("cpu" if why else "cuda")
    with pytest.raises(RuntimeError, match=re.escape(f"can use {0 if why else 1} CUDA devices here: {why}")) as raised:
        choose_device("cuda:1")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("able", "expected_type"), [({"avx512_bf16": True}, torch.bfloat16), ({}, torch.float32)])
def test_auto_precision_on_cpus(monkeypatch, able, expected_type):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert choose_precision("auto", torch.device("cpu")) == expected_type


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(tmp_path):
    weights = saved(reference("tiny-vit"), tmp_path)
    source = find_weights("tiny-vit", weights)
    want = build_visual_tower(source, precision="fp32", device="cpu", preprocess="openai").embed(photos(8))
    got = build_visual_tower(source, device="cuda", preprocess="openai").embed(photos(8))
    assert (got.astype(np.float32) * want.astype(np.float32)).sum(1).min() >= 0.999


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_real_vit_b_32_gives_the_published_embeddings(assets, precision):
    weights = os.environ.get("BEAM_CURATE_CLIP_B32")
    if not weights:
        pytest.skip("set BEAM_CURATE_CLIP_B32 to a file with OpenAI's ViT-B/32 weights")
    golden = np.load(assets / "clip" / "golden_vit_b32" / "golden.npz")
    source = find_weights("ViT-B-32", weights)
    tower = build_visual_tower(source, precision=precision, device="cpu", quick_gelu=True)
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (tower.describe().mean, tower.describe().std))
    pixels = np.rint((golden["preprocessed_fp32"] * std + mean) * 255).clip(0, 255).astype(np.uint8)
    rows = tower.embed(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))).astype(np.float32)
    assert (rows * golden["embeddings_fp16"].astype(np.float32)).sum(1).min() >= 0.999


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
)
def test_all_ways_to_run_out_of_memory_are_one_error_that_holds_nothing(error, monkeypatch):
    tower = build_visual_tower(find_weights("tiny-vit", "random"), device="cpu")

    def fails(batch):
        raise error

    monkeypatch.setattr(tower, "_module", fails)
    with pytest.raises(torch.cuda.OutOfMemoryError) as caught:
        tower.embed(photos(2))
    assert str(caught.value) == str(error)
    assert caught.value is not error
    assert caught.value.__context__ is None
    monkeypatch.setattr(
        tower, "_module", lambda batch: (_ for _ in ()).throw(RuntimeError("CUDA error: misaligned address"))
    )
    with pytest.raises(RuntimeError, match="misaligned") as other:
        tower.embed(photos(2))
    assert not isinstance(other.value, torch.cuda.OutOfMemoryError)
