"""Finding and loading heads: our layout, NeMo Curator's, single files, and every error."""

import hashlib
import json
import logging
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from beam_curate.heads.files import find_heads, load_head
from beam_curate.heads.head import HeadError
from tests.support.made_heads import embeddings, linear_head_state, mlp_state, nsfw_state

WIDTH = 24
WORDS = {"format": "any text", "columns": {"3": {"0.125000": 2, "-0.250000": 1}, "20": {"0.000000": 1}}}


def put(path, state):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pth":
        torch.save({key: torch.from_numpy(value) for key, value in state.items()}, path)
    else:
        save_file(state, path)
    return str(path)


@pytest.fixture
def models(tmp_path):
    """A model directory as fetch_models lays it out, with heads narrower than the real ones."""
    put(tmp_path / "heads" / "sac_logos_ava1-l14-linearMSE.safetensors", mlp_state(WIDTH))
    put(tmp_path / "heads" / "nsfw_vit_l_14.safetensors", nsfw_state(WIDTH, (64, 512, 256)))
    (tmp_path / "heads" / "nsfw_vit_l_14_lookup.json").write_text(json.dumps(WORDS))
    return tmp_path


def test_fetched_layout(models, caplog):
    caplog.set_level(logging.INFO)
    aesthetic, nsfw = find_heads(str(models), "ViT-L-14", WIDTH)
    assert (aesthetic.name, nsfw.name, nsfw.chain) == ("aesthetic", "nsfw", "laion")
    for head in (aesthetic, nsfw):
        with open(head.file, "rb") as file:
            assert head.id == hashlib.sha256(file.read()).hexdigest() == head.description["id"]
        assert head.score(embeddings(3, WIDTH)).shape == (3,)
    words = (models / "heads" / "nsfw_vit_l_14_lookup.json").read_bytes()
    assert nsfw.description["lookup_sha256"] == hashlib.sha256(words).hexdigest()
    assert "'chain': 'laion'" in caplog.text
    assert find_heads(str(models), "ViT-L-14-quickgelu", WIDTH)[1].id == nsfw.id


def test_nemo_curator_layout(tmp_path, caplog):
    put(tmp_path / "ttj" / "sac-logos-ava1-l14-linearMSE" / "model.safetensors", mlp_state(WIDTH))
    state = nsfw_state(WIDTH, (64, 512, 256))
    put(tmp_path / "laion" / "clip-autokeras-binary-nsfw" / "clip_autokeras_binary_nsfw.pth", state)
    aesthetic, nsfw = find_heads(str(tmp_path), "ViT-L-14", WIDTH)
    assert (aesthetic.name, nsfw.name, nsfw.chain) == ("aesthetic", "nsfw", "plain")
    assert "without LAION's categorical lookup" in caplog.text
    same = load_head(put(tmp_path / "same.safetensors", state))
    assert same.score(embeddings(5, WIDTH)).tobytes() == nsfw.score(embeddings(5, WIDTH)).tobytes()


@pytest.mark.parametrize(
    ("model", "file", "state"),
    [
        ("ViT-L-14", "sac+logos+ava1-l14-linearMSE.pth", mlp_state(WIDTH)),
        ("ViT-L-14", "heads/sac+logos+ava1-l14-linearMSE.pth", mlp_state(WIDTH)),
        ("ViT-B-32", "heads/sa_0_4_vit_b_32_linear.safetensors", linear_head_state(WIDTH)),
        ("ViT-B-16", "sa_0_4_vit_b_16_linear.pth", linear_head_state(WIDTH)),
    ],
)
def test_publishers_names(tmp_path, model, file, state):
    path = put(tmp_path / file, state)
    (head,) = find_heads(str(tmp_path), model, WIDTH, nsfw_head="none")
    assert head.file == path


def test_named_files_and_none_and_random(models, tmp_path):
    file = put(tmp_path / "my_head.pth", linear_head_state(WIDTH))
    (head,) = find_heads("", "ViT-H-14", WIDTH, aesthetic_head=file, nsfw_head="none")
    assert head.file == file
    assert find_heads("", "ViT-H-14", WIDTH, aesthetic_head="none", nsfw_head="none") == ()
    aesthetic, nsfw = find_heads("", "any", 8, aesthetic_head="random", nsfw_head="random", seed=3)
    assert aesthetic.description["meaningless"] is nsfw.description["meaningless"] is True
    assert (aesthetic.name, aesthetic.width, aesthetic.id, nsfw.name) == ("aesthetic", 8, "random:3", "nsfw")


