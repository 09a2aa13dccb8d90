"""What lies beside a checkpoint, against open_clip's own `local-dir:` loader."""

import json
import math
from copy import deepcopy

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from beam_curate.clip.beside import said_by_file
from beam_curate.clip.checkpoint import WeightsError
from beam_curate.clip.config import model_config, read_config
from beam_curate.clip.model_description import ModelDescription, describe_model
from beam_curate.clip.text_tower import build_text_tower
from beam_curate.clip.visual_tower import build_visual_tower
from beam_curate.clip.weights import find_weights
from beam_curate.clip.weights_files import CHECKPOINT_NAMES
from tests.clip.test_visual_tower import photos

NAME = "beside-tiny"
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {"size": 64, "mode": "RGB", "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear",
              "resize_mode": "squash", "fill_color": 0}  # fmt: skip
CONFIG = {"model_cfg": {**MODEL, "quick_gelu": True}, "preprocess_cfg": PREPROCESS}
OTHER_NAMES = ("my_finetune.safetensors", "epoch_5.bin", "epoch_5.pth")


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / f"{NAME}.json"
    path.write_text(json.dumps(MODEL))
    open_clip.add_model_config(path)


@pytest.fixture(scope="module")
def state(registered):
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in open_clip.create_model(NAME).state_dict().items()}


def folder(path, state, config, name="open_clip_model.safetensors"):
    path.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(state, path / name) if name.endswith(".safetensors") else torch.save(state, path / name)
    return path


def changed(**changes):
    """The configuration with some keys of its parts changed; by a dotted name, `vision_cfg` being within `model_cfg`."""
    config = deepcopy(CONFIG)
    config["model_cfg"].pop("quick_gelu")
    for key, value in changes.items():
        part = {"vision": config["model_cfg"]["vision_cfg"], "text": config["model_cfg"]["text_cfg"]}
        part |= {"model": config["model_cfg"], "preprocess": config["preprocess_cfg"], "": config}
        where, _, name = key.rpartition("__")
        part[where][name] = value
    return config


def as_open_clip(path, pixels):
    """What open_clip makes of a folder: how it prepares images, and its embeddings of prepared pixels."""
    model = open_clip.create_model(f"local-dir:{path}").eval()
    cfg = model.visual.preprocess_cfg
    mean, std = (torch.tensor(cfg[key], dtype=torch.float32).expand(3).view(3, 1, 1) for key in ("mean", "std"))
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.inference_mode():
        return cfg, model.encode_image(images, normalize=True).numpy()


@pytest.mark.parametrize("name", [*CHECKPOINT_NAMES, *OTHER_NAMES])
def test_the_configuration_is_read_whatever_the_checkpoints_name(tmp_path, state, name):
    path = folder(tmp_path / "it", state, CONFIG, name)
    cfg, rows = as_open_clip(path, photos(2))
    for given in (path, path / name):
        described = describe_model(NAME, str(given))
        assert list(described.mean) == cfg["mean"]
        assert list(described.std) == cfg["std"]
        assert (described.interpolation, described.resize_mode) == (cfg["interpolation"], cfg["resize_mode"])
        tower = build_visual_tower(find_weights(NAME, str(given)), precision="fp32", device="cpu")
        assert tower.describe().quick_gelu is True
        np.testing.assert_allclose(tower.embed(photos(2)), rows, rtol=0, atol=1e-3)


def test_of_several_checkpoints_open_clips_choice_is_taken_or_none(tmp_path, state):
    for number, name in enumerate(reversed(CHECKPOINT_NAMES)):
        folder(tmp_path, {**state, "logit_scale": torch.tensor(float(number))}, CONFIG, name)
        chosen = open_clip.factory._find_checkpoint_in_dir(tmp_path)
        assert find_weights(NAME, str(tmp_path)).path == chosen == str(tmp_path / name)
    for name in ("a.safetensors", "b.safetensors"):
        folder(tmp_path / "own", state, CONFIG, name)
    with pytest.raises(WeightsError, match=r"several checkpoints, name one: a\.safetensors, b\.safetensors"):
        find_weights(NAME, str(tmp_path / "own"))


