"""MDS files, the format of MosaicML's `streaming`: samples with named fields, found by their number.

A file is: the number of samples; the places where each begins, and where the last one ends; a description of the fields as JSON;
the samples. A sample is: the sizes of those fields that have no fixed size; its fields in the order of their names. Numbers are
little-endian uint32.

Source: docs.mosaicml.com/projects/streaming, "Dataset Format", and what `streaming` 0.13 writes: a test compares each byte. The
package itself is not used: it writes folders on local disks alone, and needs the clients of four clouds, matplotlib and
transformers.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final

import numpy as np

from beam_curate.tars.writing import Writable

VERSION: Final = 2
HASH: Final = "md5"
"""By which `StreamingDataset(validate_hash="md5")` checks a file."""
MAX_FILE_BYTES: Final = 2**32 - 1
"""What the places in a file can tell."""
_SIZES: Final = {"int64": 8, "int32": 4, "float64": 8, "float32": 4, "float16": 2}
_PIECE: Final = 1 << 20

Value = bytes | str | int | float | np.ndarray


class TooLargeError(ValueError):
    """The samples are more bytes than a file takes."""


def size_of(encoding: str) -> int | None:
    """The bytes of each value of an encoding; None: they differ."""
    name, _, rest = encoding.partition(":")
    if name == "ndarray":
        dtype, _, shape = rest.partition(":")
        return int(np.dtype(dtype).itemsize * np.prod([int(side) for side in shape.split(",")]))
    return _SIZES.get(name)


def describe(fields: Mapping[str, str]) -> dict[str, object]:
    """What a file, and index.json for each file, says of the fields.

    Args:
        fields: Encoding by name: `bytes`, `str`, a kind of number, or `ndarray:<dtype>:<shape>`.
    """
    names = sorted(fields)
    return {
        "version": VERSION,
        "format": "mds",
        "compression": None,
        "hashes": [HASH],
        "size_limit": None,
        "column_names": names,
        "column_encodings": [fields[name] for name in names],
        "column_sizes": [size_of(fields[name]) for name in names],
    }


def describe_file(fields: Mapping[str, str], name: str, samples: int, size: int, md5: str) -> dict[str, object]:
    """What index.json says of a file."""
    raw = {"basename": name, "bytes": size, "hashes": {HASH: md5}}
    return {**describe(fields), "raw_data": raw, "samples": samples, "zip_data": None}


def index_of(files: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """index.json, by which `StreamingDataset` finds the files."""
    return {"version": VERSION, "shards": list(files)}


class MDSFile:
    """Collects samples, and writes the file when all are there.

    The places come first in a file, and how large the samples are is not known before they are encoded.
    """

    def __init__(self, out: Writable, waiting: IO[bytes], fields: Mapping[str, str]) -> None:
        """Starts a file.

        Args:
            out: Takes the file.
            waiting: Holds the samples until all are there: an empty file that can be written and read.
            fields: See `describe`.
        """
        self._out, self._waiting = out, waiting
        self._fields = [(name, fields[name], size_of(fields[name])) for name in sorted(fields)]
        self._description = json.dumps(describe(fields), sort_keys=True).encode()
        self._ends = [0]

    def add(self, values: Mapping[str, Value]) -> None:
        """Takes a sample.

        Raises:
            TooLargeError: The file would be larger than the format allows.
        """
        encoded = [(size, encode(encoding, values[name])) for name, encoding, size in self._fields]
        sizes = [len(data) for size, data in encoded if size is None]
        sample = struct.pack(f"<{len(sizes)}I", *sizes) + b"".join(data for _, data in encoded)
        self._ends.append(self._ends[-1] + len(sample))
        if self._ends[-1] + self._head_bytes > MAX_FILE_BYTES:
            raise TooLargeError(
                f"an MDS file holds 4 GiB at most, and {len(self._ends) - 1:,} samples need more here: put fewer samples into "
                "a file"
            )
        self._waiting.write(sample)

    @property
    def _head_bytes(self) -> int:
        return 4 + 4 * len(self._ends) + len(self._description)

    def close(self) -> None:
        """Writes the file; the stream stays open."""
        places = np.asarray(self._ends, np.int64) + self._head_bytes
        self._out.write(struct.pack("<I", len(self._ends) - 1) + places.astype("<u4").tobytes() + self._description)
        self._waiting.seek(0)
        while piece := self._waiting.read(_PIECE):
            self._out.write(piece)


def encode(encoding: str, value: Value) -> bytes:
    """The bytes of a value."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    kind = encoding.removeprefix("ndarray:").partition(":")[0]
    return np.asarray(value, np.dtype(kind).newbyteorder("<")).tobytes()
