"""Heads: references, both chains, recognition, batch independence, random heads."""

import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file

from beam_curate.heads.head import AESTHETIC, NSFW, HeadError, head_from_state, random_head
from beam_curate.heads.nsfw_lookup import Lookup, _code_of_text, _codes
from tests.support.made_heads import (
    LINEAR_KEYS,
    MLP_HIDDEN,
    RELU_KEYS,
    embeddings,
    linear_head_state,
    linear_state,
    mlp_state,
    nsfw_state,
)

# --- every published architecture, computed here the long way


def forward(state, names, x, relu):
    for i, name in enumerate(names):
        x = x @ state[f"{name}.weight"].astype(np.float64).T + state[f"{name}.bias"]
        if relu and i < len(names) - 1:
            x = np.maximum(x, 0)
    return x[:, 0]


@pytest.mark.parametrize("relu", [False, True])
def test_aesthetic_mlp_is_its_layers_one_after_the_other(relu):
    state, x = mlp_state(relu=relu), embeddings(20, 24)
    head = head_from_state(state, "abc")
    expected = forward(state, RELU_KEYS if relu else LINEAR_KEYS, x.astype(np.float64), relu)
    assert np.abs(head.score(x) - expected).max() < 1e-5
    assert (head.name, head.width, head.id) == (AESTHETIC, 24, "abc")
    assert ("ReLU" in head.kind) == relu
    assert head.score(x).std() > 0.01


def test_linear_head():
    state, x = linear_head_state(), embeddings(20, 24)
    head = head_from_state(state)
    assert np.abs(head.score(x) - (x.astype(np.float64) @ state["weight"][0] + state["bias"][0])).max() < 1e-6
    assert head.name == AESTHETIC


@pytest.mark.parametrize("hidden", [(64, 512, 256), (32, 32)])
def test_nsfw_plain_and_laion(hidden):
    state, x = nsfw_state(hidden=hidden), embeddings(50, 24)
    names = [f"linear_{i + 1}" for i in range(len(hidden) + 1)]
    column = 7
    words = {f"{value:f}": rank for rank, value in enumerate(dict.fromkeys(x[::2, column].astype(float)), start=1)}
    encoded = x.astype(np.float64)
    encoded[:, column] = [words.get(f"{value:f}", 0) for value in x[:, column].astype(float)]
    assert 0 < (encoded[:, column] == 0).sum() < 50

    for rows, lookup in ((x.astype(np.float64), None), (encoded, Lookup.from_vocabulary({column: words}, "ff"))):
        head = head_from_state(state, lookup=lookup)
        z = forward(state, names, (rows - state["norm.mean"]) / np.sqrt(state["norm.variance"]), relu=True)
        assert np.abs(head.score(x) - 1 / (1 + np.exp(-z))).max() < 1e-5
        assert (head.name, head.chain) == (NSFW, "laion" if lookup else "plain")
        assert head.description["chain"] == head.chain
        assert head.description.get("lookup_sha256") == ("ff" if lookup else None)


# --- the published heads


@pytest.mark.parametrize("model", ["l_14", "b_32"])
def test_laion_chain_gives_what_the_saved_model_gives_and_plain_does_not(assets, model):
    folder = assets / "heads"
    state = load_file(folder / f"nsfw_vit_{model}.safetensors")
    columns = json.loads((folder / f"nsfw_vit_{model}_keras_lookup.json").read_text())["columns"]
    lookup = Lookup.from_vocabulary({int(column): ranks for column, ranks in columns.items()})
    reference = np.load(folder / f"nsfw_vit_{model}_keras_reference.npz")
    expected = reference["y"].ravel()
    assert np.abs(head_from_state(state, lookup=lookup).score(reference["x"]) - expected).max() < 1e-5
    assert np.abs(head_from_state(state).score(reference["x"]) - expected).max() > 1e-5


