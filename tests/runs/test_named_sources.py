"""A score table leads to no other file than the input shards that its run lists."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_curate.commands import curate, dedup, select
from beam_curate.runs import whole_run
from beam_curate.runs.score_table import ScoreTableError
from beam_curate.runs.table_parts import TablePlace
from beam_curate.runs.whole_run import check_table
from beam_curate.runs.whole_table import read_score_table
from tests.conftest import encoded, photo, tar_bytes
from tests.support.exporting_runs import MODEL, OFF, as_of_0_1_0, awkward, curated


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    curated(awkward(folder), folder / "run", "--samples_per_shard=5")
    (folder / "secret.tar").write_bytes(tar_bytes([("s.jpg", encoded(photo(1)))]))
    return folder


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def change(run, column, row, value, part=1):
    """Changes a value of a row of a part."""
    path = run / "scores" / f"part-{part:05d}.parquet"
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    values[row] = value(values[row]) if callable(value) else value
    field = table.schema.field(column)
    table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("named", ["secret", "relative", "another input", "null", "longer"])
def test_a_row_that_names_another_tar_is_refused_before_any_work(made, run, tmp_path, capsys, named):
    value = {
        "secret": str(made / "secret.tar"),
        "relative": "awkward/1.tar",
        "another input": str(made / "awkward" / "0.tar"),
        "null": None,
        "longer": lambda path: f"{path}/../1.tar",
    }[named]
    path = change(run, "shard", 3, value)
    output = tmp_path / "never"
    for command, flags in (
        (select, [f"--scores={run}"]),
        (select, [f"--scores={run}", "--dry_run"]),
        (dedup, [f"--scores={run}", "--methods=pixels"]),
        (dedup, [f"--scores={made}/run", f"--against={run}", "--methods=pixels"]),
    ):
        assert command.main([*flags, f"--output={output}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{path}: row 3 names " in line
        assert f"by {run}/input_shards.parquet the input shard of this part is {made}/awkward/1.tar" in line
        assert not output.exists()
    with pytest.raises(ScoreTableError, match="row 3 names"):
        read_score_table(str(run))


def test_the_remedy_works(made, run, tmp_path):
    change(run, "shard", 3, "/etc/passwd").unlink()
    (run / "summary.json").unlink()
    words = [f"--input={made}/awkward/*.tar", f"--output={run}", *MODEL, *OFF, "--samples_per_shard=5", "--resume"]
    assert curate.main(words) == 0
    assert select.main([f"--scores={run}", f"--output={tmp_path}/new"]) == 0


@pytest.mark.parametrize(
    "span", [{"offset": -5}, {"offset": 0}, {"offset": 511}, {"size": -1}, {"offset": None}, {"size": None}]
)
def test_a_place_where_no_member_can_be_is_refused(run, span):
    path = change(run, "members", 2, lambda members: [{**members[0], **span}, *members[1:]])
    place = TablePlace(str(run))
    with place.open(1) as part, pytest.raises(ScoreTableError, match=rf"{path}: row 2 has a member at a place"):
        part.read(["key", "members", "index"])


def test_a_place_beyond_the_end_ends_the_command_in_a_line(run, tmp_path):
    """In a run of version 0.1.0, which did not note the table with which it ended."""
    as_of_0_1_0(run)
    change(run, "members", 2, lambda members: [{**members[0], "offset": 1 << 40}, *members[1:]])
    with pytest.raises(RuntimeError, match=r"awkward/1.tar changed after it was scored: it is shorter"):
        select.main([f"--scores={run}", f"--output={tmp_path}/new"])
    assert not list((tmp_path / "new").glob("*.tar"))


def test_a_row_of_another_part_is_refused(run):
    change(run, "shard_index", 0, 2)
    with pytest.raises(ScoreTableError, match="row 0 is of the input shard 2, not 1"):
        read_score_table(str(run))


def test_verdicts_that_name_another_tar_are_refused(made, run, tmp_path, capsys):
    assert select.main([f"--scores={run}", f"--output={tmp_path}/best"]) == 0
    path = tmp_path / "best" / "verdicts" / "part-00000.parquet"
    table = pq.read_table(path)
    shards = pa.array([str(made / "secret.tar")] * table.num_rows)
    pq.write_table(table.set_column(table.schema.get_field_index("shard"), table.schema.field("shard"), shards), path)
    capsys.readouterr()
    assert select.main([f"--scores={tmp_path}/best", f"--output={tmp_path}/never"]) == 2
    assert f"{path}: row 0 names '{made}/secret.tar'" in capsys.readouterr().err


@pytest.mark.parametrize("most", [1, 2])
def test_the_command_looks_into_the_first_parts(made, run, tmp_path, monkeypatch, most):
    """Into 1,000 of them: see tests/test_docs.py for the number."""
    monkeypatch.setattr(whole_run, "LOOKED_INTO", most)
    change(run, "shard", 3, str(made / "secret.tar"), part=1)
    if most == 1:
        check_table(TablePlace(str(run)))
    else:
        with pytest.raises(ScoreTableError, match="row 3 names"):
            check_table(TablePlace(str(run)))


@pytest.mark.parametrize(("command", "flags"), [(select, []), (dedup, ["--methods=pixels"])], ids=str)
def test_the_workers_look_into_the_parts_that_the_command_did_not(made, run, tmp_path, monkeypatch, command, flags):
    """A command looks into the first 1,000 parts before any work; here into none."""
    monkeypatch.setattr(whole_run, "LOOKED_INTO", 0)
    change(run, "shard", 3, str(made / "secret.tar"))
    output = tmp_path / "never"
    try:
        status = command.main([f"--scores={run}", f"--output={output}", *flags])
    except (RuntimeError, ScoreTableError) as error:
        status = str(error)
    assert status == 2 or "row 3 names " in status
    assert not list(output.glob("*.tar"))
