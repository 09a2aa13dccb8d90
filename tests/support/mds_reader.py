"""A reader of MDS folders, written from the description of the format: docs.mosaicml.com/projects/streaming, "Dataset Format"."""

import hashlib
import json
import struct

import numpy as np

NUMBERS = {"int32": "<i4", "int64": "<i8", "float32": "<f4", "float16": "<f2", "float64": "<f8"}


def decoded(encoding, data):
    name, _, rest = encoding.partition(":")
    if name == "ndarray":
        dtype, shape = rest.split(":")
        return np.frombuffer(data, dtype).reshape([int(side) for side in shape.split(",")])
    if name in NUMBERS:
        (number,) = np.frombuffer(data, NUMBERS[name])
        return number
    return {"bytes": bytes, "str": bytes.decode}[name](data)


def _sample(data, at, fields):
    sizes = []
    for _, _, fixed in fields:
        sizes.append(struct.unpack_from("<I", data, at)[0] if fixed is None else fixed)
        at += 4 * (fixed is None)
    sample = {}
    for (name, encoding, _), size in zip(fields, sizes, strict=True):
        sample[name] = decoded(encoding, data[at : at + size])
        at += size
    return sample


def read_mds(folder):
    """The samples of all files, in the order of the index, each as a dictionary."""
    samples = []
    for about in json.loads((folder / "index.json").read_text())["shards"]:
        assert (about["version"], about["format"], about["compression"], about["zip_data"]) == (2, "mds", None, None)
        data = (folder / about["raw_data"]["basename"]).read_bytes()
        assert len(data) == about["raw_data"]["bytes"]
        assert hashlib.md5(data).hexdigest() == about["raw_data"]["hashes"]["md5"]
        (number,) = struct.unpack_from("<I", data)
        assert number == about["samples"]
        places = struct.unpack_from(f"<{number + 1}I", data, 4)
        described = json.loads(data[4 + 4 * len(places) : places[0]])
        assert {name: about[name] for name in described} == described
        assert places[-1] == len(data)
        fields = list(zip(about["column_names"], about["column_encodings"], about["column_sizes"], strict=True))
        assert [name for name, _, _ in fields] == sorted(name for name, _, _ in fields)
        samples += [_sample(data, start, fields) for start in places[:-1]]
    return samples
