"""PackImages: the order of all rows by ranges, and row groups that are read once."""

import dataclasses
import hashlib
import os

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_curate.intake import images as images_module
from beam_curate.intake.columns import Columns
from beam_curate.intake.entries import Entry, ShardEntries
from beam_curate.intake.files import Place
from beam_curate.intake.shards import ShardWriting
from beam_curate.intake.tables import TableReading, parts_of
from beam_curate.storage import ranged_reading
from beam_curate.transforms.list_images import ListImages
from beam_curate.transforms.pack_images import PackImages, cuts_of
from tests.conftest import encoded, photo


def tars(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")}


def pack(folder, output, **more):
    with beam.Pipeline("FnApiRunner") as root:
        root | ListImages([Place(str(folder))]) | PackImages(ShardWriting(str(output), 4), **more)
    return tars(output)


def test_shards_are_the_same_whatever_the_ranges_are(tmp_path):
    (tmp_path / "in").mkdir()
    names = [f"{n * 7 % 23:02d}" for n in range(23)]
    for name in names:
        (tmp_path / "in" / f"{name}.jpg").write_bytes(name.encode())
        (tmp_path / "in" / f"{name}.txt").write_text(name)
    whole = pack(tmp_path / "in", tmp_path / "whole")
    assert len(whole) == 6
    assert pack(tmp_path / "in", tmp_path / "cut", range_rows=3) == whole
    tables = [pq.read_table(path) for path in sorted((tmp_path / "cut" / "rows").iterdir())]
    assert [table.num_rows for table in tables] == [4, 4, 4, 4, 4, 3]
    assert pa.concat_tables(tables).column("key").to_pylist() == sorted(names)


def test_cuts_are_as_many_as_the_rows_want():
    sample = [f"{n:03d}" for n in range(100)]
    assert cuts_of(sample, 1000, 250) == ["025", "050", "075"]
    assert cuts_of(sample, 10, 250) == cuts_of([], 0, 250) == []
    assert len(cuts_of(sample, 10**9, 250)) == 99


def table(path, rows, group):
    data = [encoded(photo(n, 64, 64)) + os.urandom(200_000) for n in range(rows)]
    columns = {
        "image": [{"bytes": each, "path": f"{n}.jpg"} for n, each in enumerate(data)],
        "label": list(range(rows)),
    }
    pq.write_table(
        pa.table(columns),
        path,
        row_group_size=group,
        data_page_size=1 << 16,
        write_batch_size=2,
        compression="none",
        use_dictionary=False,
    )
    return data


@pytest.mark.parametrize("group", [60, 7])
def test_a_row_group_is_read_once_for_all_shards_that_begin_in_it(tmp_path, monkeypatch, group):
    path = tmp_path / "t.parquet"
    data = table(path, 60, group)
    # So that pieces of a column are small against all of it.
    monkeypatch.setattr(images_module, "REMOTE_BUFFER_BYTES", 1 << 16)
    fetched, largest = [], []
    read = ranged_reading.RangeReader.read

    def counted(reader, start, stop):
        piece = read(reader, start, stop)
        fetched.append(len(piece))
        largest.append(stop - start)
        return piece

    reading = TableReading(Columns(image="image"))
    rows = [entry for part in parts_of(0, str(path)) for entry in reading.entries(part)]
    shards = [ShardEntries(n, rows[n * 10 : n * 10 + 10]) for n in range(6)]
    monkeypatch.setattr(ranged_reading.RangeReader, "read", counted)
    done = list(ShardWriting(str(tmp_path / "out"), 10, "image").write(shards))
    assert [(shard.packed, shard.failed) for shard in done] == [(10, 0)] * 6
    packed = [
        size
        for name in sorted((tmp_path / "out" / "rows").iterdir())
        for size in pq.read_table(name)["size"].to_pylist()
    ]
    assert packed == list(map(len, data))
    image_bytes = sum(map(len, data))
    assert image_bytes < sum(fetched) < 1.2 * image_bytes  # with the footers
    if group == 60:
        assert max(largest) < image_bytes / 4  # a row group is not held as a whole


def test_a_finished_shard_is_neither_read_nor_written(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"x")
    entry = Entry("a", "a", "a", str(tmp_path / "a.jpg"), "jpg")
    writing = ShardWriting(str(tmp_path / "out"), 10)
    (first,) = writing.write([ShardEntries(0, [entry])])
    tar, image = tmp_path / "out" / "00000.tar", (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").unlink()
    assert list(writing.write([ShardEntries(0, [entry])])) == [first]
    # One of the same length that was put there after its end, or one that is cut and has its time.
    (tmp_path / "a.jpg").write_bytes(image)
    before, end = tar.read_bytes(), (tmp_path / "out" / "rows" / "00000.parquet").stat().st_mtime_ns
    for content, time in ((bytes(len(before)), end + 1_000_000), (before[:-1], end)):
        tar.write_bytes(content)
        os.utime(tar, ns=(time, time))
        assert list(writing.write([ShardEntries(0, [entry])])) == [first]
        assert tar.read_bytes() == before
        end = (tmp_path / "out" / "rows" / "00000.parquet").stat().st_mtime_ns
    # A file that has another size than when the shard was written.
    (tmp_path / "a.jpg").write_bytes(image + b"y")
    (larger,) = writing.write([ShardEntries(0, [dataclasses.replace(entry, size=len(image) + 1)])])
    assert larger.md5 != first.md5
    assert list(writing.write([ShardEntries(0, [entry])])) != [first]  # by the plan it is written again
    (tmp_path / "a.jpg").unlink()
    # Another plan, or a tar that is gone: it is written again.
    (tmp_path / "out" / "00000.tar").unlink()
    (again,) = writing.write([ShardEntries(0, [entry])])
    assert (again.packed, dict(again.reasons), again.name) == (0, {"missing_file": 1}, "")
    assert not (tmp_path / "out" / "00000.tar").exists()
