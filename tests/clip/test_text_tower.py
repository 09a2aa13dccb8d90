import inspect
import json
import socket

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from beam_curate.clip import text_tower, tower_weights, visual_tower
from beam_curate.clip.checkpoint import WeightsError, read_logit_scale, read_text_state
from beam_curate.clip.text_tower import build_text_tower, check_text_weights
from beam_curate.clip.weights import find_weights

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TIMM = {"image_size": 224, "timm_model_name": "eva02_tiny_patch14_224", "timm_proj": "linear"}
TOKENIZER = {"hf_tokenizer_name": "nobody/words", "tokenizer_kwargs": {"clean": "canonicalize"}}
# The name says what differs: {text_cfg}, {the rest}.
MODELS = {
    "text-clip": ({}, {}),
    "text-quickgelu": ({}, {"quick_gelu": True}),
    "text-custom": ({}, {"custom_text": True}),
    "text-custom-quickgelu": ({}, {"custom_text": True, "quick_gelu": True}),
    "text-last": ({"no_causal_mask": True, "pool_type": "last", "proj_bias": True}, {"custom_text": True}),
    "text-eos": ({"pool_type": "eos", "eos_id": 49407}, {}),
    "text-qk-norm": ({"qk_norm": True}, {"custom_text": True}),
    "text-timm": ({}, {"vision_cfg": TIMM}),
    "text-coca": (
        {"embed_cls": True, "output_tokens": True},
        {
            "custom_text": True,
            "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
            "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        },
    ),
}
OTHERS = {
    "text-hf-tokenizer": ({**TOKENIZER, "vocab_size": 12}, {}),
    "text-hf-model": ({"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"}, {}),
    "text-small-vocabulary": ({"vocab_size": 100}, {}),
}
TEXTS = ["a photo with a watermark", "a clean photo", "", "naïve “quotes” 写真 🎈", "word " * 40]


@pytest.fixture(autouse=True, scope="module")
def _tiny_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    for name, (text, rest) in {**MODELS, **OTHERS}.items():
        config = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": {**TEXT, **text}, **rest}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args):
        pytest.fail(f"the network is used: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def reference(name, logit_scale=3.0, **options):
    """open_clip's own model, of well-spread random weights."""
    torch.manual_seed(1)
    model = open_clip.create_model(name, **options).eval()
    state = {key: like for key, like in model.state_dict().items() if like.is_floating_point()}
    state = dict(tower_weights.random_state(state, 1))
    for tensor in state.values():
        if tensor.ndim == 1:
            tensor.add_(0.1 * torch.randn_like(tensor).abs())  # biases and norms that matter
    state["logit_scale"] = torch.tensor(logit_scale)
    model.load_state_dict(state, strict=False)
    return model


def saved(model, folder, name="weights.safetensors"):
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / name)
    return str(folder / name)


def expected(model, name, texts=TEXTS):
    with torch.inference_mode():
        return model.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_open_clips_encode_text(name, tmp_path):
    model = reference(name)
    path = saved(model, tmp_path)
    prefixed = any(key.startswith("text.") for key in model.state_dict())
    assert prefixed == bool(MODELS[name][1].get("custom_text")), "the layout meant is not the one tested"
    tower = build_text_tower(find_weights(name, path))
    rows = tower.embed(TEXTS)
    assert (rows.dtype, rows.shape) == (np.float32, (5, 24))
    np.testing.assert_allclose(rows, expected(model, name), rtol=0, atol=1e-5)
    similar = (rows @ rows.T)[~np.eye(5, dtype=bool)]
    assert similar.max() < 0.99, "texts that are all the same prove nothing"
    assert tower.logit_scale == pytest.approx(np.exp(3.0))
    assert tower.quick_gelu is name.endswith("quickgelu")


@pytest.mark.parametrize("name", ["text-clip", "text-custom"])
def test_quick_gelu_follows_the_same_rule_as_the_visual_tower(name, tmp_path):
    model = reference(name, force_quick_gelu=True)
    plain, openai = saved(model, tmp_path), saved(model, tmp_path, "vit-openai.safetensors")

    def error(path, **options):
        return np.abs(build_text_tower(find_weights(name, path), **options).embed(TEXTS) - expected(model, name)).max()

    assert error(openai) < 1e-5
    assert error(plain, quick_gelu=True) < 1e-5
    assert error(plain) > 1e-3
    assert error(openai, quick_gelu=False) > 1e-3


def test_torch_files_and_half_precision_weights(tmp_path):
    model = reference("text-clip")
    state = {key: tensor.half() for key, tensor in model.state_dict().items()}
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "epoch.pt")
    tower = build_text_tower(find_weights("text-clip", str(tmp_path / "epoch.pt")))
    np.testing.assert_allclose(tower.embed(TEXTS), expected(model, "text-clip"), rtol=0, atol=5e-3)
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    np.testing.assert_allclose(tower.embed(TEXTS), expected(model, "text-clip"), rtol=0, atol=1e-5)


