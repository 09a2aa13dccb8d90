"""State dicts of heads with random weights and a small width, and embeddings to score."""

import numpy as np

MLP_HIDDEN = (1024, 128, 64, 16)
LINEAR_KEYS = tuple(f"layers.{i}" for i in (0, 2, 4, 6, 7))
RELU_KEYS = tuple(f"layers.{i}" for i in (0, 3, 6, 9, 11))


def linear_state(names, widths, seed=0):
    """Weights of linear layers of these widths, scaled so that signals neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, into, out in zip(names, widths[:-1], widths[1:], strict=True):
        state[f"{name}.weight"] = (rng.normal(size=(out, into)) / np.sqrt(into)).astype(np.float32)
        state[f"{name}.bias"] = rng.normal(size=out).astype(np.float32)
    return state


def mlp_state(width=24, relu=False, seed=0):
    return linear_state(RELU_KEYS if relu else LINEAR_KEYS, (width, *MLP_HIDDEN, 1), seed)


def nsfw_state(width=24, hidden=(32, 32), seed=0):
    names = [f"linear_{i + 1}" for i in range(len(hidden) + 1)]
    rng = np.random.default_rng(seed + 1)
    norm = {
        "norm.mean": rng.normal(0, 0.03, width).astype(np.float32),
        "norm.variance": rng.uniform(0.001, 0.002, width).astype(np.float32),
    }
    return {**norm, **linear_state(names, (width, *hidden, 1), seed)}


def embeddings(count, width, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def linear_head_state(width=24):
    return {key.removeprefix("head."): value for key, value in linear_state(("head",), (width, 1)).items()}
