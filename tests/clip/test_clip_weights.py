import json
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from beam_curate.clip import weights
from beam_curate.clip.checkpoint import WeightsError, checkpoint_names, read_visual_state
from beam_curate.clip.config import model_config
from beam_curate.clip.weights import (
    fetch_weights,
    find_weights,
    for_any_folder,
    hub_reachable,
    model_dir_places,
)

STATE = {"visual.conv1.weight": torch.arange(12.0).view(1, 3, 2, 2), "text.x": torch.ones(1)}

HF_STATE = {"vision_model.x": torch.ones(1)}
VIT_L_14 = open_clip.get_model_config("ViT-L-14")


def put(folder, name="open_clip_model.safetensors", state=STATE, **configs):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path)
    for config, content in configs.items():
        (folder / f"{config}.json").write_text(json.dumps(content))
    return path


def hf_config(**vision):
    """A configuration as transformers writes it for ViT-L/14."""
    shape = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}
    return {"model_type": "clip", "projection_dim": 768, "vision_config": {**shape, "image_size": 224, **vision}}


def test_names_are_open_clips():
    assert model_config("ViT-B/32")[0] == "ViT-B-32"
    assert model_config("ViT-B-32")[1]["embed_dim"] == 512
    with pytest.raises(WeightsError, match=r"clip_model='ViT-L-15'.*ViT-L-14"):
        model_config("ViT-L-15")


def test_random_is_identified_by_its_seed():
    assert find_weights("ViT-B-32", "random", seed=7).identity == "random:7"


def test_a_tag_needs_no_network_to_be_found():
    source = find_weights("ViT-L-14", "openai")
    assert (source.tag, source.path, source.quick_gelu) == ("openai", "", True)
    assert source.identity == "tag:ViT-L-14/openai"
    assert find_weights("ViT-B-32", "laion2b_s34b_b79k").quick_gelu is False
    assert find_weights("ViT-B-16-SigLIP", "webli").preprocess["resize_mode"] == "squash"


@pytest.mark.parametrize(
    ("pretrained", "match"),
    [
        ("", "known: "),
        ("opena", r"did you mean.*'openai'"),
        ("nothing-like-it-at-all", "known: .*laion400m_e31"),
        ("gs://bucket/vit.safetensors", "copy it to a local path"),
    ],
)
def test_an_unknown_tag_is_an_error_that_helps(pretrained, match):
    with pytest.raises(WeightsError, match=match):
        find_weights("ViT-B-32", pretrained)


@pytest.mark.parametrize("place", model_dir_places("ViT-L-14", "openai"))
def test_a_tag_is_looked_for_in_the_models_directory(tmp_path, place):
    path = put(tmp_path / place, "model.safetensors")
    for source in (
        find_weights("ViT-L-14", "openai", model_dir=str(tmp_path)),
        find_weights("ViT-L-14", str(tmp_path / place)),
        find_weights("ViT-L-14", str(tmp_path)),
    ):
        assert source.path == str(path)
        # Nothing lies beside the file, and its name says nothing: the folder tells the tag.
        assert (source.quick_gelu, source.said_by) == (True, "open_clip's record of the tag 'openai'")
    assert find_weights("ViT-L-14", str(path)).quick_gelu is True
    assert fetch_weights(source) is source


def test_a_file_of_the_hubs_cache_is_known_by_its_repository(tmp_path):
    snapshot = tmp_path / "models--timm--vit_large_patch14_clip_224.openai" / "snapshots" / "0123"
    blob = put(tmp_path / "blobs", "0123.safetensors")
    snapshot.mkdir(parents=True)
    (snapshot / "open_clip_model.safetensors").symlink_to(blob)
    assert find_weights("ViT-L-14", str(snapshot)).quick_gelu is True
    assert find_weights("ViT-L-14", str(snapshot / "open_clip_model.safetensors")).quick_gelu is True
    assert find_weights("ViT-L-14", str(blob)).quick_gelu is None


def test_a_worker_in_another_folder_gets_an_absolute_path(tmp_path, monkeypatch):
    put(tmp_path / "models")
    put(tmp_path / "openai")  # a folder with the name of a tag is not meant by it
    monkeypatch.chdir(tmp_path)
    file = "models/open_clip_model.safetensors"
    assert for_any_folder("ViT-B-32", file) == str(tmp_path / file)
    assert for_any_folder("ViT-B-32", "models") == str(tmp_path / "models")
    for stays in ("openai", "random", "", "no/such/file", "gs://bucket/file"):
        assert for_any_folder("ViT-B-32", stays) == stays


def test_neMo_curators_layout_is_one_of_the_places():
    assert "openai/clip-vit-large-patch14" in model_dir_places("ViT-L-14", "openai")
    assert model_dir_places("ViT-L-14", "openai")[0] == "ViT-L-14/openai"


def test_a_directory_without_or_with_several_checkpoints_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match=r"open_clip_model\.safetensors.*ViT-B-32/openai"):
        find_weights("ViT-B-32", str(tmp_path))
    put(tmp_path / "ViT-B-32/openai")
    put(tmp_path / "ViT-B-32/laion400m_e32")
    with pytest.raises(WeightsError, match="several"):
        find_weights("ViT-B-32", str(tmp_path))


