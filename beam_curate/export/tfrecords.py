"""TFRecord files: samples as tf.train.Example, framed as records, and the index files that DALI reads.

The messages and the checksums are those of the package `tfrecord`. Its own writer opens local paths only, and leaves the order
of an example's features to protobuf, which differs from process to process; here the same sample gives the same bytes.

Features follow the names of TensorFlow's own data sets: `image/encoded`, `image/format` (`jpeg`, `png`, …, as
tf.io.decode_image takes them), `image/height`, `image/width`, `image/filename` (key and extension), `image/source_id` (the
key), `image/key/sha256`. Source: tensorflow/models, research/slim/datasets/build_imagenet_data.py and
research/object_detection/dataset_tools/create_pascal_tf_record.py. Columns have their own names (`caption`, `aesthetic`), and
other members `member/` and their extension (`member/json`).

Every example has all features, since readers ask for them by name: a missing text is empty, and a missing number NaN or 0.
"""

import functools
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from beam_curate.deferred import defer
from beam_curate.tars.writing import Writable

GZIP_LEVEL: Final = 6
"""zlib's own default. Of JPEG photographs every level takes away 0.2 % in the same time (measured): gzip is for the rest."""

Value = bytes | str | int | float | Sequence[float]


@functools.cache
def _library() -> tuple[Any, Any]:
    """The class of an Example and the checksum of the package `tfrecord`, which by itself loads torch too."""
    defer("tfrecord")
    import tfrecord.example_pb2 as messages
    from tfrecord.writer import TFRecordWriter

    return messages.Example, TFRecordWriter.masked_crc


def example(features: Mapping[str, Value]) -> bytes:
    """A serialised tf.train.Example: texts and bytes become bytes lists, whole numbers int64 lists, the rest float lists."""
    message = _library()[0]()
    for name, value in features.items():
        feature = message.features.feature[name]
        if isinstance(value, str):
            feature.bytes_list.value.append(value.encode("utf-8", "replace"))
        elif isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.float_list.value.extend(np.atleast_1d(np.asarray(value, np.float32)).tolist())
    serialised: bytes = message.SerializeToString(deterministic=True)
    return serialised


def record(data: bytes) -> bytes:
    """A record: length, its checksum, the data, and their checksum. Source: tensorflow/core/lib/io/record_writer.h."""
    _, checksum = _library()
    length = struct.pack("<Q", len(data))
    framed: bytes = length + checksum(length) + data + checksum(data)
    return framed


class TFRecordFile:
    """Writes records to a stream, and notes where they lie.

    Attributes:
        index: A line `offset size` for each record, as NVIDIA's tfrecord2idx writes them; empty where the file is compressed,
            since DALI reads no gzip.
    """

    def __init__(self, out: Writable, *, compressed: bool) -> None:
        """Starts a file, which is gzip if it is to be compressed."""
        self.index: list[str] = []
        self._position = 0
        self._out = out
        # wbits 31: a gzip header with neither name nor time. Source: zlib's manual, deflateInit2.
        self._gzip = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31) if compressed else None

    def add(self, data: bytes) -> None:
        """Writes a serialised example."""
        framed = record(data)
        if self._gzip is not None:
            self._out.write(self._gzip.compress(framed))
            return
        self._out.write(framed)
        self.index.append(f"{self._position} {len(framed)}\n")
        self._position += len(framed)

    def close(self) -> None:
        """Ends the file; the stream stays open."""
        if self._gzip is not None:
            self._out.write(self._gzip.flush())
