"""Turns the SavedModels in which LAION publishes its NSFW heads into plain weights and a lookup vocabulary.

The weights lie in the checkpoint of the SavedModel. The vocabularies do not: they are constants of its graph, for
each column one of words and one of ranks, and the columns are those that the layer's configuration calls "int".
"""

import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from beam_curate.heads.tf_checkpoint import DTYPES, FormatError, fields, read_tensors, shape_of

_STRING: Final = 7
_VARIABLE: Final = "/.ATTRIBUTES/VARIABLE_VALUE"
# A note to readers of the vocabulary file, which is as it has been since the vocabularies were first extracted.
_FORMAT: Final = "%f (6 decimals) of float64(input[:,col]) -> rank; absent -> 0; applied BEFORE norm"

Weights = dict[str, npt.NDArray[np.float32]]
Vocabulary = dict[int, dict[str, int]]


def read_nsfw_zip(archive: zipfile.ZipFile) -> tuple[Weights, Vocabulary]:
    """Reads a head from LAION's zip of a Keras SavedModel.

    Returns:
        The weights under the names that `head_from_state` knows, and by column the vocabulary, words to ranks.

    Raises:
        FormatError: The zip has no SavedModel, or not one of this kind.
    """
    models = [name for name in archive.namelist() if name.endswith("saved_model.pb")]
    if len(models) != 1:
        raise FormatError(f"{archive.filename} has {len(models)} files saved_model.pb, not one")
    root = models[0].removesuffix("saved_model.pb")
    try:
        graph, metadata = archive.read(models[0]), archive.read(f"{root}keras_metadata.pb")
        index = archive.read(f"{root}variables/variables.index")
        tensors = read_tensors(index, lambda i, n: archive.read(f"{root}variables/variables.data-{i:05d}-of-{n:05d}"))
    except (KeyError, zipfile.BadZipFile) as error:
        raise FormatError(f"{archive.filename} is not a whole SavedModel: {error}") from error
    return _weights(tensors), _vocabulary(graph, metadata)


def write_vocabulary(vocabulary: Vocabulary) -> bytes:
    """Writes a vocabulary as the JSON that the heads read: a format note, and by column words to ranks."""
    return json.dumps({"format": _FORMAT, "columns": {str(key): ranks for key, ranks in vocabulary.items()}}).encode()


def _weights(tensors: dict[str, npt.NDArray[Any]]) -> Weights:
    """Renames the variables: layer 0 is the encoding, 1 the normalisation, the rest linear, (in, out) in Keras."""
    try:
        state = {f"norm.{part}": tensors[f"layer_with_weights-1/{part}{_VARIABLE}"] for part in ("mean", "variance")}
        number = 1
        while (kernel := f"layer_with_weights-{number + 1}/kernel{_VARIABLE}") in tensors:
            state[f"linear_{number}.weight"] = tensors[kernel].T
            state[f"linear_{number}.bias"] = tensors[kernel.replace("/kernel/", "/bias/")]
            number += 1
    except KeyError as error:
        raise FormatError(f"the checkpoint has no variable {error}") from error
    return {name: np.ascontiguousarray(value, np.float32) for name, value in state.items()}


def _vocabulary(graph: bytes, metadata: bytes) -> Vocabulary:
    listed = re.search(rb'"encoding": (\[[^]]*\])', metadata)
    if listed is None:
        raise FormatError("keras_metadata.pb names no column encoding: not a model that AutoKeras made of columns")
    columns = [column for column, way in enumerate(json.loads(listed[1])) if way == "int"]
    words: list[str] | None = None
    tables: list[dict[str, int]] = []
    for value in _constants(graph):
        # The graph has them in the order of the columns, each column's words before its ranks.
        if isinstance(value, list):
            words = value
        elif words is not None and value.dtype == np.int64 and value.shape == (len(words),):
            tables.append(dict(zip(words, value.tolist(), strict=True)))
            words = None
    if len(tables) != len(columns):
        raise FormatError(f"the graph has {len(tables)} vocabularies for {len(columns)} encoded columns")
    return dict(zip(columns, tables, strict=True))


def _constants(saved_model: bytes) -> Iterator[list[str] | npt.NDArray[Any]]:
    """Yields the constant vectors of the main graph in its order: lists of words, and arrays.

    Source: saved_model.proto, meta_graph.proto, graph.proto, node_def.proto, attr_value.proto, tensor.proto of
    tensorflow/core: SavedModel.meta_graphs = 2, MetaGraphDef.graph_def = 2, GraphDef.node = 1, NodeDef.op = 2 and
    attr = 5, AttrValue.tensor = 8, TensorProto.dtype = 1, tensor_shape = 2, tensor_content = 4, string_val = 8.
    """
    for node in _path(saved_model, 2, 2, 1):
        if dict(fields(node)).get(2) != b"Const":
            continue
        for attribute in _path(node, 5):
            pair = dict(fields(attribute))
            if pair.get(1) != b"value":
                continue
            for tensor in _path(pair[2], 8):
                parts = dict(fields(tensor))
                shape = shape_of(parts.get(2, b""))
                if len(shape) != 1:
                    continue
                if parts.get(1) == _STRING:
                    yield [word.decode() for word in _path(tensor, 8)]
                elif parts.get(1) in DTYPES and 4 in parts:
                    yield np.frombuffer(parts[4], DTYPES[parts[1]])


def _path(message: bytes, *numbers: int) -> Iterator[bytes]:
    """Yields every message that is reached by these field numbers."""
    for number, value in fields(message):
        if number == numbers[0]:
            if len(numbers) == 1:
                yield value
            else:
                yield from _path(value, *numbers[1:])