SAME = {
    "training alone": changed(vision__patch_dropout=0.5, vision__timm_drop=0.1, vision__timm_drop_path=0.2),
    "defaults spelled out": changed(vision__mlp_ratio=4, vision__pool_type="tok", vision__attentional_pool=False),
    "the size as a list": changed(vision__image_size=[64, 64], vision__patch_size=[16, 16]),
    "keys of no use": changed(vision__attn_pooler_heads=4, vision__timm_pool="token", model__init_logit_bias=-10),
    "the other tower": changed(text__no_causal_mask=True),
    "one number for all channels": changed(preprocess__mean=0.5, preprocess__std=0.25),
    "an interpolation of training": changed(preprocess__interpolation="random"),
    "another size for training": changed(preprocess__size=96),
    "no preprocessing": changed(__preprocess_cfg=None),
    "null in it": changed(preprocess__mean=None, preprocess__resize_mode=None, model__quick_gelu=None),
    "keys of a later version in it": changed(preprocess__crop="centre", __version=4),
}


@pytest.mark.parametrize("config", SAME.values(), ids=SAME)
def test_what_is_no_difference_gives_open_clips_embeddings(tmp_path, state, config):
    path = folder(tmp_path, state, config)
    cfg, rows = as_open_clip(path, photos(2))
    described = describe_model(NAME, str(path))
    assert described.mean == pytest.approx(tuple(np.broadcast_to(cfg["mean"], 3)))
    assert described.resize_mode == cfg["resize_mode"]
    assert described.interpolation == ("bilinear" if cfg["interpolation"] == "bilinear" else "bicubic")
    tower = build_visual_tower(find_weights(NAME, str(path)), precision="fp32", device="cpu")
    np.testing.assert_allclose(tower.embed(photos(2)), rows, rtol=0, atol=1e-3)


def test_null_for_off_and_keys_that_are_off_are_no_difference(tmp_path, state):
    config = changed(
        vision__attentional_pool=None, vision__later=None, vision__latest=False, vision__block_type="default"
    )
    assert describe_model(NAME, str(folder(tmp_path, state, config))).resize_mode == "squash"


WRONG = {
    "a key of a later version": (changed(vision__registers=4), r"registers=4 in vision_cfg, which open_clip 3"),
    "other heads": (changed(vision__head_width=16), r"another visual tower.*head_width 16 instead of 32"),
    "another norm": (changed(vision__no_ln_pre=True), r"no_ln_pre True instead of False"),
    "another size": (changed(vision__image_size=96), r"image_size \(96, 96\) instead of \(64, 64\)"),
    "a timm tower": (changed(vision__timm_model_name="vit_base_patch16_224"), "timm_model_name 'vit_base_patch16_224'"),
    "no width": (changed(model__embed_dim=None), "embed_dim None instead of 32"),
    "null for a number": (changed(vision__mlp_ratio=None), "mlp_ratio None instead of 4.0"),
    "no tower": (changed(model__vision_cfg=None), "vision_cfg is None"),
    "a model that is a list": (changed(__model_cfg=[1]), "model_cfg is .*JSON object"),
    "an activation that is a text": (changed(model__quick_gelu="false"), "quick_gelu is 'false'"),
    "a preprocessing that is a text": (changed(__preprocess_cfg="x"), "preprocess_cfg is 'x'"),
    "padding": (changed(preprocess__resize_mode="longest"), "not supported"),
    "nearest": (changed(preprocess__interpolation="nearest"), "bicubic and bilinear"),
    "grey": (changed(preprocess__mode="L"), "mode='L'"),
    "no spread": (changed(preprocess__std=[0.5, 0, 0.5]), "above 0"),
    "two channels": (changed(preprocess__mean=[0.5, 0.5]), "or three"),
    "what open_clip reads as OpenAI's": (changed(preprocess__mean=0), r"write \[0, 0, 0\]"),
    "not a number": (changed(preprocess__mean=math.nan), "one number"),
}


