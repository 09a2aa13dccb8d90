"""How images are prepared for weights in a file: as open_clip's records say where they agree, as the user says otherwise."""

import io
import json
from dataclasses import asdict

import numpy as np
import open_clip
import pytest
import torch
from open_clip import pretrained as tags
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from safetensors.torch import save_file

from beam_curate.clip.checkpoint import UnsaidError, WeightsError
from beam_curate.clip.model_description import describe_model
from beam_curate.clip.preprocessing import KEYS, Preprocessing, decide_preprocessing
from beam_curate.images.decoding import DecodeOptions, decode_image
from tests.conftest import encoded, photo

DIFFER = {"ViT-L-14", "ViT-H-14", "ViT-H-14-quickgelu"}
"""The models of open_clip 3.3 whose published weights want different preprocessing."""
OPENAI = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
OPENAI |= {"interpolation": "bicubic", "resize_mode": "shortest"}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    path = tmp_path_factory.mktemp("bare") / "mine.safetensors"
    save_file({"visual.x": torch.ones(1)}, path)
    return str(path)


def wanted(model, tag):
    """How open_clip prepares images for a tag: what create_model_and_transforms gives its transform."""
    return merge_preprocess_dict(asdict(PreprocessCfg()), tags.get_pretrained_cfg(model, tag))


def of(description):
    return {key: getattr(description, key) for key in KEYS}


@pytest.mark.parametrize("model", open_clip.list_models())
def test_a_bare_file_gets_the_record_of_its_model_or_a_question(model, bare):
    told = open_clip.list_pretrained_tags_by_model(model)
    choices = {json.dumps({key: wanted(model, tag)[key] for key in KEYS}) for tag in told}
    gelu = "timm_model_name" not in open_clip.get_model_config(model)["vision_cfg"]
    if len(choices) == 1:
        assert json.dumps(of(describe_model(model, bare, quick_gelu=gelu))) == choices.pop()
        return
    with pytest.raises(UnsaidError, match="give `preprocess`") as error:
        describe_model(model, bare, quick_gelu=gelu)
    assert error.value.options == ("preprocess",)
    if choices:
        assert model in DIFFER
        for record in map(json.loads, choices):
            assert str(Preprocessing(**{k: tuple(v) if k in ("mean", "std") else v for k, v in record.items()})) in str(
                error.value
            )
    else:
        assert f"no published weights of {model}" in str(error.value)


def test_the_models_whose_records_differ_are_asked_about_and_every_tag_answers(bare):
    for model in DIFFER:
        for tag in open_clip.list_pretrained_tags_by_model(model):
            described = describe_model(model, bare, quick_gelu=True, preprocess=tag)
            assert of(described) == {key: wanted(model, tag)[key] for key in KEYS}
            assert tag in described.preprocess_by
            assert of(describe_model(model, tag)) == of(described)


@pytest.mark.parametrize("tag", ["openai", "webli", "datacompdr", "dfn5b", "meta", "laion2b_s32b_b82k"])
def test_the_model_sees_what_open_clips_transform_gives(tag, bare):
    model = tags.list_pretrained_models_by_tag(tag)[0]
    described = describe_model(model, bare, quick_gelu="auto" if "timm" in str(open_clip.get_model_config(model)) else True,
                               preprocess=tag)  # fmt: skip
    data = encoded(photo(3, 500, 320), "PNG")
    options = DecodeOptions(described.image_size, described.resize_mode, described.interpolation, decoder="pillow")
    pixels = decode_image(data, options)[1]
    got = (pixels.astype(np.float32) / 255 - np.float32(described.mean)) / np.float32(described.std)
    cfg = PreprocessCfg(**{**wanted(model, tag), "size": described.image_size})
    image = image_transform_v2(cfg, is_train=False)(Image.open(io.BytesIO(data)))
    np.testing.assert_allclose(got.transpose(2, 0, 1), image.numpy(), rtol=0, atol=1e-5)


def test_both_questions_are_asked_at_once(bare):
    with pytest.raises(UnsaidError, match=r"give `quick_gelu`.*give `preprocess`") as error:
        describe_model("ViT-L-14", bare)
    assert error.value.options == ("quick_gelu", "preprocess")


@pytest.mark.parametrize("model", ["ViT-S-32-alt", "ViT-L-14", "ViT-B-16-SigLIP"])
def test_random_weights_are_not_asked_about(model):
    assert describe_model(model, "random").resize_mode == ("squash" if "SigLIP" in model else "shortest")