def test_chains_by_name(models):
    x = embeddings(200, WIDTH)
    x[:, 3] = 0.125
    options = {"aesthetic_head": "none"}
    scores = {}
    for chain in ("auto", "laion", "plain"):
        (head,) = find_heads(str(models), "ViT-L-14", WIDTH, nsfw_chain=chain, **options)
        assert head.chain == ("plain" if chain == "plain" else "laion")
        scores[chain] = head.score(x)
    assert scores["auto"].tobytes() == scores["laion"].tobytes()
    assert np.abs(scores["plain"] - scores["laion"]).max() > 1e-3

    lookup = models / "heads" / "nsfw_vit_l_14_lookup.json"
    lookup.rename(lookup.with_name("nsfw_vit_l_14_keras_lookup.json"))
    (head,) = find_heads(str(models), "ViT-L-14", WIDTH, **options)
    assert head.score(x).tobytes() == scores["laion"].tobytes()
    os.remove(lookup.with_name("nsfw_vit_l_14_keras_lookup.json"))
    assert find_heads(str(models), "ViT-L-14", WIDTH, **options)[0].chain == "plain"
    with pytest.raises(
        HeadError, match=r"needs the lookup file .*nsfw_vit_l_14_lookup\.json: run beam-curate fetch-models"
    ):
        find_heads(str(models), "ViT-L-14", WIDTH, nsfw_chain="laion", **options)
    with pytest.raises(HeadError, match="`nsfw_chain` is 'exact'; it can be auto, laion, plain"):
        find_heads(str(models), "ViT-L-14", WIDTH, nsfw_chain="exact", **options)


def test_another_width_names_head_and_model(models):
    with pytest.raises(HeadError, match=r"aesthetic head .*linearMSE\.safetensors is for .* width 24.*ViT-L-14.*32"):
        find_heads(str(models), "ViT-L-14", 32)


def test_head_given_to_the_wrong_option(models):
    file = str(models / "heads" / "nsfw_vit_l_14.safetensors")
    with pytest.raises(HeadError, match=r"`aesthetic_head` .* is an nsfw head; give it to `nsfw_head`"):
        find_heads(str(models), "ViT-L-14", WIDTH, aesthetic_head=file)


@pytest.mark.parametrize(
    ("model_dir", "model", "said"),
    [
        ("{tmp}", "ViT-L-14", r"no aesthetic head for ViT-L-14 in .*fetch-models.*put it at .*`aesthetic_head` none"),
        ("{tmp}", "ViT-H-14", r"no aesthetic head is published for ViT-H-14: name a file with `aesthetic_head`"),
        ("", "ViT-L-14", r"no aesthetic head is given: set `model_dir`"),
    ],
)
def test_missing_head(tmp_path, model_dir, model, said):
    with pytest.raises(HeadError, match=said) as error:
        find_heads(model_dir.format(tmp=tmp_path), model, WIDTH)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, ValueError)


class Danger:
    """Its unpickling makes a file: proof that code was run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_code_is_refused_and_not_run(tmp_path):
    proof = tmp_path / "proof"
    torch.save({"weight": Danger(proof)}, tmp_path / "evil.pth")
    with pytest.raises(HeadError, match=r"evil\.pth .*would run code.*use the \.safetensors file"):
        load_head(str(tmp_path / "evil.pth"))
    torch.save(torch.nn.Linear(24, 1), tmp_path / "module.pth")
    with pytest.raises(HeadError, match="would run code"):
        load_head(str(tmp_path / "module.pth"))
    assert not proof.exists()


def test_nested_and_cuda_style_state_dicts(tmp_path):
    state = {key: torch.from_numpy(value).half() for key, value in linear_head_state(WIDTH).items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pth")
    assert load_head(str(tmp_path / "nested.pth")).width == WIDTH
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(HeadError, match="is not a state dict"):
        load_head(str(tmp_path / "list.pth"))


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
@pytest.mark.parametrize("size", [0, 7, 100, 5000])
def test_cut_files(tmp_path, name, size):
    path = tmp_path / name
    put(path, mlp_state(WIDTH))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(HeadError, match=rf"{name} is damaged"):
        load_head(str(path))


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(HeadError, match=r"nothing\.pth' is not a file; give a file"):
        find_heads("", "ViT-L-14", WIDTH, aesthetic_head=str(tmp_path / "nothing.pth"))
    with pytest.raises(HeadError, match="cannot look for what://ever"):
        find_heads("what://ever", "ViT-L-14", WIDTH)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"columns": {}}',
        '{"columns": {"3": []}}',
        '{"columns": {"3": {}}}',
        '{"columns": {"x": {"0.100000": 1}}}',
        '{"columns": {"3": {"0.1": 1}}}',
        '{"columns": {"-1": {"0.100000": 1}}}',
    ],
)
def test_bad_lookup_files(models, text):
    (models / "heads" / "nsfw_vit_l_14_lookup.json").write_text(text)
    with pytest.raises(HeadError, match=r"nsfw_vit_l_14_lookup\.json is not a lookup vocabulary"):
        find_heads(str(models), "ViT-L-14", WIDTH)
