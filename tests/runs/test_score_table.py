import io
import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_curate.records import ImageFacts, Member, SampleRef, ScoredSample, ScorePart
from beam_curate.runs import part_files, score_parts, score_table
from beam_curate.runs.parts import read_part_counts
from beam_curate.runs.score_parts import write_part


def row(index, status="kept", dim=8, **changes):
    ref = SampleRef(
        2, "/s/2.tar", index, f"k{index}", (Member("JPG", 512, 9), Member("txt", 1536, 3)), "JPG", 0, "hi", None
    )
    facts = ImageFacts(4, 3, "JPEG", "ab", 9)
    vector = np.full(dim, index + 1, "<f2").tobytes()
    if status == "failed":
        return ScoredSample(ref, None, b"", {"aesthetic": float("nan")}, "failed", "decode", "not_an_image", "no")
    return ScoredSample(ref, facts, vector, {"aesthetic": 5.5}, status, **changes)


def written(rows, **options):
    stream = io.BytesIO()
    score_table.write_table(stream, score_table.to_table(rows, ["aesthetic"], 8), **options)
    return stream.getvalue()


def test_round_trip_with_a_failed_row():
    table = pq.read_table(io.BytesIO(written([row(0), row(1, "failed"), row(2, "rejected", reason="r")])))
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 8)
    assert table.schema.metadata[b"beam_curate.schema_version"] == score_table.SCHEMA_VERSION.encode()
    assert table.column("status").to_pylist() == ["kept", "failed", "rejected"]
    assert table.column("aesthetic").to_pylist() == [5.5, None, 5.5]
    assert table.column("members").to_pylist()[0][0] == {"suffix": "JPG", "offset": 512, "size": 9}
    assert table.column("embedding").to_pylist() == [[1.0] * 8, [0.0] * 8, [3.0] * 8]
    assert table.column("sha256").to_pylist() == ["ab", None, "ab"]


def test_same_rows_same_bytes():
    rows = [row(index) for index in range(5)]
    assert written(rows) == written(rows)


def test_wrong_width_names_the_sample():
    with pytest.raises(score_table.ScoreTableError, match=r"'k0'.*embedding_dim=4"):
        score_table.to_table([row(0, dim=4)], ["aesthetic"], 8)


def test_a_score_must_not_shadow_a_column():
    with pytest.raises(score_table.ScoreTableError, match="'width'"):
        score_table.schema(["width"], 8)


def test_rows_that_are_scored_again_take_the_place_of_the_same_samples():
    rows = [row(0), row(1, "failed"), row(2), row(3, "failed")]
    before = score_table.to_table(rows, ["aesthetic"], 8)
    after = score_parts.replace_failed(before, score_table.to_table([row(3)], ["aesthetic"], 8))
    assert after.column("status").to_pylist() == ["kept", "failed", "kept", "kept"]
    assert after.column("key").to_pylist() == ["k0", "k1", "k2", "k3"]
    assert after.column("embedding").to_pylist()[3] == [4.0] * 8
    moved = replace(row(1), ref=replace(row(1).ref, key="k2"))  # the shard was changed in between
    for other, was in ((moved, "was 'k1'"), (row(4), "was not there")):
        ref = other.ref
        words = f"{ref.shard} changed after it was scored: its sample number {ref.index} {was}, and is '{ref.key}' now"
        with pytest.raises(score_table.ScoreTableError, match=words):
            score_parts.replace_failed(before, score_table.to_table([other], ["aesthetic"], 8))


def without_uid(data):
    """A part as it was written before there was the column `uid`."""
    stream = io.BytesIO()
    table = pq.read_table(io.BytesIO(data))
    score_table.write_table(stream, table.drop_columns(["uid"]))
    return stream.getvalue()


def test_a_table_of_before_the_uid_is_read_as_one_without_uids(tmp_path):
    old, new = without_uid(written([row(0), row(1, "failed")])), written([row(1)])
    assert "uid" not in pq.read_schema(io.BytesIO(old)).names
    assert "uid" not in score_table.score_names(pq.read_schema(io.BytesIO(old)))
    tables = []
    for data in (old, new):
        (tmp_path / "p").write_bytes(data)
        with part_files.open_part(str(tmp_path / "p")) as part:
            tables.append(part.read())
    stored, again = tables
    table = score_parts.replace_failed(stored, again)
    assert table.schema.names == again.schema.names
    assert table.column("status").to_pylist() == ["kept", "kept"]


def test_counts_travel_in_the_metadata(tmp_path):
    counts = ScorePart(2, "/s/2.tar", "scores/part-00002.parquet", 3, 1, 1, 1, {"r": 1, "not_an_image": 1})
    data = written([row(0), row(1), row(2)], metadata={score_table.PART_METADATA: json.dumps(asdict(counts))})
    (tmp_path / "p").write_bytes(data)
    with part_files.open_part(str(tmp_path / "p")) as part:
        assert part_files.part_counts(part.schema_arrow) == counts


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "p"
    pq.write_table(pa.table({"a": [1]}), path)
    with (
        pytest.raises(score_table.ScoreTableError, match=rf"^{path} has score table version none"),
        part_files.open_part(str(path)),
    ):
        pass
    path.write_bytes(b"PAR1 no")
    with (
        pytest.raises(score_table.ScoreTableError, match=rf"^{path} is damaged, or not a Parquet file: "),
        part_files.open_part(str(path)),
    ):
        pass


def test_a_part_has_the_same_footprint_when_it_is_written_and_when_it_is_read(tmp_path):
    table = score_table.to_table([row(0), row(1, "failed")], ["aesthetic"], 8)
    part = write_part(str(tmp_path), 3, "/s/3.tar", table)
    assert len(part.footprint) == 32
    assert read_part_counts(str(tmp_path), part.path) == part
    other = write_part(str(tmp_path), 3, "/s/3.tar", score_table.to_table([row(0), row(1)], ["aesthetic"], 8))
    assert other.footprint != part.footprint


def test_the_documentation_names_every_column_and_the_version():
    from tests.conftest import ROOT

    text = (ROOT / "docs" / "score-table.md").read_text()
    for name in score_table.schema(["aesthetic", "nsfw"], 8).names:
        assert f"`{name}`" in text, name
    assert f"Schema version: **{score_table.SCHEMA_VERSION}**" in text
