import io
import math
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfrecord import example_pb2, tfrecord_loader
from tfrecord.writer import TFRecordWriter

from beam_curate.export.tfrecords import TFRecordFile, example, record
from tests.conftest import ROOT

FEATURES = {
    "image/encoded": b"\0\xff",
    "caption": "caf\u00e9",
    "image/width": 7,
    "aesthetic": 1.5,
    "embedding": [1.0, -2.0],
}
values = st.one_of(st.binary(), st.text(), st.integers(-(2**63), 2**63 - 1), st.lists(st.floats(width=32), min_size=1))


def read(tmp_path, data, **options):
    (tmp_path / "file").write_bytes(data)
    return list(tfrecord_loader(str(tmp_path / "file"), None, **options))


def written(examples, **options):
    out = io.BytesIO()
    file = TFRecordFile(out, **{"compressed": False, **options})
    for data in examples:
        file.add(data)
    file.close()
    return out.getvalue(), file.index


@given(st.dictionaries(st.text(), values))
def test_every_value_comes_back(features):
    message = example_pb2.Example.FromString(example(features))
    assert message.features.feature.keys() == {name.encode("utf-8", "replace").decode() for name in features}
    for name, value in features.items():
        feature = message.features.feature[name]
        if isinstance(value, str):
            assert feature.bytes_list.value == [value.encode()]
        elif isinstance(value, bytes):
            assert feature.bytes_list.value == [value]
        elif isinstance(value, int):
            assert feature.int64_list.value == [value]
        else:
            assert np.array_equal(np.array(feature.float_list.value, np.float32), np.float32(value), equal_nan=True)


def test_records_are_those_of_the_package(tmp_path):
    """Its own writer frames the same bytes; only the order of an example's features is ours."""
    writer = TFRecordWriter(str(tmp_path / "theirs"))
    one = {"image/encoded": (b"\0\xff" * 999, "byte")}
    writer.write(one)
    writer.close()
    assert record(example({"image/encoded": b"\0\xff" * 999})) == (tmp_path / "theirs").read_bytes()


def test_the_reader_of_the_package_takes_it(tmp_path):
    data, index = written([example(FEATURES), example(FEATURES | {"image/encoded": b"a" * 3_000_000})])
    first, second = read(tmp_path, data)
    assert (bytes(first["image/encoded"]), first["caption"].decode()) == (b"\0\xff", "caf\u00e9")
    assert (first["image/width"][0], first["aesthetic"][0], first["embedding"].tolist()) == (7, 1.5, [1.0, -2.0])
    assert len(second["image/encoded"]) == 3_000_000
    spans = [tuple(map(int, line.split())) for line in index]
    assert spans[0][0] == 0
    assert spans[1] == (spans[0][1], len(data) - spans[0][1])


def test_gzip_is_the_same_bytes_without_an_index(tmp_path):
    examples = [example(FEATURES | {"image/width": n}) for n in range(50)]
    plain, _ = written(examples)
    data, index = written(examples, compressed=True)
    assert index == []
    assert zlib.decompress(data, 31) == plain
    assert len(read(tmp_path, data, compression_type="gzip")) == 50


@pytest.mark.parametrize("value", [math.nan, "", b"", 0])
def test_a_missing_value_is_there(tmp_path, value):
    (found,) = read(tmp_path, written([example({"a": value})])[0])
    assert "a" in found


def test_the_bytes_do_not_depend_on_the_process():
    """protobuf seeds its maps anew in each process."""
    code = (
        "from beam_curate.export.tfrecords import example; print(example({f'feature/{n}': n for n in range(40)}).hex())"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert len(found) == 1