def test_safetensors_comes_first_and_the_checksum_names_the_file(tmp_path):
    put(tmp_path, "open_clip_pytorch_model.bin")
    path = put(tmp_path)
    source = find_weights("ViT-B-32", str(tmp_path))
    assert source.path == str(path)
    import hashlib

    assert source.identity == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.parametrize(
    ("name", "configs", "state", "expected"),
    [
        ("mine.safetensors", {}, STATE, None),
        ("vit_b_openai.safetensors", {}, STATE, True),
        ("mine.pt", {}, {**STATE, **dict.fromkeys(weights._OPENAI_MARKERS, torch.tensor(1))}, True),
        ("model.safetensors", {"config": hf_config(hidden_act="gelu")}, STATE, None),  # not of these tensors
        ("model.safetensors", {"config": hf_config(hidden_act="quick_gelu")}, HF_STATE, True),
        ("mine.safetensors", {"config": hf_config(hidden_act="quick_gelu")}, HF_STATE, True),
        ("model.safetensors", {"config": hf_config()}, HF_STATE, True),
        ("model.safetensors", {"config": hf_config(hidden_act="gelu")}, HF_STATE, False),
        ("openai.safetensors", {"config": hf_config(hidden_act="gelu")}, HF_STATE, False),
        ("open_clip_model.safetensors", {"open_clip_config": {"model_cfg": {}}}, STATE, None),
        ("open_clip_model.safetensors", {"open_clip_config": {"model_cfg": VIT_L_14}}, STATE, False),
        ("any.pt", {"open_clip_config": {"model_cfg": {**VIT_L_14, "quick_gelu": True}}}, STATE, True),
    ],
)
def test_what_a_file_says_of_quick_gelu(tmp_path, name, configs, state, expected):
    source = find_weights("ViT-L-14", str(put(tmp_path, name, state, **configs)))
    assert source.quick_gelu is expected
    assert bool(source.said_by) == (expected is not None)


def test_open_clips_configuration_beside_the_file_is_read(tmp_path):
    config = open_clip.get_model_config("ViT-B-32")
    preprocess = {"mean": [0.5, 0.5, 0.5], "resize_mode": "squash", "size": 224}
    put(tmp_path, open_clip_config={"model_cfg": {**config, "quick_gelu": True}, "preprocess_cfg": preprocess})
    source = find_weights("ViT-B-32", str(tmp_path))
    assert source.quick_gelu is True
    assert source.preprocess == preprocess
    assert source.preprocess_by == str(tmp_path / "open_clip_config.json")
    with pytest.raises(WeightsError, match="another visual tower"):
        find_weights("ViT-B-16", str(tmp_path))


def test_transformers_files_beside_the_checkpoint_are_read(tmp_path):
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 1.0, 1.0]}
    put(tmp_path, "model.safetensors", HF_STATE, config=hf_config(), preprocessor_config=processor)
    assert find_weights("ViT-L-14", str(tmp_path)).preprocess == {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}
    with pytest.raises(WeightsError, match="hidden_size 1024 instead of 768"):
        find_weights("ViT-B-32", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(hf_config(num_attention_heads=8)))
    with pytest.raises(WeightsError, match="num_attention_heads 8 instead of 16"):
        find_weights("ViT-L-14", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(hf_config(hidden_act="gelu_new")))
    with pytest.raises(WeightsError, match="hidden_act is 'gelu_new'"):
        find_weights("ViT-L-14", str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json is not valid JSON"):
        find_weights("ViT-L-14", str(tmp_path))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_only_visual_tensors_are_read(tmp_path, name):
    (read,) = read_visual_state(str(put(tmp_path, name)))
    assert read[0] == "conv1.weight"
    assert torch.equal(read[1], STATE["visual.conv1.weight"])


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module."]
)
@pytest.mark.parametrize("key", ["state_dict", "model", None, "safetensors", "old"])
def test_training_checkpoints_are_unwrapped(tmp_path, prefix, key):
    state = {f"{prefix}{name}": tensor for name, tensor in STATE.items()}
    path = tmp_path / f"epoch_3.{'safetensors' if key == 'safetensors' else 'pt'}"
    if key == "safetensors":
        save_file(state, path)
    else:
        wrapped = {"epoch": 3, "optimizer": {"state": {0: torch.ones(1)}}, key or "": state} if key else state
        torch.save(wrapped, path, _use_new_zipfile_serialization=key != "old")
    ((name, tensor),) = read_visual_state(str(path))
    assert name == "conv1.weight"
    assert torch.equal(tensor, STATE["visual.conv1.weight"])
    assert "text.x" in checkpoint_names(str(path))


def test_wrappers_within_a_name_are_dropped_and_doubles_are_refused(tmp_path):
    inner = put(tmp_path, "inner.pt", {"visual._orig_mod.conv1.weight": torch.ones(1)})
    assert [name for name, _ in read_visual_state(str(inner))] == ["conv1.weight"]
    for name in ("both.safetensors", "both.pt"):
        both = put(tmp_path, name, {**STATE, "module.visual.conv1.weight": torch.ones(1)})
        with pytest.raises(WeightsError, match=r"visual\.conv1\.weight twice"):
            checkpoint_names(str(both))


