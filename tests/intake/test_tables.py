import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_curate.intake.columns import ColumnError, Columns, find_columns
from beam_curate.intake.tables import TableReading, parts_of


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
        ("a,b", {}, "no column is known to hold the images; give `path_column` or `image_column`, one of a, b"),
        ("path,image_path", {}, "several columns may hold the images"),
        ("path", {"caption": "c"}, "`caption_column` c: "),
        ("path", {"image": "path"}, "it holds no bytes"),
        ("path,path", {}, "twice"),
        ("", {}, "`input` .*t.csv is empty; give a table with a row for each image"),
    ],
)
def test_columns_are_found_or_asked_for(tmp_path, header, named, wanted):
    (tmp_path / "t.csv").write_text(f"{header}\n" if header else "")
    options = {"path": "", "image": "", "key": "", "caption": "", **named}
    if isinstance(wanted, Columns):
        assert find_columns(str(tmp_path / "t.csv"), **options) == wanted
    else:
        with pytest.raises(ColumnError, match=wanted.replace("|", r"\|")):
            find_columns(str(tmp_path / "t.csv"), **options)


def test_what_is_no_parquet_file_is_named(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ColumnError, match="is not a Parquet file"):
        find_columns(str(tmp_path / "t.parquet"), "", "", "", "")