def test_bf16_is_close(tmp_path):
    model = reference("text-clip")
    tower = build_text_tower(find_weights("text-clip", saved(model, tmp_path)), precision="bf16")
    rows = tower.embed(TEXTS)
    assert rows.dtype == np.float32
    assert (rows * expected(model, "text-clip")).sum(1).min() >= 0.999


def test_transformers_directory_is_the_same_tower(tmp_path):
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2, "initializer_range": 0.2}
    text = {"num_hidden_layers": 2, "vocab_size": 49408, "max_position_embeddings": 16, "eos_token_id": 49407}
    vision = {"num_hidden_layers": 2, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(
        text_config={**shape, **text}, vision_config={**shape, **vision}, projection_dim=24
    )
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.logit_scale.fill_(2.0)
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("text-clip")(TEXTS)
        want = model.text_projection(model.text_model(tokens).pooler_output)
    tower = build_text_tower(find_weights("text-clip", str(tmp_path)))
    assert tower.quick_gelu is True
    assert tower.logit_scale == pytest.approx(np.exp(2.0))
    np.testing.assert_allclose(
        tower.embed(TEXTS), torch.nn.functional.normalize(want, dim=-1).numpy(), rtol=0, atol=1e-5
    )


def test_a_row_depends_on_its_text_alone():
    tower = build_text_tower(find_weights("text-clip", "random"))
    texts = [f"{text} {number}" for number in range(4) for text in TEXTS]  # 20: two calls of 8 and one of 4
    rows = tower.embed(texts)
    assert np.array_equal(tower.embed(texts[::-1]), rows[::-1])
    for place in (0, 7, 19):
        assert np.array_equal(tower.embed([texts[place]])[0], rows[place])
    assert tower.embed([]).shape == (0, 24)


def test_random_weights_depend_on_the_seed_alone_and_are_not_the_visual_ones():
    def rows(seed):
        return build_text_tower(find_weights("text-clip", "random", seed=seed)).embed(TEXTS)

    torch.manual_seed(99)
    assert np.array_equal(rows(5), rows(5))
    assert not np.allclose(rows(5), rows(6), atol=0.1)
    tower = build_text_tower(find_weights("text-clip", "random", seed=5))
    assert (tower.source.identity, tower.logit_scale) == ("random:5", 100)
    visual = visual_tower.build_visual_tower(
        find_weights("text-clip", "random", seed=5), precision="fp32", device="cpu"
    )
    name = "transformer.resblocks.0.mlp.c_fc.weight"
    ours, theirs = (module.state_dict()[name] for module in (tower._module, visual._module))
    assert ours.shape == theirs.shape
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_a_tower_stays_without_memory(name):
    module = build_text_tower(find_weights(name, "random"))._module
    assert not any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])
    assert not module.training
    assert not any("visual" in key for key in module.state_dict())


@pytest.mark.parametrize(
    ("stored", "scale"), [(np.log(14.3), 14.3), (np.log(100), 100), (4.7, 100), (1e9, 100), (None, 100)]
)
def test_the_logit_scale_is_capped(tmp_path, stored, scale):
    state = {key: tensor.contiguous() for key, tensor in reference("text-clip").state_dict().items()}
    del state["logit_scale"]
    if stored is not None:
        state["logit_scale"] = torch.tensor([stored])  # open_clip's nonscalar_logit_scale
    save_file(state, tmp_path / "a.safetensors")
    tower = build_text_tower(find_weights("text-clip", str(tmp_path / "a.safetensors")))
    assert tower.logit_scale == pytest.approx(scale)
    assert tower.logit_scale <= 100


def test_only_the_text_half_is_read(tmp_path):
    clip = {"visual.proj": 1, "transformer.resblocks.0.ln_1.bias": 2, "positional_embedding": 3, "logit_scale": 4}
    clip |= {"token_embedding.weight": 5, "text_projection": 6, "ln_final.bias": 7, "input_resolution": 8}
    custom = {"visual.proj": 1, "text.text_projection.weight": 2, "text_decoder.text_projection": 3, "logit_bias": 4}
    for state, want in (
        (clip, {"transformer.resblocks.0.ln_1.bias", "positional_embedding", "token_embedding.weight",
                "text_projection", "ln_final.bias"}),
        (custom, {"text_projection.weight"}),
    ):  # fmt: skip
        save_file({key: torch.tensor(float(value)) for key, value in state.items()}, tmp_path / "a.safetensors")
        assert {name for name, _ in read_text_state(str(tmp_path / "a.safetensors"))} == want
    assert read_logit_scale(str(tmp_path / "a.safetensors")) is None


