"""The score table in the readers of others: each one gives the rows, with their scores, lists and embeddings."""

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from beam_curate.runs import score_table
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.table_parts import TablePlace
from beam_curate.storage import ranged_reading
from tests.runs.test_score_table import row

DIM = 8
ROWS = 12
STATUSES = ["failed" if index % 3 == 2 else "kept" for index in range(ROWS)]


def rows():
    return [row(index, status) for index, status in enumerate(STATUSES)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two parts, of several row groups; every third row failed."""
    output = tmp_path_factory.mktemp("run")
    for part in (0, 1):
        table = score_table.to_table(rows(), ["aesthetic"], DIM)
        write_part(str(output), part, f"/s/{part}.tar", table, group_rows=[5, 7])
    return output


def by_pyarrow(pattern, folder):
    table = pyarrow.dataset.dataset(folder).to_table()
    return {name: table.column(name).to_pylist() for name in ("key", "status", "aesthetic", "members", "embedding")}


def by_pandas(pattern, folder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(folder)
    scores = [None if value != value else value for value in frame["aesthetic"]]
    return {"key": list(frame["key"]), "status": list(frame["status"]), "aesthetic": scores,
            "members": [list(members) for members in frame["members"]],
            "embedding": [list(map(float, vector)) for vector in frame["embedding"]]}  # fmt: skip


def by_polars(pattern, folder):
    polars = pytest.importorskip("polars", reason="polars is in the extra `dev`")
    frame = polars.scan_parquet(pattern).collect()
    return {name: frame[name].to_list() for name in ("key", "status", "aesthetic", "members", "embedding")}


def by_duckdb(pattern, folder):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is in the extra `dev`")
    names = ("key", "status", "aesthetic", "members", "embedding")
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT {', '.join(names)} FROM '{pattern}' ORDER BY filename, \"index\""
        ).fetchall()
    return dict(zip(names, map(list, zip(*found, strict=True)), strict=True))


def by_daft(pattern, folder):
    daft = pytest.importorskip("daft", reason="daft is in the extra `dev`")
    frame = daft.read_parquet(pattern).to_pydict()
    return {name: list(frame[name]) for name in ("key", "status", "aesthetic", "members", "embedding")}


@pytest.mark.parametrize("reader", [by_pyarrow, by_pandas, by_polars, by_duckdb, by_daft])
def test_a_reader_gives_all_rows(run, reader):
    found = reader(f"{run}/scores/*.parquet", f"{run}/scores")
    expected = pq.read_table(run / "scores/part-00000.parquet", partitioning=None)
    assert found["key"] == expected.column("key").to_pylist() * 2
    assert found["status"] == STATUSES * 2
    assert found["aesthetic"] == [None if status == "failed" else 5.5 for status in STATUSES] * 2
    assert [members[0]["offset"] for members in found["members"]] == [512] * ROWS * 2
    vectors = np.array([list(map(float, vector)) for vector in found["embedding"]])
    values = [0.0 if status == "failed" else index + 1.0 for index, status in enumerate(STATUSES)]
    assert np.array_equal(vectors, np.repeat(np.array([values * 2]).T, DIM, axis=1))


def test_a_table_with_split_embeddings_still_reads(tmp_path):
    """Those of earlier versions, which DuckDB refuses."""
    table = score_table.to_table(rows(), ["aesthetic"], DIM)
    write_part(str(tmp_path), 0, "/s/2.tar", table)
    path = tmp_path / "scores/part-00000.parquet"
    stored = pq.ParquetFile(path)
    whole, metadata = stored.read(), stored.schema_arrow.metadata
    pq.write_table(whole.replace_schema_metadata(metadata), path, compression="zstd", use_dictionary=["status"],
                   use_byte_stream_split=["aesthetic", "embedding.list.element"])  # fmt: skip
    footer = pq.ParquetFile(path).metadata
    assert "BYTE_STREAM_SPLIT" in footer.row_group(0).column(footer.num_columns - 1).encodings
    with TablePlace(str(tmp_path)).open(0) as part:
        assert part.read(["embedding"]).column("embedding").to_pylist() == table.column("embedding").to_pylist()


@pytest.fixture
def fetched(monkeypatch):
    """The pieces that were fetched, as start and stop."""
    pieces = []
    fetch = ranged_reading.RangeReader._fetch

    def counted(reader, start, stop):
        pieces.append((start, stop))
        return fetch(reader, start, stop)

    monkeypatch.setattr(ranged_reading.RangeReader, "_fetch", counted)
    return pieces


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A part of 3000 rows in three row groups, with embeddings of 768 values."""
    output = tmp_path_factory.mktemp("wide")
    table = score_table.to_table([row(index, dim=768) for index in range(3000)], ["aesthetic"], 768)
    noise = np.random.default_rng(0).standard_normal((3000, 768)).astype("<f2")
    place = table.schema.get_field_index("embedding")
    table = table.set_column(place, table.schema.field("embedding"), score_table.embedding_column(noise))
    write_part(str(output), 0, "/s/2.tar", table, group_rows=[1000] * 3)
    return output


@pytest.mark.parametrize("columns", [["aesthetic"], ["key", "status"], ["key", "aesthetic"], ["embedding"]])
def test_a_column_costs_its_bytes_and_one_footer(wide, fetched, columns):
    path = wide / "scores/part-00000.parquet"
    footer = pq.ParquetFile(path).metadata
    sizes = [
        chunk.total_compressed_size
        for group in map(footer.row_group, range(footer.num_row_groups))
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema.split(".")[0] in columns
    ]
    assert len(sizes) == 3 * len(columns)
    with TablePlace(str(wide)).open(0) as part:
        part.read(columns)
    footers, chunks = [piece for piece in fetched if piece[1] == path.stat().st_size], fetched[1:]
    assert footers == fetched[:1]
    assert footers[0][1] - footers[0][0] <= 1 << 16
    assert len(chunks) == 3  # a request a row group
    read = sum(stop - start for start, stop in chunks)
    # Up to 64 KiB of unwanted bytes between two columns cost less than a request.
    apart = 0 if len(columns) == 1 else 3 * (1 << 16)
    assert sum(sizes) <= read <= sum(sizes) + apart
    assert read < 0.02 * path.stat().st_size or columns == ["embedding"]
