"""Heads of the user's own: linear layers in a safetensors file, and a small JSON file that says what they are.

    {"name": "texture", "weights": "texture.safetensors", "layers": ["fc1", "fc2"], "activation": "relu",
     "output": "sigmoid", "mean": "norm.mean", "deviation": "norm.std", "model": "ViT-L-14"}

`weights` is relative to the JSON file. A layer is `<layer>.weight` (out, in) and, if there, `<layer>.bias` (out,), as torch
names and stores them; the activation follows each but the last, which has one output. `mean` and `deviation` name tensors
(D,) that are subtracted from the embedding and that it is divided by. `mean`, `deviation` and `model` may be left out.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from beam_curate.heads.head import Floats, Head, HeadError, Layer
from beam_curate.scores.scorers import column_problem
from beam_curate.storage.files import exists, join, read_bytes
from beam_curate.storage.schemes import SchemeError, check_scheme

_CHOICES: Final = {"activation": ("none", "relu"), "output": ("raw", "sigmoid")}
_TYPES: Final = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True, eq=False)
class OwnHead(Head):
    """A head that `load_own_head` made.

    Attributes:
        model: The open_clip name of the model that it is for; empty if its file does not say.
        weights_file: The safetensors file.
    """

    model: str = ""
    weights_file: str = ""

    @property
    def description(self) -> dict[str, object]:
        """As of any head, with the model."""
        return {**super().description, **({"model": self.model} if self.model else {})}

    def check_model(self, clip_model: str, width: int) -> None:
        """Refuses a model that the head is not for; a `-quickgelu` at the end of its name makes no difference.

        Raises:
            HeadError: The head is for another model, or for embeddings of another width.
        """
        if self.model and self.model.removesuffix("-quickgelu") != clip_model.removesuffix("-quickgelu"):
            raise HeadError(
                f"`head` {self.file} is for {self.model}, not for {clip_model}: choose a head made for this model; if the "
                "two give the same embeddings, leave out its key model"
            )
        if self.width != width:
            raise HeadError(
                f"`head` {self.file} is for embeddings of width {self.width}, but those of {clip_model} are of width "
                f"{width}: choose a head made for this model"
            )


@dataclass(frozen=True)
class _Description:
    """The JSON file; keys without a default must be there."""

    name: str
    weights: str
    layers: tuple[str, ...]
    activation: str
    output: str
    mean: str = ""
    deviation: str = ""
    model: str = ""


def load_own_head(path: str) -> OwnHead:
    """Loads and checks a head from its JSON file and the safetensors file that it names.

    Its `id` is the sha256 of the description and the weights: of the JSON object without `weights`, keys sorted, a line
    feed, and the bytes of the safetensors file. So it is the same wherever the files lie.

    Args:
        path: The JSON file, on any file system that Beam knows.

    Raises:
        HeadError: A file is missing or damaged, a key is unknown, missing or wrong, or a tensor is missing, does not fit or
            is named by no key. The message names file, key and remedy.
    """
    described = _described(path)
    weights = described.weights
    if not weights.startswith("/") and "://" not in weights:
        folder, slash, _ = path.rpartition("/")
        weights = join(folder or slash, weights) if slash else weights
    if not weights.endswith(".safetensors"):
        raise HeadError(
            f"{path}: weights is {described.weights!r}; only .safetensors files are read, as they hold no code: save it with "
            "safetensors.torch.save_file(model.state_dict(), ...)"
        )
    data = _read(weights, f"correct the key weights of {path}")
    tensors = _Tensors(path, weights, data)
    layers = tensors.layers(described.layers)
    width = layers[0].weight.shape[1]
    mean = tensors.vector("mean", described.mean, width, 0.0)
    deviation = tensors.vector("deviation", described.deviation, width, 1.0)
    if not (deviation > 0).all():
        raise HeadError(
            f"{path}: deviation names {described.deviation}, which has values that are not above 0; correct it"
        )
    tensors.refuse_left_over()
    said = {key: value for key, value in dataclasses.asdict(described).items() if value and key != "weights"}
    return OwnHead(
        described.name,
        width,
        f"own, {len(layers)} layers, activation {described.activation}, output {described.output}",
        hashlib.sha256(json.dumps(said, sort_keys=True).encode() + b"\n" + data).hexdigest(),
        layers,
        relu=described.activation == "relu",
        output=described.output,
        mean=mean if described.mean or described.deviation else None,
        deviation=deviation if described.mean or described.deviation else None,
        file=path,
        model=described.model,
        weights_file=weights,
    )


def _described(path: str) -> _Description:
    text = _read(path, "`head` takes the JSON file that describes a head")
    try:
        loaded = json.loads(text)
    except ValueError as error:
        raise HeadError(
            f"{path} is not a JSON file ({error}); `head` takes the description, not the weights"
        ) from error
    fields = {field.name: field for field in dataclasses.fields(_Description)}
    if not isinstance(loaded, dict):
        raise HeadError(f"{path} holds no JSON object; write one with the keys {', '.join(fields)}")
    for key in loaded:
        if key not in fields:
            raise HeadError(f"{path} has an unknown key {key!r}; leave it out; the keys are: {', '.join(fields)}")
    for key, field in fields.items():
        if key not in loaded and field.default is dataclasses.MISSING:
            raise HeadError(f"{path} has no key {key!r}; add it")
    _check_values(path, loaded)
    return _Description(**{**loaded, "layers": tuple(loaded["layers"])})


def _check_values(path: str, loaded: Mapping[str, Any]) -> None:
    for key, value in loaded.items():
        if key == "layers":
            if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
                raise HeadError(f'{path}: layers is {value!r}; list the names of the layers, as in ["fc1", "fc2"]')
        elif not isinstance(value, str) or not value:
            raise HeadError(f"{path}: {key} is {value!r}; give a text that is not empty, or leave out an optional key")
    for key, choices in _CHOICES.items():
        if loaded[key] not in choices:
            raise HeadError(f"{path}: {key} is {loaded[key]!r}; it can be {' or '.join(choices)}")
    problem = column_problem(loaded["name"])
    if problem:
        raise HeadError(f"{path}: name: {problem}")


class _Tensors:
    """The tensors of a safetensors file, as float64; it knows which were not asked for."""

    def __init__(self, path: str, weights: str, data: bytes) -> None:
        self._path = path
        self._weights = weights
        self._tensors = _safetensors(weights, data)
        self._left = dict.fromkeys(self._tensors)

    def layers(self, names: tuple[str, ...]) -> tuple[Layer, ...]:
        """The layers, each taking what the one before gives."""
        layers: list[Layer] = []
        for place, name in enumerate(names):
            weight = self._get("layers", f"{name}.weight")
            width = len(layers[-1].bias) if layers else None
            if weight.ndim != 2 or not weight.size or width not in (None, weight.shape[1]):
                self._misfit("layers", f"{name}.weight", weight, f"(out, {width or 'in'})")
            if place == len(names) - 1 and len(weight) != 1:
                self._misfit("layers", f"{name}.weight", weight, f"(1, {weight.shape[1]}), as of a last layer")
            bias = np.zeros(len(weight))
            if f"{name}.bias" in self._tensors:
                bias = self._get("layers", f"{name}.bias")
                if bias.shape != (len(weight),):
                    self._misfit("layers", f"{name}.bias", bias, f"({len(weight)},)")
            layers.append(Layer(weight, bias))
        return tuple(layers)

    def vector(self, key: str, name: str, width: int, default: float) -> Floats:
        """The tensor (D,) that a key names, or one of this value where there is no such key."""
        if not name:
            return np.full(width, default)
        vector = self._get(key, name)
        if vector.shape != (width,):
            self._misfit(key, name, vector, f"({width},)")
        return vector

    def refuse_left_over(self) -> None:
        """Refuses tensors that were not asked for: a layer left out by mistake would change every score."""
        if self._left:
            raise HeadError(
                f"{self._path}: no key names the tensors {', '.join(sorted(self._left))} of {self._weights}; add them to "
                "layers, mean or deviation, or save the file without them"
            )

    def _get(self, key: str, name: str) -> Floats:
        if name not in self._tensors:
            raise HeadError(
                f"{self._path}: {key} needs the tensor {name!r}, which {self._weights} does not have; it has: "
                f"{', '.join(sorted(self._tensors)) or 'none'}; correct {key}"
            )
        self._left.pop(name, None)
        if not np.isfinite(self._tensors[name]).all():
            raise HeadError(
                f"{self._path}: {key}: {name} of {self._weights} has NaN or infinity; train or save it again"
            )
        return self._tensors[name]

    def _misfit(self, key: str, name: str, found: Floats, wanted: str) -> NoReturn:
        raise HeadError(
            f"{self._path}: {key}: {name} of {self._weights} is of shape {found.shape}, not {wanted}; correct {key}, "
            "or the weights (a torch Linear's are (out, in))"
        )


def _read(path: str, remedy: str) -> bytes:
    try:
        check_scheme(path)
        if not exists(path):
            raise HeadError(f"the file {path} does not exist; {remedy}")
        return read_bytes(path)
    except SchemeError as error:
        raise HeadError(f"{error}; {remedy}") from error
    except OSError as error:
        raise HeadError(f"cannot read {path} ({error}); {remedy}") from error


def _safetensors(path: str, data: bytes) -> Mapping[str, Floats]:
    """By name, all tensors of a file, of whatever float type: numpy has no bfloat16, the upper half of a float32."""
    import safetensors

    deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize
    try:
        found = deserialize(data)
    except safetensors.SafetensorError as error:
        raise HeadError(f"{path} is damaged or not a safetensors file ({error}); save it again") from error
    tensors = {}
    for name, tensor in found:
        kind = tensor["dtype"]
        if kind not in _TYPES:
            raise HeadError(f"{path}: the tensor {name} is of type {kind}; save it as one of {', '.join(_TYPES)}")
        values: npt.NDArray[Any] = np.frombuffer(tensor["data"], _TYPES[kind]).reshape(tensor["shape"])
        if kind == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = values.astype(np.float64)
    return tensors
