import csv
import gzip
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_curate.intake import text_rows
from beam_curate.intake.columns import Columns, find_columns
from beam_curate.intake.images import CannotPackError, Images
from beam_curate.intake.tables import TableReading, parts_of
from beam_curate.intake.text_rows import TableError


def entries(path, columns, base="", several=False):
    reading = TableReading(columns, base, several)
    return [entry for part in parts_of(0, str(path)) for entry in reading.entries(part)]


def found(entry):
    return entry.failure.reason if entry.failure else (entry.key, entry.image, entry.suffix)


CSV = (
    'file_name,caption,n\na.jpg,"one, two\nthree",1\nsub/b.PNG,x\n,empty,3\nhttps://x/c.jpg,web,4\n\ngs://b/d,cloud,5\n'
)


@pytest.mark.parametrize(("name", "mark"), [("t.csv", ""), ("t.tsv", ""), ("T.CSV", "\ufeff")])
def test_rows_of_a_csv_are_all_accounted_for(tmp_path, name, mark):
    text = CSV if name.lower().endswith("csv") else CSV.replace("one, two", "one\ttwo").replace(",", "\t")
    (tmp_path / name).write_text(mark + text, encoding="utf-8")
    rows = entries(tmp_path / name, Columns(path="file_name", caption="caption"))
    assert [found(row) for row in rows] == [
        ("000000000", str(tmp_path / "a.jpg"), "jpg"), "bad_row", "no_path", "is_url", ("000000004", "gs://b/d", "")
    ]  # fmt: skip
    assert json.loads(rows[0].texts["json"])["n"] == "1"  # a CSV says nothing of types
    assert rows[0].texts["txt"].endswith("two\nthree")
    assert [row.order for row in rows] == sorted(row.order for row in rows)
    assert rows[1].source == f"{tmp_path / name}#1"


def test_bytes_that_are_no_text_cost_their_row_alone(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"path\na.jpg\n\xff.jpg\nb.jpg\n")
    assert [found(row)[0] for row in entries(tmp_path / "t.csv", Columns(path="path"))] == [
        "000000000", "b", "000000002"
    ]  # fmt: skip


def test_json_lines_go_to_the_sample_as_they_stand(tmp_path):
    lines = ['{"path": "a.jpg",  "score": 1.50}', "[1]", "{", '{"path": 3}', '{"path": "\\ud800.jpg"}', ""]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    rows = entries(tmp_path / "t.jsonl", Columns(path="path"), base="/base")
    assert [found(row) for row in rows] == [
        ("000000000", "/base/a.jpg", "jpg"), "bad_row", "bad_row", "no_path", "bad_row"
    ]  # fmt: skip
    assert rows[0].texts == {"json": lines[0]}


def test_a_list_of_paths_has_no_json(tmp_path):
    (tmp_path / "t.txt").write_text("a.jpg\n\n/abs/b.webp\n")
    rows = entries(tmp_path / "t.txt", find_columns(str(tmp_path / "t.txt"), "", "", "", ""), several=True)
    assert [found(row) for row in rows] == [
        ("00000-000000000", str(tmp_path / "a.jpg"), "jpg"), ("00000-000000001", "/abs/b.webp", "webp")
    ]  # fmt: skip
    assert rows[0].texts == {}


def hugging_face(path, rows=5, group=2, **more):
    image = [{"bytes": bytes([n]), "path": f"{n}.png" if n % 2 else None} for n in range(rows)]
    columns = {"image": image, "label": list(range(rows)), **more}
    pq.write_table(pa.table(columns), path, row_group_size=group)