def test_weights_without_a_text_tower_are_named(tmp_path):
    save_file({"visual.proj": torch.ones(1)}, tmp_path / "image.safetensors")
    with pytest.raises(WeightsError, match=r"image\.safetensors has no text tower.*starts with visual\.proj"):
        build_text_tower(find_weights("text-clip", str(tmp_path / "image.safetensors")))


@pytest.mark.parametrize("name", ["text-clip", "text-custom"])
def test_weights_that_do_not_fit_are_named(name, tmp_path):
    state = {key: tensor.contiguous() for key, tensor in reference(name).state_dict().items()}
    prefix = "text." if name == "text-custom" else ""
    del state[f"{prefix}ln_final.bias"]
    state[f"{prefix}positional_embedding"] = torch.zeros(77, 32)
    state[f"{prefix}transformer.extra"] = torch.zeros(1)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError) as error:
        build_text_tower(find_weights(name, str(tmp_path / "a.safetensors")))
    with pytest.raises(WeightsError) as found:
        check_text_weights(find_weights(name, str(tmp_path / "a.safetensors")))
    assert str(found.value) == str(error.value)
    for part in (
        "a.safetensors do not fit",
        "ln_final.bias",
        "transformer.extra",
        "[77, 32]",
        "[16, 32]",
        "clip_model",
    ):
        assert part in str(error.value)


def words(folder):
    """Writes a tokenizer of a few words, as transformers keeps it."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "a", "clean", "photo"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)


def test_a_tokenizer_of_transformers_is_read_from_this_machine_and_never_downloaded(tmp_path, monkeypatch):
    model = reference("text-hf-tokenizer")
    path = saved(model, tmp_path)
    with pytest.raises(WeightsError) as error:
        build_text_tower(find_weights("text-hf-tokenizer", path))
    for part in ("'text-hf-tokenizer'", "nobody/words", "nothing is downloaded", "beside the weights", "get_tokenizer"):
        assert part in str(error.value)
    tokens = torch.zeros(2, 16, dtype=torch.long)
    tokens[0, :3], tokens[1, :2] = torch.tensor([2, 3, 4]), torch.tensor([2, 4])
    with torch.inference_mode():
        want = model.encode_text(tokens, normalize=True).numpy()

    def check(path):
        rows = build_text_tower(find_weights("text-hf-tokenizer", path)).embed(["a clean photo", "A photo!"])
        np.testing.assert_allclose(rows, want, rtol=0, atol=1e-5)

    cached = tmp_path / "models--nobody--words" / "snapshots" / "0123"
    words(cached)
    (cached.parent.parent / "refs").mkdir()
    (cached.parent.parent / "refs" / "main").write_text("0123")
    find = text_tower.huggingface_hub.try_to_load_from_cache
    with monkeypatch.context() as patch:
        patch.setattr(
            text_tower.huggingface_hub, "try_to_load_from_cache", lambda *names: find(*names, cache_dir=tmp_path)
        )
        check(path)
    words(tmp_path)
    check(path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="nobody/words"):
        build_text_tower(find_weights("text-hf-tokenizer", path))


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-H-14-CLIPA"])
def test_published_models_with_such_a_tokenizer_say_so(name, monkeypatch):
    monkeypatch.setattr(text_tower.huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(WeightsError, match=rf"{name}.*transformers' tokenizer.*no tokenizer_config\.json"):
        build_text_tower(find_weights(name, "random"))


@pytest.mark.parametrize("name", ["text-hf-model", "roberta-ViT-B-32", "nllb-clip-base"])
def test_a_text_tower_of_transformers_is_refused(name):
    with pytest.raises(WeightsError, match=rf"clip_model='{name}' has transformers' text tower"):
        build_text_tower(find_weights(name, "random"))


def test_a_tokenizer_that_does_not_fit_the_vocabulary_is_an_error():
    with pytest.raises(WeightsError, match=r"gives token 49407, but the text tower knows 100"):
        build_text_tower(find_weights("text-small-vocabulary", "random")).embed(["a photo"])


def test_a_single_string_is_a_mistake():
    with pytest.raises(TypeError, match=r"\['a photo'\]"):
        build_text_tower(find_weights("text-clip", "random")).embed("a photo")


def test_the_private_builder_of_open_clip_is_as_expected():
    """When this fails, read open_clip's model.py again: the tower is built by a function it may change."""
    parameters = list(inspect.signature(text_tower._build_text_tower).parameters)
    assert parameters == ["embed_dim", "text_cfg", "quick_gelu", "cast_dtype"]