@pytest.mark.parametrize(
    ("model", "option", "expected"),
    [
        ("ViT-S-32-alt", "openai", OPENAI),  # a tag of other models, all of which agree
        ("ViT-S-32-alt", "webli", {**HALF, "interpolation": "bicubic", "resize_mode": "squash"}),
        ("ViT-L-14", "laion2b-s32b-b82k", {**OPENAI, **HALF}),  # as open_clip cleans a tag
        ("ViT-B-16-SigLIP", "openai", OPENAI),  # the user stands above the record
        (
            "ViT-S-32-alt",
            "mean=0.1/0.2/0.3, std=0.5, interpolation=bilinear, resize_mode=squash",
            {"mean": (0.1, 0.2, 0.3), "std": (0.5,) * 3, "interpolation": "bilinear", "resize_mode": "squash"},
        ),
        ("ViT-H-14", "resize_mode=squash", {**OPENAI, "resize_mode": "squash"}),  # of the rest all records agree
        ("ViT-L-14", "mean=0,std=1", {**OPENAI, "mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ("ViT-L-14", {"mean": 0, "std": [1, 1, 1]}, {**OPENAI, "mean": (0.0,) * 3, "std": (1.0,) * 3}),
    ],
)
def test_what_the_option_says(model, option, expected):
    prepared, by = decide_preprocessing(model, option, weights="mine")
    assert asdict(prepared) == expected
    assert by
    assert decide_preprocessing(model, str(prepared), weights="mine")[0] == prepared
    assert decide_preprocessing(model, asdict(prepared), weights="mine")[0] == prepared


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("opena", "neither a pretrained tag .did you mean.*openai"),
        ("", "neither a pretrained tag"),
        ("v1", r"the models that have it differ; give mean=0\.48145466/.*resize_mode=shortest or mean=0\.5"),
        ("no/such/open_clip_config.json", "no such file"),
        ("mean=0.5", "^preprocess='mean=0.5' does not give std and interpolation and resize_mode"),
        ("mean=a,std=0.5", "mean='a' is neither a number"),
        ("mean=0.5/0.5,std=0.5", "one number for all channels, or three"),
        ("std=0", "one number above 0"),
        ("std=nan", "one number above 0"),
        ("mean=123.675/116.28/103.53,std=0.5", "pixels count from 0 to 1; divide values of a scale to 255 by 255"),
        ("mean=0.5,std=58.395", "divide values of a scale to 255"),
        ("mean=-0.5,std=0.5", "pixels count from 0 to 1"),
        ("mean=0.5,mean=0.4", "twice"),
        ("mean=0.5,0.5,0.5", "is not key=value"),
        ("size=224", "no 'size'"),
        ("interpolation=nearest", "bicubic and bilinear"),
        ("resize_mode=longest", "not supported"),
        ({"mean": "0.5"}, "one number for all channels"),
        ({"means": 0.5}, "did you mean 'mean'"),
    ],
)
def test_a_wrong_option_is_named_with_its_remedy(option, words):
    with pytest.raises(WeightsError, match=words) as error:
        decide_preprocessing("ViT-S-32-alt", option, weights="mine.pt")
    assert "preprocess" in str(error.value)


def test_a_file_can_be_named(tmp_path, bare):
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"preprocess_cfg": {**HALF, "resize_mode": "squash", "interpolation": None}}))
    described = describe_model("ViT-S-32-alt", bare, preprocess=str(config))
    assert of(described) == {**HALF, "resize_mode": "squash", "interpolation": "bicubic"}
    assert described.preprocess_by == str(config)
    config.write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "size": {"height": 9}})
    )
    described = describe_model("ViT-S-32-alt", bare, preprocess=str(config))
    assert of(described) == {**HALF, "resize_mode": "squash", "interpolation": "bilinear"}
    config.write_text(json.dumps({"model_cfg": {}}))
    with pytest.raises(WeightsError, match="does not say how images are prepared"):
        describe_model("ViT-S-32-alt", bare, preprocess=str(config))


def test_the_option_stands_in_for_a_wrong_value_beside_the_file(tmp_path):
    save_file({"visual.x": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": {"std": [0, 0, 0]}}))
    with pytest.raises(WeightsError, match=r"open_clip_config\.json says std=\[0, 0, 0\]"):
        describe_model("ViT-S-32-alt", str(tmp_path))
    assert of(describe_model("ViT-S-32-alt", str(tmp_path), preprocess="openai")) == OPENAI


def test_what_a_file_leaves_out_is_open_clips_default_unless_a_record_has_another_value():
    said = {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert asdict(decide_preprocessing("ViT-S-32-alt", said=said, said_by="it", weights="w")[0]) == {**OPENAI, **HALF}
    with pytest.raises(UnsaidError, match="it does not give resize_mode for w"):
        decide_preprocessing("ViT-B-16-SigLIP", said=said, said_by="it", weights="w")


def test_openais_files_need_no_word(tmp_path):
    save_file({"visual.x": torch.ones(1)}, tmp_path / "vit_openai.safetensors")
    described = describe_model("ViT-L-14", str(tmp_path / "vit_openai.safetensors"))
    assert (of(described), described.quick_gelu) == (OPENAI, True)