def test_parquet_with_bytes_is_read_by_row_groups_without_its_images(tmp_path, monkeypatch):
    hugging_face(tmp_path / "t.parquet", score=[1.5, float("nan"), None, 2.0, 3.0])
    columns = find_columns(str(tmp_path / "t.parquet"), "", "", "", "")
    assert columns == Columns(image="image")
    parts = list(parts_of(3, str(tmp_path / "t.parquet")))
    assert [(part.row_group, part.first) for part in parts] == [(0, 0), (1, 2), (2, 4)]
    rows = [row for part in parts for row in TableReading(columns).entries(part)]
    assert [(row.row_group, row.row, row.key) for row in rows] == [
        (n // 2, n % 2, f"{n:09d}") for n in range(5)
    ]  # fmt: skip
    assert [row.suffix for row in rows] == ["", "png", "", "png", ""]
    assert [json.loads(row.texts["json"]) for row in rows[:2]] == [
        {"label": 0, "score": 1.5}, {"label": 1, "score": None, "image": "1.png"}
    ]  # fmt: skip


def test_parquet_of_images_alone_has_all_its_rows(tmp_path):
    pq.write_table(pa.table({"jpg": [b"a", b"b", b"c"]}), tmp_path / "t.parquet", row_group_size=2)
    rows = entries(tmp_path / "t.parquet", Columns(image="jpg"))
    assert [(row.key, row.row_group, row.row, row.texts) for row in rows] == [
        ("000000000", 0, 0, {}), ("000000001", 0, 1, {}), ("000000002", 1, 0, {})
    ]  # fmt: skip


def test_keys_from_a_column(tmp_path):
    (tmp_path / "t.csv").write_text("path,id\na.jpg,x.1\nb.jpg,\n")
    rows = entries(tmp_path / "t.csv", Columns(path="path", key="id"))
    assert [found(row) for row in rows] == [("x~2e~1", str(tmp_path / "a.jpg"), "jpg"), "bad_row"]


@pytest.mark.parametrize(
    ("header", "named", "wanted"),
    [
        ("file_name,x", {}, Columns(path="file_name")),
        ("a,b", {"path": "b"}, Columns(path="b")),
        ("a,b", {}, "no column has a usual name for paths .*; give `path_column`, one of a, b"),
        ("path,image_path", {}, "several columns may hold the images"),
        ("path", {"caption": "c"}, "`caption_column` c: "),
        ("path", {"image": "path"}, "it holds no bytes"),
        ("path,path", {}, "twice"),
        ("path,,", {}, "several columns without a name"),
        ("File_Name,x", {}, Columns(path="File_Name")),
        ("path;caption", {}, "its header is one column, 'path;caption'.* it seems to be semicolons"),
        ("path, caption", {"caption": "caption"}, "there are: path, ' caption'"),
        ('"path', {}, "its header cannot be read: line 1: a quote is not closed"),
        ("path\ra.jpg\rb.jpg", {}, "its header cannot be read: line 1: lines end with a carriage return only"),
        ("\n\n", {}, "has only empty lines"),
        ("\n\npath,x", {}, Columns(path="path")),
        ('"a\nb",path', {"key": "a\nb"}, Columns(path="path", key="a\nb")),
        ("", {}, "`input` .*t.csv is empty; give a table with a row for each image"),
    ],
)
def test_columns_are_found_or_asked_for(tmp_path, header, named, wanted):
    (tmp_path / "t.csv").write_text(f"{header}\n" if header else "", newline="")
    options = {"path": "", "image": "", "key": "", "caption": "", **named}
    if isinstance(wanted, Columns):
        assert find_columns(str(tmp_path / "t.csv"), **options) == wanted
    else:
        with pytest.raises(TableError, match=wanted.replace("|", r"\|")):
            find_columns(str(tmp_path / "t.csv"), **options)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.txt"])
@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("path\na.jpg\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("path\na.jpg\n".encode("utf-16-le"), "its first line is not UTF-8"),
        (gzip.compress(b"path\na.jpg\n", mtime=0), "is compressed with gzip; unpack it first"),
        ("pfad_der_größe\n".encode("latin-1"), "its first line is not UTF-8"),
        (b"PK\3\4...", "is a zip file or a spreadsheet"),
        (b"", "is empty"),
    ],
)
def test_what_is_not_text_is_told_before_any_work(tmp_path, name, data, why):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TableError, match=why):
        find_columns(str(tmp_path / name), "", "", "", "")


def test_json_lines_may_lack_a_column_in_the_first_row(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '\n{"caption": "x"}\n{"path": "a.jpg", "caption": ["y", "z"]}\n{"path": ["b.jpg"]}\n'
    )
    columns = find_columns(str(tmp_path / "t.jsonl"), "", "", "", "caption")
    assert columns == Columns(path="path", caption="caption")
    rows = entries(tmp_path / "t.jsonl", columns)
    assert [found(row)[0] if row.failure is None else row.failure.message for row in rows] == [
        "its path must come from the column path, which is not there; there are: caption", "000000001",
        "its path must come from the column path, which has \"['b.jpg']\"",
    ]  # fmt: skip
    assert rows[1].texts["txt"] == '["y", "z"]'
    (tmp_path / "t.jsonl").write_text('[{"path": "a.jpg"}]\n')
    with pytest.raises(TableError, match="it is not a JSON object; give a JSON object in each line"):
        find_columns(str(tmp_path / "t.jsonl"), "", "", "", "")