@pytest.mark.parametrize(
    ("file", "ratings", "first", "last", "rank_correlation"),
    [
        ("sac_logos_ava1-l14-linearMSE", "l_14", 1.66, 5.75, 1.0),
        ("ava_logos-l14-linearMSE", "l_14", 4.51, 5.27, 0.964),
        ("sa_0_4_vit_l_14_linear", "l_14", -2.46, 11.30, 1.0),
        ("sa_0_4_vit_b_32_linear", "b_32", -1.47, 11.01, 1.0),
    ],
)
def test_laions_rating_embeddings(assets, file, ratings, first, last, rank_correlation):
    head = head_from_state(load_file(assets / "heads" / f"{file}.safetensors"))
    scores = head.score(np.load(assets / "heads" / f"rating_embeddings_vit_{ratings}.npy"))
    assert scores[0] == pytest.approx(first, abs=0.005)
    assert scores[-1] == pytest.approx(last, abs=0.005)
    assert np.corrcoef(scores.argsort().argsort(), np.arange(10))[0, 1] == pytest.approx(rank_correlation, abs=0.001)


def test_all_published_heads_agree_with_torch(assets):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def sequential(state):
        """The publisher's Sequential: what the names skip are ReLUs and Dropouts, which evaluation ignores."""
        relu = "layers.3.weight" in state
        dropped = [0.2, 0.2, 0.1]
        layers = []
        for i, (into, out) in enumerate(zip((768, *MLP_HIDDEN), (*MLP_HIDDEN, 1), strict=True)):
            layers.append(nn.Linear(into, out))
            layers += [nn.ReLU()] if relu and i < 4 else []
            layers += [nn.Dropout(dropped[i])] if i < 3 else []
        model = nn.Sequential(*layers).eval()
        model.load_state_dict({k.removeprefix("layers."): torch.from_numpy(v) for k, v in state.items()})
        return model

    x = embeddings(64, 768).astype(np.float32)
    for name in ("sac_logos_ava1-l14-linearMSE", "ava_logos-l14-linearMSE", "ava_logos-l14-reluMSE"):
        state = load_file(assets / "heads" / f"{name}.safetensors")
        with torch.no_grad():
            expected = sequential(state)(torch.from_numpy(x)).numpy()[:, 0]
        assert np.abs(head_from_state(state).score(x) - expected).max() < 1e-5, name


# --- a row's score is its own


@pytest.mark.parametrize(
    "head",
    [
        head_from_state(mlp_state(768)),
        head_from_state(mlp_state(768, relu=True)),
        head_from_state(linear_head_state(768)),
        head_from_state(nsfw_state(768, (64, 512, 256))),
        head_from_state(nsfw_state(768), lookup=Lookup.from_vocabulary({3: {"0.036133": 4, "-0.010002": 9}})),
        random_head(AESTHETIC, 768),
        random_head(NSFW, 768),
    ],
    ids=lambda head: head.kind,
)
def test_score_does_not_depend_on_the_batch(head):
    x = embeddings(67, 768)
    whole = head.score(x).tobytes()
    for size in (1, 2, 3, 7, 16, 33):
        parts = [head.score(x[start : start + size]) for start in range(0, len(x), size)]
        assert np.concatenate(parts).tobytes() == whole
    assert head.score(np.asfortranarray(x)[::-1])[::-1].tobytes() == whole
    assert head.score(x.astype(np.float32)).tobytes() == whole
    assert pickle.loads(pickle.dumps(head)).score(x).tobytes() == whole


def test_empty_batch_and_bad_rows():
    head = head_from_state(nsfw_state())
    x = embeddings(3, 24)
    x[1, 5] = np.nan
    scores = head.score(x)
    assert np.isnan(scores).tolist() == [False, True, False]
    assert head.score(x[:0]).shape == (0,)
    assert head.score(x).dtype == np.float32
    with pytest.raises(ValueError, match=r"\(N, 24\).*\(3, 23\)"):
        head.score(x[:, 1:])


def test_sigmoid_does_not_overflow():
    state = linear_state(["linear_1", "linear_2", "linear_3"], (4, 32, 32, 1))
    state["linear_3.weight"][:] = 0
    for bias, expected in ((-2000.0, 0.0), (2000.0, 1.0)):
        state["linear_3.bias"][:] = bias
        head = head_from_state({"norm.mean": np.zeros(4), "norm.variance": np.ones(4), **state})
        with np.errstate(all="raise"):
            assert head.score(embeddings(1, 4))[0] == expected


def test_zero_variance_is_divided_as_keras_does():
    state = nsfw_state()
    state["norm.variance"][3] = 0
    assert np.isfinite(head_from_state(state).score(embeddings(4, 24))).all()


