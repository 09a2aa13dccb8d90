"""Reading TensorFlow's files without TensorFlow, against files written here byte by byte in its formats."""

import io
import json
import zipfile

import numpy as np
import pytest

from beam_curate.heads.saved_model import read_nsfw_zip, write_vocabulary
from beam_curate.heads.tf_checkpoint import FormatError, fields, read_tensors
from tests.support.made_heads import nsfw_state
from tests.support.made_saved_model import checkpoint, field, nsfw_zip, table, varint

VOCABULARY = {3: {"0.125000": 1, "-0.250000": 2}, 20: {"0.000000": 1, "0.500000": 3, "0.100000": 2}}


@pytest.mark.parametrize("shards", [1, 3])
def test_checkpoint(shards):
    rng = np.random.default_rng(0)
    tensors = {f"layer/{i}/value": rng.normal(size=(i + 1, 3)).astype(np.float32) for i in range(40)}
    tensors |= {
        "f64": rng.normal(size=300),
        "i32": np.arange(6, dtype=np.int32).reshape(1, 2, 3),
        "scalar": np.array(-5, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }
    index, data = checkpoint({**tensors, "words": ["a", "bc"]}, shards)
    read = read_tensors(index, lambda number, total: (total == shards and data[number]) or b"")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert read[name].tobytes() == tensor.tobytes()


def test_damaged_checkpoints():
    index, data = checkpoint({"a": np.arange(4.0), "b": np.arange(9.0)})
    for cut in range(0, len(index), 7):
        with pytest.raises(FormatError, match=r"cut off|not the index|no header"):
            read_tensors(index[:cut], lambda number, total: data[number])
    with pytest.raises(FormatError, match=r"tensor b of shape \(9,\) has 71 bytes"):
        read_tensors(index, lambda number, total: data[number][:-1])
    with pytest.raises(FormatError, match="big-endian"):
        read_tensors(checkpoint({}, big_endian=True)[0], lambda number, total: b"")
    with pytest.raises(FormatError, match="compressed"):
        read_tensors(table([(b"", b"")], compression=1), lambda number, total: b"")
    with pytest.raises(FormatError, match="no header"):
        read_tensors(table([]), lambda number, total: b"")


def test_protocol_buffers():
    message = field(1, 300) + field(2, b"abc") + varint(3 << 3 | 5) + b"1234" + varint(4 << 3 | 1) + b"12345678"
    assert list(fields(message)) == [(1, 300), (2, b"abc"), (3, b"1234"), (4, b"12345678")]
    for bad in (b"\x80", b"\x80" * 12, field(2, b"abc")[:-1], b"\x0b", varint(3 << 3 | 5) + b"123"):
        with pytest.raises(FormatError):
            list(fields(bad))


@pytest.mark.parametrize("hidden", [(64, 512, 256), (32, 32)])
def test_nsfw_zip(hidden):
    state = nsfw_state(24, hidden)
    with zipfile.ZipFile(io.BytesIO(nsfw_zip(state, VOCABULARY))) as archive:
        weights, vocabulary = read_nsfw_zip(archive)
    assert vocabulary == VOCABULARY
    assert weights.keys() == state.keys()
    assert all(np.array_equal(weights[key], state[key]) and weights[key].flags.c_contiguous for key in state)
    written = json.loads(write_vocabulary(vocabulary))
    assert written["columns"] == {"3": VOCABULARY[3], "20": VOCABULARY[20]}


def rewritten(change):
    """The zip with its files changed by `change(name, data)`; None drops one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(nsfw_zip(nsfw_state(24), VOCABULARY))) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return buffer


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, data: None if name.endswith("saved_model.pb") else data, "has 0 files saved_model.pb"),
        (lambda name, data: None if name.endswith(".index") else data, "not a whole SavedModel"),
        (lambda name, data: None if "data-" in name else data, "not a whole SavedModel"),
        (lambda name, data: data.replace(b'"encoding"', b'"decoding"'), "names no column encoding"),
        (lambda name, data: data.replace(b'"int"', b'"not"', 1), "2 vocabularies for 1 encoded columns"),
        (lambda name, data: data.replace(b"mean", b"maen"), "has no variable"),
    ],
)
def test_zips_of_something_else(change, said):
    with zipfile.ZipFile(rewritten(change)) as archive, pytest.raises(FormatError, match=said):
        read_nsfw_zip(archive)
