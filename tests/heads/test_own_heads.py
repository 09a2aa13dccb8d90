"""Heads of the user's own: the same numbers as torch, one id wherever the files lie, and every error."""

import hashlib
import json
import pickle
import re

import numpy as np
import pytest
from safetensors.numpy import save

from beam_curate.heads.head import Head, HeadError
from beam_curate.heads.own import load_own_head
from beam_curate.runs import score_table
from tests.conftest import ROOT
from tests.support.made_heads import embeddings, linear_state

WIDTH = 24
DESCRIPTION = {
    "name": "texture",
    "weights": "texture.safetensors",
    "layers": ["fc1", "fc2"],
    "activation": "relu",
    "output": "sigmoid",
}
NORM = {"mean": "norm.mean", "deviation": "norm.std"}


def state(layers=("fc1", "fc2"), widths=(WIDTH, 16, 1)):
    return linear_state(layers, widths)


def norm_state():
    rng = np.random.default_rng(3)
    mean, deviation = rng.normal(0, 0.1, WIDTH), rng.uniform(0.5, 2, WIDTH)
    return {"norm.mean": mean.astype(np.float32), "norm.std": deviation.astype(np.float32)}


def put(folder, data=None, without=(), **changes):
    """Writes a head's two files, `data` being tensors or bytes; gives the path of the JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {key: value for key, value in {**DESCRIPTION, **changes}.items() if key not in without}
    (folder / "texture.json").write_text(json.dumps(described))
    data = state() if data is None else data
    (folder / "texture.safetensors").write_bytes(data if isinstance(data, bytes) else save(data))
    return str(folder / "texture.json")


# --- the numbers


@pytest.mark.parametrize("norm", [(), ("mean",), ("deviation",), ("mean", "deviation")], ids=str)
@pytest.mark.parametrize("output", ["raw", "sigmoid"])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("hidden", [(), (16,), (32, 8)], ids=str)
def test_the_same_as_torch(tmp_path, hidden, activation, output, norm):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    widths = (WIDTH, *hidden, 1)
    modules = []
    for into, out in zip(widths, widths[1:], strict=False):
        modules += [torch.nn.Linear(into, out), torch.nn.ReLU() if activation == "relu" else torch.nn.Identity()]
    modules[-1] = torch.nn.Sigmoid() if output == "sigmoid" else torch.nn.Identity()
    model = torch.nn.Sequential(*modules).double().eval()
    with torch.no_grad():
        for values in model.parameters():
            values.copy_(values.float())  # so that the file, in float32, holds them exactly
    tensors = {key: value.float().numpy() for key, value in model.state_dict().items()}
    tensors |= {NORM[key]: norm_state()[NORM[key]] for key in norm}
    path = put(
        tmp_path,
        tensors,
        layers=[str(2 * place) for place in range(len(widths) - 1)],
        activation=activation,
        output=output,
        **{key: NORM[key] for key in norm},
    )
    x = embeddings(50, WIDTH)
    rows = torch.from_numpy(x.astype(np.float64))
    if "mean" in norm:
        rows = rows - torch.from_numpy(tensors["norm.mean"])
    if "deviation" in norm:
        rows = rows / torch.from_numpy(tensors["norm.std"])
    with torch.no_grad():
        expected = model(rows)[:, 0].numpy()
    assert expected.std() > 1e-3
    assert np.abs(load_own_head(path).score(x) - expected).max() < 1e-6


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
def test_types_of_weights(tmp_path, kind):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save as save_tensors

    tensors = {key: torch.from_numpy(value).to(getattr(torch, kind)) for key, value in state().items()}
    x = embeddings(20, WIDTH)
    found = load_own_head(put(tmp_path / "kind", save_tensors(tensors))).score(x)
    wide = {key: value.double().numpy() for key, value in tensors.items()}
    assert found.tobytes() == load_own_head(put(tmp_path / "wide", wide)).score(x).tobytes()
    assert np.abs(found - load_own_head(put(tmp_path / "single")).score(x)).max() < 0.02


def test_a_layer_without_bias_has_zeros(tmp_path):
    tensors = state()
    x = embeddings(20, WIDTH)
    tensors["fc1.bias"][:] = 0
    with_zeros = load_own_head(put(tmp_path / "zeros", tensors)).score(x)
    del tensors["fc1.bias"]
    assert load_own_head(put(tmp_path / "none", tensors)).score(x).tobytes() == with_zeros.tobytes()
    assert with_zeros.tobytes() != load_own_head(put(tmp_path / "biased")).score(x).tobytes()


def test_score_does_not_depend_on_the_batch_and_survives_pickle(tmp_path):
    head = load_own_head(put(tmp_path, {**state(), **norm_state()}, **NORM))
    x = embeddings(67, WIDTH)
    whole = head.score(x).tobytes()
    for size in (1, 2, 7, 32):
        assert b"".join(head.score(x[start : start + size]).tobytes() for start in range(0, 67, size)) == whole
    again = pickle.loads(pickle.dumps(head))
    assert again.score(x).tobytes() == whole
    assert (again.description, again.id) == (head.description, head.id)


# --- what it says of itself


def test_description(tmp_path):
    path = put(tmp_path, model="ViT-L-14")
    head = load_own_head(path)
    assert isinstance(head, Head)
    said = {**{key: value for key, value in DESCRIPTION.items() if key != "weights"}, "model": "ViT-L-14"}
    text = json.dumps(said, sort_keys=True).encode() + b"\n" + (tmp_path / "texture.safetensors").read_bytes()
    assert json.loads(json.dumps(head.description)) == {
        "name": "texture",
        "kind": "own, 2 layers, activation relu, output sigmoid",
        "width": WIDTH,
        "id": hashlib.sha256(text).hexdigest(),
        "file": path,
        "model": "ViT-L-14",
    }
    assert "model" not in load_own_head(put(tmp_path)).description


def test_id_is_of_weights_and_description_wherever_they_lie(tmp_path):
    first = load_own_head(put(tmp_path / "a", {**state(), **norm_state()}, **NORM)).id
    path = put(tmp_path / "b", {**state(), **norm_state()})
    (tmp_path / "b" / "texture.safetensors").rename(tmp_path / "moved.safetensors")
    for place in ("../moved.safetensors", str(tmp_path / "moved.safetensors")):
        described = {**NORM, **DESCRIPTION, "weights": place}
        (tmp_path / "b" / "texture.json").write_text(json.dumps(described, indent=4))
        assert load_own_head(path).id == first
    others = [
        put(tmp_path / "name", {**state(), **norm_state()}, **NORM, name="other"),
        put(tmp_path / "output", {**state(), **norm_state()}, **NORM, output="raw"),
        put(tmp_path / "model", {**state(), **norm_state()}, **NORM, model="ViT-B-32"),
        put(tmp_path / "weights", {**state(), **norm_state(), "fc2.bias": np.ones(1, np.float32)}, **NORM),
    ]
    assert len({first, *(load_own_head(other).id for other in others)}) == 5


def test_files_of_the_current_folder(tmp_path, monkeypatch):
    put(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_own_head("texture.json").name == "texture"


def test_model_is_checked(tmp_path):
    head = load_own_head(put(tmp_path, model="ViT-L-14"))
    head.check_model("ViT-L-14", WIDTH)
    head.check_model("ViT-L-14-quickgelu", WIDTH)
    with pytest.raises(HeadError, match=r"^`head` .*texture\.json is for ViT-L-14, not for ViT-B-32: choose"):
        head.check_model("ViT-B-32", WIDTH)
    with pytest.raises(
        HeadError, match=r"^`head` .*texture\.json is for .* width 24, but those of ViT-L-14 .* width 768"
    ):
        head.check_model("ViT-L-14", 768)
    load_own_head(put(tmp_path, model="ViT-L-14-quickgelu")).check_model("ViT-L-14", WIDTH)
    load_own_head(put(tmp_path)).check_model("any", WIDTH)


# --- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": ["fc1"]}, "has an unknown key 'layer'; leave it out; the keys are: name, weights, layers"),
        ({"layers": []}, r"layers is \[\]; list the names"),
        ({"layers": "fc1"}, "layers is 'fc1'; list the names"),
        ({"layers": ["fc1", 2]}, r"layers is \['fc1', 2\]; list the names"),
        ({"activation": "gelu"}, "activation is 'gelu'; it can be none or relu"),
        ({"output": "softmax"}, "output is 'softmax'; it can be raw or sigmoid"),
        ({"mean": None}, "mean is None; give a text"),
        ({"model": ""}, "model is ''; give a text"),
        ({"name": 3}, "name is 3; give a text"),
        ({"name": "my head"}, "name: 'my head' cannot name a column: use letters"),
        ({"name": "lambda"}, "name: 'lambda' cannot name a column"),
        ({"name": "side"}, "name: a score cannot be named 'side'"),
        *(({"name": name}, f"name: a score cannot be named '{name}'.*another name") for name in score_table.schema([], 1).names),
        ({"weights": "texture.pth"}, r"weights is 'texture\.pth'; only \.safetensors files are read.*save_file"),
        ({"layers": ["fc1", "fc3"]}, r"layers needs the tensor 'fc3\.weight', which .*\.safetensors does not have; .*fc2\.bias"),
        ({"layers": ["fc2"]}, r"no key names the tensors fc1\.bias, fc1\.weight of .*texture\.safetensors; add them"),
        ({"layers": ["fc1"]}, r"layers: fc1\.weight of .* is of shape \(16, 24\), not \(1, 24\), as of a last layer"),
        ({"layers": ["fc2", "fc1"]}, r"layers: fc1\.weight of .* is of shape \(16, 24\), not \(out, 1\)"),
        ({"mean": "norm.mean"}, "mean needs the tensor 'norm.mean'"),
        ({"deviation": "fc1.bias"}, r"deviation: fc1\.bias of .* is of shape \(16,\), not \(24,\)"),
    ],
)  # fmt: skip
def test_wrong_descriptions(tmp_path, changes, message):
    path = put(tmp_path, **changes)
    with pytest.raises(HeadError, match=f"^{re.escape(path)}.*{message}"):
        load_own_head(path)


@pytest.mark.parametrize("key", DESCRIPTION)
def test_missing_keys(tmp_path, key):
    path = put(tmp_path, without=(key,))
    with pytest.raises(HeadError, match=f"^{re.escape(path)} has no key '{key}'; add it"):
        load_own_head(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"fc1.weight": np.zeros(24, np.float32)}, r"layers: fc1\.weight of .* \(24,\), not \(out, in\)"),
        ({"fc1.weight": np.zeros((16, 0), np.float32)}, r"layers: fc1\.weight of .* \(16, 0\), not \(out, in\)"),
        ({"fc1.bias": np.zeros(15, np.float32)}, r"layers: fc1\.bias of .* \(15,\), not \(16,\)"),
        ({"fc2.weight": np.zeros((2, 16), np.float32)}, r"layers: fc2\.weight of .* \(2, 16\), not \(1, 16\)"),
        ({"fc2.weight": np.zeros((1, 17), np.float32)}, r"layers: fc2\.weight of .* \(1, 17\), not \(out, 16\)"),
        ({"fc2.bias": np.array([np.nan], np.float32)}, r"layers: fc2\.bias of .* has NaN or infinity"),
        ({"norm.std": np.zeros(24, np.float32)}, r"deviation names norm\.std, which has values that are not above 0"),
        ({"norm.mean": np.zeros((24, 1), np.float32)}, r"mean: norm\.mean of .* \(24, 1\), not \(24,\)"),
        ({"fc3.weight": np.zeros((1, 1), np.float32)}, r"no key names the tensors fc3\.weight"),
    ],
)
def test_misfitting_weights(tmp_path, tensors, message):
    path = put(tmp_path, {**state(), **norm_state(), **tensors}, **NORM)
    with pytest.raises(HeadError, match=f"^{re.escape(path)}: {message}"):
        load_own_head(path)


def test_damaged_and_other_files(tmp_path):
    weights = re.escape(str(tmp_path / "texture.safetensors"))
    with pytest.raises(HeadError, match=f"^{weights} is damaged or not a safetensors file"):
        load_own_head(put(tmp_path, save(state())[:-1]))
    with pytest.raises(HeadError, match=f"^{weights}: the tensor fc2.bias is of type I64; save it as one of F16, BF16"):
        load_own_head(put(tmp_path, {**state(), "fc2.bias": np.zeros(1, np.int64)}))
    path = put(tmp_path)
    with pytest.raises(HeadError, match=f"^{weights} is not a JSON file .*the description, not the weights"):
        load_own_head(str(tmp_path / "texture.safetensors"))
    (tmp_path / "texture.safetensors").unlink()
    with pytest.raises(
        HeadError, match=f"^the file {weights} does not exist; correct the key weights of {re.escape(path)}"
    ):
        load_own_head(path)
    (tmp_path / "texture.safetensors").mkdir()
    with pytest.raises(HeadError, match=f"^cannot read {weights}"):
        load_own_head(path)
    with pytest.raises(HeadError, match=r"^the file .*absent\.json does not exist; `head` takes the JSON file"):
        load_own_head(str(tmp_path / "absent.json"))
    (tmp_path / "texture.json").write_text("[]")
    with pytest.raises(
        HeadError, match=f"^{re.escape(path)} holds no JSON object; write one with the keys name, weights"
    ):
        load_own_head(path)


# --- the page

PAGE = (ROOT / "docs" / "scorers.md").read_text()


def test_the_pages_json_is_a_head(tmp_path):
    (text,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S)
    path = put(tmp_path, {**state(), **norm_state()})
    (tmp_path / "texture.json").write_text(text)
    head = load_own_head(path)
    assert (head.name, head.model, head.output, head.relu) == ("texture", "ViT-L-14", "sigmoid", True)
    assert head.score(embeddings(3, WIDTH)).shape == (3,)


def test_the_pages_torch_model_becomes_a_head(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)[2], names)
    head = load_own_head("texture.json")
    head.check_model("ViT-L-14", 768)
    x = embeddings(9, 768)
    with torch.no_grad():
        expected = names["model"](torch.tensor(x.astype(np.float32)))[:, 0].numpy()
    assert np.abs(head.score(x) - expected).max() < 1e-6
