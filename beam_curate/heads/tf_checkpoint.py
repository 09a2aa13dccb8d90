"""Reads the tensors of a TensorFlow checkpoint, and protocol buffers, without TensorFlow.

LAION publishes its NSFW heads as Keras SavedModels only. TensorFlow is too heavy to install for a few matrices, and
what is needed of its formats is small: a checkpoint is an index (a sorted string table, as in LevelDB: name to a
protocol buffer with type, shape, shard, offset and size) and data files with the raw little-endian numbers.

Source: tensorflow/core/util/tensor_bundle/tensor_bundle.h and tensorflow/core/protobuf/tensor_bundle.proto;
github.com/google/leveldb, doc/table_format.md; protobuf.dev, "Encoding".
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_MAGIC: Final = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER: Final = 48
# Source: tensorflow/core/framework/types.proto. Other types (strings above all) are left out.
DTYPES: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
}


class FormatError(ValueError):
    """The bytes are not in the format, or use a part of it that is not read here."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Reads a base-128 number: the number, and where the next thing begins."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise FormatError(f"a number of the file is cut off at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yields the fields of a protocol buffer in order: number, and an int or the bytes (any other wire type).

    Raises:
        FormatError: The bytes are not a protocol buffer.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise FormatError(f"not a protocol buffer: wire type {wire} at byte {at}")
        if at + size > len(message):
            raise FormatError(f"a protocol buffer is cut off: a field of {size} bytes at byte {at}")
        yield tag >> 3, message[at : at + size]
        at += size


def shape_of(message: bytes) -> tuple[int, ...]:
    """Gives the dimensions that a TensorShapeProto holds."""
    return tuple(dict(fields(dim)).get(1, 0) for number, dim in fields(message) if number == 2)


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a block; each key shares a prefix with the one before."""
    data = table[offset : offset + size + 1]
    if len(data) < size + 1 or size < 4:
        raise FormatError("the checkpoint's index is cut off")
    if data[size]:
        raise FormatError("the checkpoint's index is compressed, which TensorFlow does not do by itself")
    end = size - 4 - 4 * int.from_bytes(data[size - 4 : size], "little")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(data, at)
        fresh, at = _varint(data, at)
        length, at = _varint(data, at)
        key = key[:shared] + data[at : at + fresh]
        yield key, data[at + fresh : at + fresh + length]
        at += fresh + length


def _table(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a sorted string table, in order."""
    footer = table[-_FOOTER:]
    if len(footer) < _FOOTER or not footer.endswith(_MAGIC):
        raise FormatError("not the index of a TensorFlow checkpoint (its last 8 bytes are not the format's mark)")
    _, at = _varint(footer, 0)
    _, at = _varint(footer, at)
    offset, at = _varint(footer, at)
    size, at = _varint(footer, at)
    for _, handle in _block(table, offset, size):
        start, next_at = _varint(handle, 0)
        length, _ = _varint(handle, next_at)
        yield from _block(table, start, length)


def read_tensors(index: bytes, shard: Callable[[int, int], bytes]) -> dict[str, npt.NDArray[Any]]:
    """Reads every numeric tensor of a checkpoint.

    Args:
        index: The bytes of the `.index` file.
        shard: Gives the bytes of the data file with this number, out of so many.

    Returns:
        By name, arrays of their own shape. Strings and other types are left out.

    Raises:
        FormatError: The index is damaged or big-endian, or a tensor lies beyond its data file.
    """
    entries = list(_table(index))
    if not entries or entries[0][0]:
        raise FormatError("the checkpoint has no header")
    header = dict(fields(entries[0][1]))
    if header.get(2, 0):
        raise FormatError("the checkpoint is big-endian")
    shards = header.get(1, 1)
    opened: dict[int, bytes] = {}
    tensors = {}
    for key, value in entries[1:]:
        entry = dict(fields(value))
        dtype = DTYPES.get(entry.get(1, 0))
        if dtype is None:
            continue
        number, offset, size = entry.get(3, 0), entry.get(4, 0), entry.get(5, 0)
        if number not in opened:
            opened[number] = shard(number, shards)
        raw, shape = opened[number][offset : offset + size], shape_of(entry.get(2, b""))
        if len(raw) != math.prod(shape) * dtype.itemsize:
            raise FormatError(f"the tensor {key.decode(errors='replace')} of shape {shape} has {len(raw)} bytes")
        tensors[key.decode()] = np.frombuffer(raw, dtype).reshape(shape)
    return tensors