def test_quotes_that_cannot_be_told_fail_their_row_alone(tmp_path):
    text = 'path,c\na.jpg,"one"x\nb.jpg,5" disk\nc.jpg,"say ""hi"""\nd.jpg,"open\ne.jpg,x\n'
    (tmp_path / "t.csv").write_text(text)
    rows = entries(tmp_path / "t.csv", Columns(path="path", caption="c"))
    assert [row.texts["txt"] if row.failure is None else row.failure.message for row in rows] == [
        "line 2: ',' expected after '\"'", '5" disk', 'say "hi"', "lines 5 to 6: a quote is not closed"
    ]  # fmt: skip


def test_a_table_of_other_columns_fails_row_by_row(tmp_path):
    (tmp_path / "t.csv").write_text("file,c\na.jpg,1\nb.jpg,2\n")
    (row, other) = entries(tmp_path / "t.csv", Columns(path="path"))
    assert row.failure.message == "its path must come from the column path, which is not there; there are: file, c"
    assert found(other) == "no_path"
    (tmp_path / "t.csv").write_bytes(b"path,\xff\na.jpg,1\n")
    (row,) = entries(tmp_path / "t.csv", Columns(path="path"))
    assert row.failure.message == "the header of its table cannot be read: it is not UTF-8"


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"img": [b"x", b"y"]}, "no such column with bytes; there are: img"),
        ({"image": ["a.jpg", "b.jpg"]}, "no such column with bytes; its type is string"),
    ],
)
def test_parquet_of_another_schema_fails_row_by_row(tmp_path, columns, why):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=1)
    rows = entries(tmp_path / "t.parquet", Columns(image="image"), several=True)
    assert [found(row) for row in rows] == ["bad_row"] * 2
    assert [row.source for row in rows] == [f"{tmp_path}/t.parquet#0", f"{tmp_path}/t.parquet#1"]
    assert all(why in row.failure.message for row in rows)


def test_parquet_that_is_damaged_fails_what_cannot_be_read(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path": [f"{n}.jpg" for n in range(5)]}), path, row_group_size=2, compression="none")
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    rows = entries(path, Columns(path="path"))
    assert [found(row)[0] if row.failure is None else found(row) for row in rows] == [
        "000000000", "000000001", "unreadable_table", "unreadable_table", "000000004"
    ]  # fmt: skip
    path.write_bytes(data[:100])
    (row,) = entries(path, Columns(path="path"))
    assert (found(row), row.source) == ("unreadable_table", str(path))


def test_images_in_a_damaged_row_group_fail_alone(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [bytes([n]) * 99 for n in range(5)]}), path, row_group_size=2, compression="none")
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    read = []
    with Images(1000) as images:
        for entry in entries(path, Columns(image="image")):
            try:
                read.append(images.read(replace(entry, suffix="jpg"), "image")[0])
            except CannotPackError as error:
                read.append(error.reason)
    assert read == [bytes([0]) * 99, bytes([1]) * 99, "unreadable_table", "unreadable_table", bytes([4]) * 99]


def test_values_that_json_has_no_place_for(tmp_path):
    dates = pa.array([0, -5 * 10**18], pa.timestamp("us"))
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "t": dates, "raw": [[b"x"], []]}), tmp_path / "t.parquet")
    rows = entries(tmp_path / "t.parquet", Columns(path="path"))
    assert json.loads(rows[0].texts["json"]) == {"path": "a.jpg", "t": "1970-01-01T00:00:00"}
    assert rows[1].failure.message == "a value of it cannot be written as JSON: date value out of range"