def test_open_clips_state_is_taken_and_of_other_models_the_only_one(tmp_path):
    other = {"visual.other": torch.ones(1)}
    torch.save({"state_dict": STATE, "ema": other}, tmp_path / "ema.pt")
    assert [name for name, _ in read_visual_state(str(tmp_path / "ema.pt"))] == ["conv1.weight"]
    torch.save({"model": STATE, "ema": other}, tmp_path / "two.pt")
    with pytest.raises(WeightsError, match=r"several models \(model, ema\): save only one"):
        checkpoint_names(str(tmp_path / "two.pt"))


def test_what_is_no_checkpoint_gets_the_remedy_that_fits(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n"
    for name in ("a.safetensors", "a.bin"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(WeightsError, match=r"pointer of Git LFS.*git lfs pull"):
            checkpoint_names(str(tmp_path / name))
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    with pytest.raises(WeightsError, match="big_vision"):
        checkpoint_names(str(tmp_path / "a.npz"))
    torch.save({"loss": np.float64(1.5), "state_dict": STATE}, tmp_path / "own.pt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pt")
    for name, held in (("own.pt", "scalar"), ("whole.pt", "Linear")):
        with pytest.raises(WeightsError, match=rf"holds objects \(\S*{held}\).*save only its tensors") as error:
            checkpoint_names(str(tmp_path / name))
        assert "fetch" not in str(error.value)
    for name in ("cut.safetensors", "cut.pt"):
        path = put(tmp_path, name)
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(WeightsError, match=r"fetch it again if it was downloaded; if it is your own, save"):
            checkpoint_names(str(path))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"save the parts of model\.safetensors\.index\.json as one file"):
        find_weights("ViT-L-14", str(tmp_path / "parts"))


class Spy:
    """An object whose unpickling would run code."""

    ran = False

    def __reduce__(self):
        return (setattr, (Spy, "ran", True))


def test_code_in_a_pickle_is_refused(tmp_path):
    torch.save({"state_dict": Spy()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="cannot be read as plain weights"):
        list(read_visual_state(str(tmp_path / "evil.pt")))
    assert not Spy.ran


def test_torchscript_archives_are_refused_with_the_remedy(tmp_path):
    with zipfile.ZipFile(tmp_path / "ViT-B-32.pt", "w") as archive:
        archive.writestr("ViT-B-32/constants.pkl", b"")
        archive.writestr("ViT-B-32/data.pkl", b"")
    with pytest.raises(WeightsError, match=r"TorchScript.*pretrained='openai'.*torch\.jit\.load"):
        list(read_visual_state(str(tmp_path / "ViT-B-32.pt")))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_damaged_files_are_named(tmp_path, name):
    path = put(tmp_path, name)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(WeightsError, match=rf"{name}.*fetch it again"):
        list(read_visual_state(str(path)))


def test_other_checkpoints_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="starts with a"):
        list(read_visual_state(str(put(tmp_path, "a.pt", {"a": torch.ones(1)}))))


@pytest.mark.parametrize("scheme", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_the_hub_is_tried_for_a_moment_only(monkeypatch, scheme):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert not hub_reachable(1)
    monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    assert hub_reachable(1)
    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert not hub_reachable(1)


def test_no_hub_is_an_error_that_says_what_to_put_where(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)
    monkeypatch.setattr(weights.huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    source = find_weights("ViT-L-14", "openai", model_dir=str(tmp_path))
    with pytest.raises(WeightsError) as error:
        fetch_weights(source)
    text = str(error.value)
    assert "https://huggingface.co/timm/vit_large_patch14_clip_224.openai" in text
    # What it says to do makes it work.
    put(tmp_path / "ViT-L-14/openai", "open_clip_model.safetensors")
    assert "fetch open_clip_model.safetensors from there, and put it into MODELS/ViT-L-14/openai/" in text
    assert find_weights("ViT-L-14", "openai", model_dir=str(tmp_path)).path


def test_a_cached_download_is_used_without_the_hub(monkeypatch, tmp_path):
    path = put(tmp_path)
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)
    monkeypatch.setattr(weights.huggingface_hub, "try_to_load_from_cache", lambda *_: str(path))
    assert fetch_weights(find_weights("ViT-L-14", "openai")).path == str(path)


def test_without_a_network_the_flags_and_the_script_that_fetches_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)
    monkeypatch.setattr(weights.huggingface_hub, "try_to_load_from_cache", lambda repository, name: None)
    with pytest.raises(WeightsError) as error:
        fetch_weights(find_weights("ViT-B-32", "laion2b_s34b_b79k", model_dir=str(tmp_path)))
    message = str(error.value)
    assert (
        "beam-curate fetch-models --model_dir MODELS --clip_model ViT-B-32 --pretrained laion2b_s34b_b79k --only clip"
        in message
    )
    assert "Then give `model_dir` MODELS, or name a file with `pretrained`" in message