@pytest.mark.parametrize(("config", "words"), WRONG.values(), ids=WRONG)
def test_a_configuration_that_is_another_models_or_wrong_is_named(tmp_path, state, config, words):
    path = folder(tmp_path, state, config)
    with pytest.raises(WeightsError, match=words) as error:
        describe_model(NAME, str(path))
    assert "open_clip_config.json" in str(error.value)


def test_any_value_anywhere_is_read_as_open_clip_does_or_refused(tmp_path, state):
    odd = [
        None,
        True,
        False,
        0,
        -1,
        1.5,
        64,
        "",
        "x",
        "0.5",
        [],
        [1],
        [64, 64],
        [0.5, 0.5, 0.5],
        {},
        {"a": 1},
        math.inf,
    ]
    path = folder(tmp_path, state, CONFIG)
    taken = 0
    for part, keys in {
        "": ("model_cfg", "preprocess_cfg"),
        "model": ("embed_dim", "vision_cfg", "quick_gelu", "new"),
        "vision": ("image_size", "patch_size", "layers", "width", "pool_type", "ls_init_value", "timm_model_name",
                   "timm_proj", "patch_dropout", "act_kwargs", "block_type", "new"),
        "preprocess": ("mean", "std", "interpolation", "resize_mode", "mode", "size", "new"),
    }.items():  # fmt: skip
        for key in keys:
            for value in odd:
                (path / "open_clip_config.json").write_text(json.dumps(changed(**{f"{part}__{key}": value})))
                try:
                    described = describe_model(NAME, str(path), quick_gelu="auto")
                except WeightsError:
                    continue
                assert isinstance(described, ModelDescription)
                try:
                    model = open_clip.create_model(f"local-dir:{path}")
                except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError):
                    continue  # a value that is null, off or of no use to us
                taken += 1
                cfg = model.visual.preprocess_cfg
                assert described.mean == pytest.approx(tuple(np.broadcast_to(cfg["mean"], 3))), (part, key, value)
                assert described.std == pytest.approx(tuple(np.broadcast_to(cfg["std"], 3))), (part, key, value)
                assert described.resize_mode == cfg["resize_mode"], (part, key, value)
    assert taken > 80


def test_every_model_of_open_clip_takes_its_own_configuration_and_no_other_towers(tmp_path):
    from beam_curate.clip.towers import check_open_clip

    names = open_clip.list_models()
    for name in names:
        for part in ("vision_cfg", "text_cfg"):
            check_open_clip(name, model_config(name)[1], tmp_path, part)
    with pytest.raises(WeightsError, match=r"name the model it is of, such as ViT-B-16-SigLIP"):
        check_open_clip("ViT-B-32", model_config("ViT-B-16-SigLIP")[1], tmp_path)


def test_a_name_with_quick_gelu_and_a_configuration_without_contradict_each_other(tmp_path, state, monkeypatch):
    path = tmp_path / f"{NAME}-quickgelu.json"
    path.write_text(json.dumps({**MODEL, "quick_gelu": True}))
    open_clip.add_model_config(path)
    place = folder(tmp_path / "it", state, changed())
    with pytest.raises(WeightsError, match=r"has QuickGELU, but .*open_clip_config\.json says GELU"):
        describe_model(f"{NAME}-quickgelu", str(place))
    assert describe_model(f"{NAME}-quickgelu", str(place), quick_gelu=True).quick_gelu is True
    assert describe_model(NAME, str(place)).quick_gelu is False


def test_the_text_tower_is_compared_where_it_is_used(tmp_path, state):
    path = folder(tmp_path, state, changed(text__heads=1))
    assert describe_model(NAME, str(path)).resize_mode == "squash"
    with pytest.raises(WeightsError, match=r"another text tower .*heads 1 instead of 2"):
        build_text_tower(find_weights(NAME, str(path)))


