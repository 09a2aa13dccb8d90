"""The scoring heads: CLIP image embeddings in, one score per image out.

Embeddings are (N, D), L2-normalised, as the score table stores them: float16, here cast up. Scoring the stored
embedding, not the float32 one it was rounded from, is what makes a score that is computed again from the table equal
the score in it.

A row's score depends on that row alone, bit for bit, whatever batch it is in: every row goes through matrix times
vector on its own (a matrix-matrix product picks another kernel for a batch of 7 than for one of 32, and rounds
otherwise), in float64, and is rounded to float32 at the end, which also hides the last bits in which CPUs differ.
That costs up to some tens of microseconds a row, little beside the model that makes the embedding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from beam_curate.heads.nsfw_lookup import Lookup

Floats = npt.NDArray[np.float64]

AESTHETIC: Final = "aesthetic"
NSFW: Final = "nsfw"
LAION: Final = "laion"
PLAIN: Final = "plain"

# Source: train_predictor.py of github.com/christophschuhmann/improved-aesthetic-predictor: a Sequential of five Linear
# layers with Dropout between them; before the commit "Update train_predictor.py" of 2022-06-26 also with a ReLU after
# each but the last. The ReLUs and Dropouts have no weights but count in the names, which tell the two kinds apart.
_MLP_HIDDEN: Final = (1024, 128, 64, 16)
_MLP_LINEAR: Final = tuple(f"layers.{i}" for i in (0, 2, 4, 6, 7))
_MLP_RELU: Final = tuple(f"layers.{i}" for i in (0, 3, 6, 9, 11))
# Source: keras_metadata.pb of the two SavedModels in github.com/LAION-AI/CLIP-based-NSFW-Detector.
_NSFW_HIDDEN: Final = ((64, 512, 256), (32, 32))


class HeadError(ValueError):
    """A head that is missing, of an unknown kind, or does not fit the model. The message says what to do."""


class EmbeddingScore(Protocol):
    """A score of an embedding: a `Head`, or a prompt's (`prompts.PromptScore`)."""

    @property
    def name(self) -> str:
        """The score's name, which is its column's."""

    @property
    def width(self) -> int:
        """D, the width of the embeddings."""

    @property
    def description(self) -> dict[str, object]:
        """What a summary says of it: JSON values. `meaningless` is there, and True, where weights are random."""

    def score(self, embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Scores (N, D) embeddings, each as if it were alone: (N,) float32, NaN where there is none."""


class Layer(NamedTuple):
    """A linear layer: `weight` (out, in) and `bias` (out,), both float64."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, eq=False)
class Head:
    """One score: embeddings to numbers. It travels to the workers by value (pickle), so they need no model files.

    Attributes:
        name: The score's name, `aesthetic` or `nsfw`.
        width: D, the width of the embeddings.
        kind: The architecture, in words.
        id: The sha256 of the file, or `random:<seed>`.
        layers: The linear layers, applied in order.
        relu: Whether a ReLU follows each layer but the last.
        output: What the last number goes through: `raw`, `sigmoid`, or one of the waves of a random head.
        mean: (D,) to subtract first, or None.
        deviation: (D,) to divide by after that.
        chain: `laion` or `plain` for an NSFW head, else empty.
        lookup: The categorical encoding, for the `laion` chain.
        file: Where it was read from.
    """

    name: str
    width: int
    kind: str
    id: str
    layers: Sequence[Layer]
    relu: bool = False
    output: str = "raw"
    mean: Floats | None = None
    deviation: Floats | None = None
    chain: str = ""
    lookup: Lookup | None = None
    file: str = ""

    @property
    def description(self) -> dict[str, object]:
        """What a summary says of the head: JSON values. `meaningless` is there, and True, for a random head alone."""
        said: dict[str, object] = {"name": self.name, "kind": self.kind, "width": self.width, "id": self.id}
        if self.chain:
            said["chain"] = self.chain
        if self.lookup:
            said["lookup_sha256"] = self.lookup.sha256
        if self.file:
            said["file"] = self.file
        if self.output in _WAVES:
            said["meaningless"] = True
        return said

    def score(self, embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Scores every embedding, each as if it were alone.

        Args:
            embeddings: (N, D), L2-normalised; float16 as stored, or float32. N may be 0.

        Returns:
            (N,) float32, in the order of the rows. NaN for a row with NaN or infinity.

        Raises:
            ValueError: The embeddings are not (N, D).
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width:
            raise ValueError(f"the {self.name} head takes embeddings (N, {self.width}), not {embeddings.shape}")
        rows = embeddings.astype(np.float64)
        if self.lookup is not None:
            rows = self.lookup.encode(rows)
        if self.mean is not None and self.deviation is not None:
            rows = (rows - self.mean) / self.deviation
        return np.array([self._output(self._raw(row)) for row in rows], np.float32)

    def _output(self, raw: float) -> float:
        """The last step, in scalars: numpy's vectorised exp and sin may round the end of a batch otherwise."""
        if not math.isfinite(raw):
            return math.nan
        if self.output == "sigmoid":
            small = math.exp(-abs(raw))  # never overflows
            return (1.0 if raw >= 0 else small) / (1.0 + small)
        if self.output in _WAVES:
            centre, height, power = _WAVES[self.output]
            return centre + height * (0.5 + 0.5 * math.sin(raw)) ** power
        return raw

    def _raw(self, row: Floats) -> float:
        for weight, bias in self.layers[:-1]:
            row = weight.dot(row) + bias
            if self.relu:
                row = np.maximum(row, 0.0)
        weight, bias = self.layers[-1]
        return float(weight[0].dot(row) + bias[0])


# What a random head makes of its random projection: centre, height and power of a sine, chosen to look like real
# scores (aesthetic 3.6 to 6.4 with standard deviation 1; nsfw 0 to 1, three in ten above 0.5).
_WAVES: Final = {"aesthetic wave": (5.0 - 2**0.5, 2 * 2**0.5, 1), "nsfw wave": (0.0, 1.0, 3)}
# An untrained CLIP tower gives similar embeddings for all images (cosines of 0.5 to 0.9): a projection this steep
# still spreads them over the whole wave.
_STEEPNESS: Final = 30.0


def random_head(name: str, width: int, seed: int = 0) -> Head:
    """Makes a head with seeded random weights, to try the pipeline without model files. Its scores mean nothing.

    Args:
        name: `aesthetic` (about 5 +- 1) or `nsfw` (0 to 1).
        width: D.
        seed: The same seed gives the same head.
    """
    rng = np.random.default_rng([seed, width, len(name)])
    layer = Layer(rng.normal(0.0, _STEEPNESS, (1, width)), rng.uniform(0.0, 2 * np.pi, 1))
    return Head(name, width, "random weights", f"random:{seed}", (layer,), output=f"{name} wave")


def head_from_state(
    state: Mapping[str, npt.NDArray[np.floating]], id: str = "", lookup: Lookup | None = None, file: str = ""
) -> Head:
    """Recognises a published head by the names and shapes of its weights, all of them, and no others.

    Args:
        state: By name, float arrays; linear weights are (out, in).
        id: The sha256 of the file.
        lookup: For an NSFW head: given, the chain is `laion`, else `plain` (as NeMo Curator computes it).
        file: Where the weights come from, for messages and the description.

    Returns:
        The head. Layers without an activation between them are multiplied into one: the same function.

    Raises:
        HeadError: The weights are of no kind known here, or a lookup came with a head that has none.
    """
    head = _aesthetic_mlp(state) or _aesthetic_linear(state) or _nsfw(state, lookup)
    where = file or "the head"
    if head is None:
        found = ", ".join(f"{key} {tuple(value.shape)}" for key, value in sorted(state.items()))
        raise HeadError(
            f"{where} is not one of the known heads (LAION aesthetic MLP, linear aesthetic, NSFW ViT-L/14 or ViT-B/32); "
            f"its weights are: {found or 'none'}"
        )
    if lookup is not None:
        if head.name != NSFW:
            raise HeadError(f"{where} is an {head.name} head; only NSFW heads have a categorical lookup")
        if max(lookup.columns, default=0) >= head.width:
            raise HeadError(f"the lookup of {where} has column {max(lookup.columns)}, beyond its width {head.width}")
    return replace(head, id=id, file=file)


def _aesthetic_mlp(state: Mapping[str, npt.NDArray[np.floating]]) -> Head | None:
    for names, relu in ((_MLP_LINEAR, False), (_MLP_RELU, True)):
        layers = _linear_layers(state, names, _MLP_HIDDEN)
        if layers:
            kind = f"LAION aesthetic MLP, {'ReLU' if relu else 'no'} activations"
            width = layers[0].weight.shape[1]
            return Head(AESTHETIC, width, kind, "", layers if relu else (_product(layers),), relu=relu)
    return None


def _aesthetic_linear(state: Mapping[str, npt.NDArray[np.floating]]) -> Head | None:
    layers = _linear_layers({f"head.{key}": value for key, value in state.items()}, ("head",), ())
    return Head(AESTHETIC, layers[0].weight.shape[1], "LAION linear aesthetic", "", layers) if layers else None


def _nsfw(state: Mapping[str, npt.NDArray[np.floating]], lookup: Lookup | None) -> Head | None:
    if {"norm.mean", "norm.variance"} - state.keys():
        return None
    mean, variance = (state[f"norm.{key}"].astype(np.float64) for key in ("mean", "variance"))
    rest = {key: value for key, value in state.items() if not key.startswith("norm.")}
    if len(rest) != len(state) - 2:
        return None
    for hidden in _NSFW_HIDDEN:
        layers = _linear_layers(rest, [f"linear_{i + 1}" for i in range(len(hidden) + 1)], hidden)
        if layers and mean.shape == variance.shape == layers[0].weight.shape[1:]:
            deviation = np.maximum(np.sqrt(variance), 1e-7)  # Source: Keras' Normalization layer
            kind = f"LAION NSFW, {len(layers)} layers"
            chain = LAION if lookup else PLAIN
            return Head(NSFW, len(mean), kind, "", layers, True, "sigmoid", mean, deviation, chain, lookup)
    return None


def _linear_layers(
    state: Mapping[str, npt.NDArray[np.floating]], names: Sequence[str], hidden: Sequence[int]
) -> tuple[Layer, ...]:
    """The layers named, if the state has just these, with these hidden widths and one output; else none."""
    if state.keys() != {f"{name}.{part}" for name in names for part in ("weight", "bias")}:
        return ()
    first = state[f"{names[0]}.weight"]
    if first.ndim != 2 or not first.shape[1]:
        return ()
    widths = (first.shape[1], *hidden, 1)
    layers = tuple(
        Layer(state[f"{name}.weight"].astype(np.float64), state[f"{name}.bias"].astype(np.float64)) for name in names
    )
    fits = all(
        layer.weight.shape == (out, into) and layer.bias.shape == (out,)
        for layer, into, out in zip(layers, widths[:-1], widths[1:], strict=True)
    )
    return layers if fits else ()


def _product(layers: Sequence[Layer]) -> Layer:
    """One layer that does what these do after each other."""
    weight, bias = layers[0]
    for layer in layers[1:]:
        weight, bias = layer.weight @ weight, layer.weight @ bias + layer.bias
    return Layer(weight, bias)