@pytest.mark.parametrize(
    ("kind", "count", "text"),
    [
        (pa.time64("ns"), 1, "00:00:00.000000001"),
        (pa.time64("ns"), 1000, "00:00:00.000001"),
        (pa.timestamp("ns"), 1, "1970-01-01T00:00:00.000000001"),
        (pa.timestamp("ns"), -1, "1969-12-31T23:59:59.999999999"),
        (pa.timestamp("ns"), 10**9, "1970-01-01T00:00:01"),
        (pa.timestamp("ns", "Asia/Kathmandu"), 10**18 + 1, "2001-09-09T07:31:40.000000001+05:45"),
        (pa.timestamp("ns", "-03:00"), 1, "1969-12-31T21:00:00.000000001-03:00"),
        (pa.duration("ns"), 1500, "0:00:00.000001500"),
        (pa.duration("ns"), -1, "-1 day, 23:59:59.999999999"),
        (pa.duration("ns"), 10**9, "0:00:01"),
    ],
)
def test_nanoseconds_are_kept_whether_pandas_is_installed_or_not(tmp_path, kind, count, text):
    value, lists = pa.array([count], pa.int64()).cast(kind), pa.array([[count, None]], pa.list_(pa.int64()))
    columns = {
        "value": value,
        "list": lists.cast(pa.list_(kind)),
        "pair": pa.array([[count, count]], pa.list_(pa.int64(), 2)).cast(pa.list_(kind, 2)),
        "struct": pa.StructArray.from_arrays([value, pa.array(["t"])], ["at", "name"]),
        "map": pa.MapArray.from_arrays([0, 1], pa.array(["k"]), value),
        "none": pa.array([None], kind),
    }
    pq.write_table(pa.table({"path": ["a.jpg"], **columns}), tmp_path / "t.parquet")
    (row,) = entries(tmp_path / "t.parquet", Columns(path="path"))
    assert json.loads(row.texts["json"]) == {
        "path": "a.jpg",
        "value": text,
        "list": [text, None],
        "pair": [text, text],
        "struct": {"at": text, "name": "t"},
        "map": [["k", text]],
        "none": None,
    }


def test_json_in_parquet_is_no_text(tmp_path):
    """As `datasets` writes its feature Json."""
    values = [{"a": [1, {"b": None}]}, "a text", None, [1.5]]
    kind = pa.json_(pa.string())
    column = pa.array([None if value is None else json.dumps(value) for value in values], kind)
    deep = pa.ListArray.from_arrays([0, 1, 2, 2, 4], pa.array(['{"c": 1}', "2", "3", "[]"], kind))
    table = pa.table({"path": ["a.jpg"] * 4, "json": column, "deep": deep, "text": ['{"a": 1}'] * 4})
    pq.write_table(table, tmp_path / "t.parquet")
    rows = [json.loads(row.texts["json"]) for row in entries(tmp_path / "t.parquet", Columns(path="path"))]
    assert [row["json"] for row in rows] == values
    assert [row["deep"] for row in rows] == [[{"c": 1}], [2], [], [3, []]]
    assert {row["text"] for row in rows} == {'{"a": 1}'}


@pytest.mark.parametrize(
    ("table", "named", "why"),
    [
        (pa.table([["a"], ["b"]], names=["path", "path"]), {}, "'path' twice"),
        (pa.table({"image": [b"x"], "id": [b"y"]}), {"image": "image", "key": "id"}, "`key_column` id: it holds bytes"),
        (pa.table({"image": [b"x"], "mask": [b"y"]}), {}, "image, mask; give one of them by `image_column`"),
        (pa.table({"images": [[b"x"]], "n": [1]}), {}, "no column holds paths or bytes of images"),
    ],
)
def test_columns_of_parquet_are_asked_for(tmp_path, table, named, why):
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(TableError, match=why):
        find_columns(str(tmp_path / "t.parquet"), **{"path": "", "image": "", "key": "", "caption": "", **named})


def test_what_is_no_parquet_file_is_named(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(TableError, match="is not a Parquet file"):
        find_columns(str(tmp_path / "t.parquet"), "", "", "", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'path,n\na.jpg,1\n{long},2\nb.jpg,3\n"{long}",4\nc.jpg,5\n{long}'),
        ("t.jsonl", '{"path": "a.jpg"}\n{"path": "{long}"}\n{"path": "b.jpg"}\n{"path": "{long}"}\n{"path": "c.jpg"}\n{long}'),
        ("t.txt", "a.jpg\n{long}\nb.jpg\n{long}\nc.jpg\n{long}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("length", [64, 128, 1000])
def test_a_line_that_is_too_long_is_one_row(tmp_path, name, text, length, monkeypatch):
    monkeypatch.setattr(text_rows, "MAX_LINE_BYTES", 64)
    (tmp_path / name).write_text(text.replace("{long}", "x" * length))
    limit = csv.field_size_limit()
    rows = entries(tmp_path / name, Columns(path="path"))
    assert csv.field_size_limit() >= limit  # it is one for all that the process reads
    assert [row.failure.reason if row.failure else row.image for row in rows] == [
        str(tmp_path / "a.jpg"), "bad_row", str(tmp_path / "b.jpg"), "bad_row", str(tmp_path / "c.jpg"), "bad_row"
    ]  # fmt: skip
    assert all("has 64 bytes or more" in row.failure.message for row in rows[1::2])