def test_a_model_alone_or_none_says_nothing_of_preprocessing(tmp_path, state):
    flat = folder(tmp_path / "flat", state, MODEL)
    with pytest.raises(WeightsError, match="give `preprocess`"):
        describe_model(NAME, str(flat))
    assert describe_model(NAME, str(flat), preprocess="openai").quick_gelu is False
    other = folder(tmp_path / "other", state, {**MODEL, "embed_dim": 64})
    with pytest.raises(WeightsError, match="embed_dim 64 instead of 32"):
        describe_model(NAME, str(other))


@pytest.mark.parametrize("content", ["{", "[]", "\ufeff[]", "[" * 100_000])
def test_a_file_that_is_no_json_object_is_named_with_a_remedy_for_ones_own(tmp_path, state, content):
    path = folder(tmp_path, state, None)
    (path / "open_clip_config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"open_clip_config\.json .*correct it, or move it away, if it is your own"):
        describe_model(NAME, str(path))


@pytest.mark.parametrize("name", ["local-dir:/models/mine", "hf-hub:timm/ViT-B-16-SigLIP"])
def test_open_clips_schemas_are_answered(name):
    with pytest.raises(WeightsError, match=r"give the name of the model in open_clip, and .*`pretrained`"):
        model_config(name)


PROCESSORS = {
    "CLIP's": (
        {"image_mean": [0.1] * 3, "image_std": [1.0] * 3, "resample": 3, "size": {"shortest_edge": 64},
         "crop_size": {"height": 64, "width": 64}, "do_center_crop": True},
        ((0.1,) * 3, (1.0,) * 3, "bicubic", "shortest"),
    ),
    "an old one": ({"image_mean": [0.1] * 3, "image_std": [1.0] * 3, "size": 64, "crop_size": 64},
                   ((0.1,) * 3, (1.0,) * 3, "bicubic", "shortest")),
    "squashed": (
        {"image_processor_type": "SiglipImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
         "size": {"height": 64, "width": 64}},
        ((0.5,) * 3, (0.5,) * 3, "bilinear", "squash"),
    ),
    "not normalised": ({"do_normalize": False, "resample": 2}, ((0.0,) * 3, (1.0,) * 3, "bilinear", "shortest")),
}  # fmt: skip


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize(("processor", "expected"), PROCESSORS.values(), ids=PROCESSORS)
def test_transformers_image_processors_are_read(tmp_path, file, processor, expected):
    save_file({"vision_model.x": torch.ones(1)}, tmp_path / "mine.safetensors")
    (tmp_path / file).write_text(json.dumps({"image_processor": processor} if file[3] == "c" else processor))
    got = describe_model(NAME, str(tmp_path / "mine.safetensors"))
    assert (got.mean, got.std, got.interpolation, got.resize_mode) == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resample": 1}, "interpolation='resample 1'"),
        ({"size": {"shortest_edge": 80}, "crop_size": 64}, "shortest 80, then crop 64"),
        ({"rescale_factor": 1.0}, "RGB times 1.0"),
        ({"image_std": [0, 0, 0]}, "above 0"),
    ],
)
def test_what_an_image_processor_does_and_open_clip_cannot_is_refused(tmp_path, change, words):
    save_file({"vision_model.x": torch.ones(1)}, tmp_path / "mine.safetensors")
    processor = {"image_mean": [0.1] * 3, "image_std": [1.0] * 3, **change}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(WeightsError, match=words):
        describe_model(NAME, str(tmp_path / "mine.safetensors"))


def test_files_that_begin_with_a_byte_order_mark_are_read(tmp_path):
    """As editors on Windows write them."""
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps(CONFIG), "utf-8-sig")
    assert read_config(path) == CONFIG
    assert said_by_file(path) == PREPROCESS
