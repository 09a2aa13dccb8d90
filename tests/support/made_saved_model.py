"""Writes what TensorFlow writes, as far as a head needs it: checkpoints, and a Keras SavedModel in a zip."""

import io
import json
import struct
import zipfile

import numpy as np

DTYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number, value):
    """A field of a protocol buffer: an int, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def shape_proto(shape):
    return b"".join(field(2, field(1, size) if size else b"") for size in shape)


def block(pairs, restart_every=4):
    """A block of a sorted string table, with shared prefixes and restart points."""
    body, restarts, last = bytearray(), [], b""
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % restart_every == 0:
            restarts.append(len(body))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return bytes(body) + struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts))


def table(pairs, per_block=5, compression=0):
    out, handles = bytearray(), []

    def append(data):
        handle = varint(len(out)) + varint(len(data))
        out.extend(data + bytes([compression]) + b"crc?")
        return handle

    for start in range(0, len(pairs), per_block):
        some = pairs[start : start + per_block]
        handles.append((some[-1][0] + b"~", append(block(some))))
    meta = append(block([]))
    footer = meta + append(block(handles))
    return bytes(out) + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def checkpoint(tensors, shards=1, big_endian=False):
    """The index and the data files of a checkpoint; a list of words stands for a string tensor."""
    data = [bytearray() for _ in range(shards)]
    pairs = []
    for i, (name, tensor) in enumerate(sorted(tensors.items())):
        shard = i % shards
        if isinstance(tensor, list):
            raw, dtype, shape = b"".join(word.encode() for word in tensor), 7, (len(tensor),)
        else:
            raw, dtype, shape = tensor.tobytes(), DTYPES[tensor.dtype.name], tensor.shape
        entry = field(1, dtype) + field(2, shape_proto(shape))
        entry += field(3, shard) if shard else b""
        entry += field(4, len(data[shard])) + field(5, len(raw)) + varint(6 << 3 | 5) + b"crc?"
        data[shard] += raw
        pairs.append((name.encode(), entry))
    header = field(1, shards) + (field(2, 1) if big_endian else b"") + field(3, field(1, 1))
    return table([(b"", header), *pairs]), [bytes(each) for each in data]


def const(name, tensor):
    if isinstance(tensor, list):
        proto = field(1, 7) + field(2, shape_proto((len(tensor),)))
        proto += b"".join(field(8, word.encode()) for word in tensor)
    else:
        proto = field(1, DTYPES[tensor.dtype.name]) + field(2, shape_proto(tensor.shape)) + field(4, tensor.tobytes())
    attributes = {b"dtype": field(6, 1), b"value": field(8, proto)}
    return (
        field(1, name.encode())
        + field(2, b"Const")
        + b"".join(field(5, field(1, key) + field(2, value)) for key, value in attributes.items())
    )


def nsfw_zip(state, vocabulary, root="clip_autokeras/"):
    """A head as LAION publishes it: the weights in Keras' layout, the vocabulary in the graph."""
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    tensors = {
        f"layer_with_weights-1/count{suffix}": np.array(7, np.int64),
        "layer_with_weights-0/encoding_layers/3/token_counts/.ATTRIBUTES/table-keys": ["a", "b"],
        f"save_counter{suffix}": np.array(1, np.int64),
    }
    for key, value in state.items():
        layer, part = key.split(".")
        if layer == "norm":
            tensors[f"layer_with_weights-1/{part}{suffix}"] = value
        else:
            keras = {"weight": "kernel", "bias": "bias"}[part]
            number = int(layer.removeprefix("linear_")) + 1
            tensors[f"layer_with_weights-{number}/{keras}{suffix}"] = np.ascontiguousarray(value.T)
    index, shards = checkpoint(tensors)
    nodes = [
        field(1, b"x") + field(2, b"Placeholder"),
        const("Const", np.array(0, np.int64)),
        const("Const_1", np.ones((1, 24), np.float32)),
    ]
    for ranks in vocabulary.values():
        nodes += [const("words", list(ranks)), const("ranks", np.array(list(ranks.values()), np.int64))]
    graph = field(1, 1) + field(2, field(1, b"info") + field(2, b"".join(field(1, node) for node in nodes)))
    width = len(state["norm.mean"])
    encoding = json.dumps(["int" if column in vocabulary else "none" for column in range(width)])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{root}saved_model.pb", graph)
        archive.writestr(
            f"{root}keras_metadata.pb", b"\x0a\x10" + f'{{"name": "model", "encoding": {encoding}}}'.encode()
        )
        archive.writestr(f"{root}variables/variables.index", index)
        for i, data in enumerate(shards):
            archive.writestr(f"{root}variables/variables.data-{i:05d}-of-{len(shards):05d}", data)
    return buffer.getvalue()
