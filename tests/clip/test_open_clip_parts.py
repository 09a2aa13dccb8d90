"""What is taken from open_clip without loading all of it is what open_clip itself gives."""

import dataclasses
import json
import subprocess
import sys

import open_clip
import pytest
import torch
from open_clip.model import _build_vision_tower

from beam_curate.clip import empty_towers, open_clip_parts
from beam_curate.clip.open_clip_parts import DEFAULT_PREPROCESSING, DEFAULT_VISION, model_names, model_settings
from tests.conftest import ROOT

# What is loaded, and whether all works as ever when somebody then asks for the rest. In a process that has not loaded it yet.
EARLY = """
import json, sys
from beam_curate.clip import visual_tower, weights
tower = visual_tower.build_visual_tower(weights.find_weights("ViT-S-32-alt", "random"), device="cpu")
before = sorted(sys.modules)
import open_clip, torchvision
same = open_clip.transformer.VisionTransformer is type(tower._module)
whole = callable(open_clip.create_model) and callable(torchvision.ops.nms) and torchvision.models.resnet18 is not None
print(json.dumps([before, same, whole, type(open_clip).__name__, "torch._dynamo" in sys.modules]))
"""
HEAVY = {
    "ftfy",
    "open_clip.factory",
    "open_clip.model",
    "sympy",
    "timm",
    "torch._dynamo",
    "torchvision.models",
    "transformers",
}


def test_a_plain_tower_loads_nothing_else_and_the_rest_comes_when_it_is_asked_for():
    done = subprocess.run([sys.executable, "-c", EARLY], cwd=ROOT, capture_output=True, text=True, check=True)
    before, same, whole, kind, compiler = json.loads(done.stdout)
    assert not HEAVY & set(before)
    assert same
    assert whole
    assert kind == "module"
    assert compiler  # what is said to be heavy still is: else this test would hold nothing


@pytest.fixture
def from_files(monkeypatch):
    monkeypatch.setattr(open_clip_parts, "_registry", lambda: None)


@pytest.mark.usefixtures("from_files")
def test_the_files_say_what_the_registry_says():
    names = model_names()
    assert {"ViT-B-32", "ViT-L-14", "RN50"} <= set(names)
    for name in names:
        assert model_settings(name) == open_clip.get_model_config(name)
    assert model_settings("vit-b-32") is None
    assert model_settings("../model_configs/ViT-B-32") is None


def test_models_that_were_added_in_this_process_are_known(tmp_path):
    config = {**open_clip.get_model_config("ViT-S-32-alt"), "embed_dim": 8}
    (tmp_path / "added-here.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    assert "added-here" in model_names()
    assert model_settings("added-here") == config


def test_the_defaults_are_those_of_open_clips_classes():
    preprocessing = vars(open_clip.transform.PreprocessCfg())
    assert {name: preprocessing[name] for name in DEFAULT_PREPROCESSING} == DEFAULT_PREPROCESSING
    vision = dataclasses.asdict(open_clip.CLIPVisionCfg())
    assert {name: vision[name] for name in DEFAULT_VISION} == DEFAULT_VISION


def attributes(tower):
    """What the modules of a tower hold beside tensors and modules."""
    return [
        {name: value for name, value in vars(module).items() if not name.startswith("_") and not callable(value)}
        for module in tower.modules()
    ]


PLAIN = {
    json.dumps([config["embed_dim"], config["vision_cfg"]]): name
    for name in open_clip.list_models()
    if (config := open_clip.get_model_config(name))["vision_cfg"].keys() <= DEFAULT_VISION.keys()
    and isinstance(config["vision_cfg"]["layers"], int)
}


def test_the_models_that_are_used_most_are_plain():
    plain = {json.dumps([c["embed_dim"], c["vision_cfg"]]) for c in map(open_clip.get_model_config, PLAIN.values())}
    for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-g-14", "ViT-bigG-14"):
        config = open_clip.get_model_config(name)
        assert json.dumps([config["embed_dim"], config["vision_cfg"]]) in plain


@pytest.mark.parametrize("name", PLAIN.values())
def test_a_plain_tower_is_the_one_that_open_clip_builds(name, monkeypatch):
    config = open_clip.get_model_config(name)
    for quick_gelu in (False, True):
        with torch.device("meta"):
            theirs = _build_vision_tower(config["embed_dim"], config["vision_cfg"], quick_gelu)
            with monkeypatch.context() as here:
                here.setattr(open_clip.model, "_build_vision_tower", None)  # it is not asked
                ours = empty_towers.tower_of(config, quick_gelu)
        assert repr(ours) == repr(theirs)
        assert attributes(ours) == attributes(theirs)
        shapes = [{key: tensor.shape for key, tensor in tower.state_dict().items()} for tower in (ours, theirs)]
        assert shapes[0] == shapes[1]