# --- recognition is strict


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    "state",
    [
        {},
        without(mlp_state(), "layers.7.bias"),
        {**mlp_state(), "layers.8.weight": np.zeros((1, 1), np.float32)},
        {**mlp_state(), "layers.2.weight": np.zeros((129, 1024), np.float32)},
        {**mlp_state(), "layers.0.weight": np.zeros(24, np.float32)},
        {"weight": np.zeros((2, 24), np.float32), "bias": np.zeros(2, np.float32)},
        {"weight": np.zeros((1, 0), np.float32), "bias": np.zeros(1, np.float32)},
        without(linear_head_state(), "bias"),
        without(nsfw_state(), "norm.variance"),
        {**nsfw_state(), "norm.mean": np.zeros(25, np.float32)},
        {**nsfw_state(), "norm.count": np.zeros(1, np.float32)},
        nsfw_state(hidden=(32, 31)),
        nsfw_state(hidden=(32,)),
    ],
)
def test_unknown_weights_are_refused(state):
    with pytest.raises(HeadError, match=r"my\.pth is not one of the known heads"):
        head_from_state(state, file="my.pth")


def test_lookup_for_the_wrong_head():
    lookup = Lookup.from_vocabulary({24: {"0.100000": 1}})
    with pytest.raises(HeadError, match="column 24, beyond its width 24"):
        head_from_state(nsfw_state(), lookup=lookup)
    with pytest.raises(HeadError, match="only NSFW heads"):
        head_from_state(mlp_state(), lookup=lookup)


# --- %f


def test_codes_are_printf_for_all_float16_and_many_float32():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.abs(halves) <= 1]  # drops NaN and infinity too
    rng = np.random.default_rng(0)
    singles = np.concatenate([rng.uniform(-1, 1, 100_000), rng.uniform(-1, 1, 50_000) * 1e-5]).astype(np.float32)
    # Ties between two millionths, which only half-to-even rounding of the exact value gets right.
    ties = (np.arange(-64, 65) / 128).astype(np.float32)
    for values in (halves, singles, ties):
        wide = values.astype(np.float64)
        assert _codes(wide).tolist() == [_code_of_text(f"{value:f}") for value in wide.tolist()]


def test_codes_of_what_is_no_embedding_match_nothing():
    lookup = Lookup.from_vocabulary({0: {"0.500000": 5, "-0.000000": 6, "999.000000": 7}})
    column = np.array([0.5, -0.0, 0.0, -1e-9, 999.0, 1e30, np.inf, np.nan])
    x = np.stack([column, column], axis=1)
    encoded = lookup.encode(x)
    assert encoded[:, 0].tolist() == [5, 6, 0, 6, 7, 0, 0, 0]
    assert np.array_equal(encoded[:, 1], column, equal_nan=True)
    assert np.array_equal(x[:, 0], column, equal_nan=True)


@pytest.mark.parametrize("word", ["0.5", "1e-3", "0.1234567", "nan", "+0.500000", ".500000", ""])
def test_words_that_printf_does_not_print(word):
    with pytest.raises(ValueError, match="not a number as %f prints it"):
        Lookup.from_vocabulary({0: {word: 1}})


def test_column_without_words():
    with pytest.raises(ValueError, match="no words for column 3"):
        Lookup.from_vocabulary({3: {}})


# --- random heads


@pytest.mark.parametrize("spread", [1.0, 0.3], ids=["far apart", "similar, as of an untrained tower"])
def test_random_heads_look_like_scores(spread):
    x = embeddings(300, 512).astype(np.float64) * spread
    x[:, 0] += 1 - spread
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    aesthetic = random_head(AESTHETIC, 512).score(x)
    nsfw = random_head(NSFW, 512).score(x)
    assert 3.5 < aesthetic.min() < 4.2 < 5.8 < aesthetic.max() < 6.5
    assert 0.7 < aesthetic.std() < 1.3
    assert 0 <= nsfw.min() < 0.1 < 0.9 < nsfw.max() <= 1
    assert 0.1 < (nsfw > 0.5).mean() < 0.5


def test_random_heads_are_seeded_and_say_so():
    x = embeddings(10, 32)
    one, same, other = (random_head(AESTHETIC, 32, seed) for seed in (1, 1, 2))
    assert one.score(x).tobytes() == same.score(x).tobytes() != other.score(x).tobytes()
    assert one.description == {
        "name": "aesthetic",
        "kind": "random weights",
        "width": 32,
        "id": "random:1",
        "meaningless": True,
    }
    assert "meaningless" not in head_from_state(mlp_state()).description
    json.dumps(one.description)
