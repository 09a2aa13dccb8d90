"""State files that are empty, cut or of another shape: named in one line, with a remedy that works when it is followed."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_curate.commands import curate, dedup, export, select
from beam_curate.commands.endings import as_options
from beam_curate.runs import beginning, whole_run
from beam_curate.runs.run import Run
from beam_curate.runs.score_table import ScoreTableError
from beam_curate.runs.whole_table import read_score_table
from beam_curate.storage.json_files import DamagedFileError, misfit, read_object
from tests.conftest import encoded, photo, tar_bytes
from tests.support.exporting_runs import MODEL, OFF, curated
from tests.support.models import SECOND_SMALL

DAMAGES = {
    "empty": b"",
    "cut": b'{"configuration": {',
    "no text": b"\xff\xfe\x00{",
    "a list": b"[]",
    "a number": b"7",
    "no keys": b"{}",
    "wrong types": b'{"configuration": [], "funnel": 3, "shardlist": {"a": 1}, "0.tar": "x", "input_shards": "3", "methods": 1}',
    "inner types": b'{"configuration": {"model": [], "source": 3}, "funnel": {"input": "x"}, "shardlist": [3], "layout": 3}',
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two shards of three samples, a selection from it, its duplicates, and an export."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "data").mkdir()
    for shard in range(2):
        members = [(f"{shard}{n}.jpg", encoded(photo(10 * shard + n, 64, 64))) for n in range(3)]
        (folder / "data" / f"{shard}.tar").write_bytes(tar_bytes(members))
    run = curated(f"{folder}/data/*.tar", folder / "run", "--samples_per_shard=4")
    assert select.main([f"--scores={run}", f"--output={folder}/best", "--keep=width < 200"]) == 0
    assert dedup.main([f"--scores={run}", f"--output={folder}/unique", "--methods=exact"]) == 0
    assert export.main([f"--input={run}", f"--output={folder}/train", "--format=tfrecord", "--samples_per_file=4"]) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of these; the selections are of the copied run, and the input stays where it is."""
    shutil.copytree(made, tmp_path / "all", symlinks=True)
    for name in ("best", "unique"):
        run = json.loads((made / name / "run.json").read_text())
        (tmp_path / "all" / name / "run.json").write_text(json.dumps({**run, "scores": str(tmp_path / "all" / "run")}))
    return tmp_path / "all"


def flags(folder, made, command):
    """The command line that made each of the folders."""
    return {
        "run": (curate, [f"--input={made}/data/*.tar", f"--output={folder}/run", *MODEL, *OFF, "--samples_per_shard=4"]),
        "best": (select, [f"--scores={folder}/run", f"--output={folder}/best", "--keep=width < 200"]),
        "unique": (dedup, [f"--scores={folder}/run", f"--output={folder}/unique", "--methods=exact"]),
        "train": (export, [f"--input={made}/run", f"--output={folder}/train", "--format=tfrecord", "--samples_per_file=4"]),
        "new": (select, [f"--scores={folder}/run", f"--output={folder}/new"]),
        "newer": (select, [f"--scores={folder}/best", f"--output={folder}/newer", f"--duplicates={folder}/unique"]),
        "taken": (export, [f"--input={folder}/run", f"--output={folder}/taken", "--format=webdataset"]),
        "exported": (export, [f"--input={folder}/best", f"--output={folder}/exported", "--format=webdataset"]),
    }[command]  # fmt: skip


def run_command(folder, made, command, *more):
    module, words = flags(folder, made, command)
    return module.main([*words, *more])


def refused(capsys, folder, made, command, *more):
    """The line with which a command ends; it may be raised inside the pipeline, where the script prints it."""
    capsys.readouterr()
    status, raised = 2, None
    try:
        status = run_command(folder, made, command, *more)
    except (ValueError, RuntimeError) as error:
        raised = error
    assert status == 2
    if raised is not None:
        assert type(raised).__module__.startswith("beam_curate")
        return as_options(raised)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_each_damage_of_a_state_file_is_named(folder, made, capsys, name, damage):
    path = folder / "run" / name
    path.write_bytes(DAMAGES[damage])
    commands = ["new", "taken"] if name == "summary.json" else ["new"]
    if (name, damage) == ("run.json", "inner types"):
        commands = []  # an object with a configuration, as far as a source must have one
    for command in commands:
        line = refused(capsys, folder, made, command)
        assert str(path) in line or f"{folder}/run" in line
        assert " with --" in line or "give " in line
        assert not (folder / command).exists()
    assert str(path) in refused(capsys, folder, made, "run", "--resume") or name == "run.json"


CASES = [
    # What is damaged, who reads it, and what the remedy says: files to delete, and which command goes on how.
    ("run/run.json", "run", ["--resume"], [], ("run", "--overwrite")),
    ("run/run.json", "new", [], [], ("run", "--overwrite")),
    ("best/run.json", "best", ["--resume"], [], ("best", "--overwrite")),
    ("train/run.json", "train", ["--resume"], [], ("train", "--overwrite")),
    ("run/input_shards.parquet", "run", ["--resume"], [], ("run", "--overwrite")),
    ("run/input_shards.parquet", "new", [], [], ("run", "--overwrite")),
    ("run/summary.json", "run", ["--resume"], ["run/summary.json"], ("run", "--resume")),
    ("run/summary.json", "new", [], ["run/summary.json"], ("run", "--resume")),
    ("train/summary.json", "train", ["--resume"], ["train/summary.json"], ("train", "--resume")),
    ("run/index.json", "run", ["--resume"], ["run/summary.json"], ("run", "--resume")),
    ("run/sizes.json", "run", ["--resume"], ["run/summary.json"], ("run", "--resume")),
    ("best/index.json", "exported", [], ["best/summary.json"], ("best", "--resume")),
    ("run/scores/part-00001.parquet", "new", [], ["run/scores/part-00001.parquet", "run/summary.json"], ("run", "--resume")),
    ("run/scores/part-00001.parquet", "run", ["--resume"], ["run/scores/part-00001.parquet", "run/summary.json"],
     ("run", "--resume")),
    ("best/verdicts/part-00001.parquet", "newer", [], ["best/verdicts/part-00001.parquet", "best/summary.json"],
     ("best", "--resume")),
    ("best/00000.parquet", "exported", [], ["best/00000.parquet", "best/summary.json"], ("best", "--resume")),
    ("unique/duplicates/summary.json", "newer", [], ["unique/duplicates/summary.json", "unique/summary.json"],
     ("unique", "--resume")),
    ("unique/duplicates/part-00001.parquet", "newer", [], ["unique/duplicates/summary.json", "unique/summary.json"],
     ("unique", "--resume")),
]  # fmt: skip


def tried_by_another(name, reader, gone, again, kept):
    """Whether another case tries the same remedy on the same files: the damaged one is deleted anyway, or has another reader."""
    readers = {case[1] for case in CASES if (case[0], *case[3:]) == (name, gone, again)}
    return (kept > 0 and name in gone) or (reader == again[0] and len(readers) > 1)


@pytest.mark.parametrize("kept", [0.0, 0.5])
@pytest.mark.parametrize(("name", "reader", "more", "gone", "again"), CASES)
def test_the_remedy_works(folder, made, capsys, name, reader, more, gone, again, kept):
    path = folder / name
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    line = refused(capsys, folder, made, reader, *more)
    assert str(path) in line
    assert again[1] in line
    for file in gone:
        assert file.rpartition("/")[2] in line
        (folder / file).unlink()
    if tried_by_another(name, reader, gone, again, kept):
        return
    assert run_command(folder, made, *again) == 0
    assert run_command(folder, made, again[0], "--resume") == 0
    if reader != again[0]:
        shutil.rmtree(folder / reader, ignore_errors=True)
        assert run_command(folder, made, reader) == 0


@pytest.mark.parametrize("name", ["summary.json", "index.json", "input_shards.parquet", "scores/part-00000.parquet", "run.json",
                                  "report.html", "sizes.json", "00000.parquet", "00000_stats.json"])  # fmt: skip
def test_overwrite_gets_through_with_any_file_damaged(folder, made, name):
    (folder / "run" / name).write_bytes(b"")
    assert run_command(folder, made, "run", "--overwrite") == 0
    assert run_command(folder, made, "run", "--resume") == 0


@pytest.mark.parametrize(("folder_name", "command"), [("run", "best"), ("run", "train"), ("train", "run")])
def test_overwrite_with_a_damaged_mark_deletes_no_run_of_another_kind(folder, made, capsys, folder_name, command):
    (folder / folder_name / "run.json").write_bytes(b"")
    shutil.copytree(folder / "run", folder / "source")
    (folder / "source" / "run.json").write_bytes((made / "run" / "run.json").read_bytes())
    before = sorted((folder / folder_name).rglob("*"))
    module, words = flags(folder, made, command)
    words = [word.replace(f"{folder}/run", f"{folder}/source") for word in words if not word.startswith("--output=")]
    capsys.readouterr()
    assert module.main([*words, f"--output={folder}/{folder_name}", "--overwrite"]) == 2
    assert "which this run cannot make again: give another --output" in capsys.readouterr().err
    assert sorted((folder / folder_name).rglob("*")) == before


def test_a_damaged_statistics_file_makes_an_export_write_the_file_again(folder, made):
    before = {path.name: path.read_bytes() for path in (folder / "train").glob("0*")}
    for data in (b"", b"[]", b'{"plan": "all", "size": 1}'):
        (folder / "train" / "summary.json").unlink()
        (folder / "train" / "00001_stats.json").write_bytes(data)
        assert run_command(folder, made, "train", "--resume") == 0
        assert {path.name: path.read_bytes() for path in (folder / "train").glob("0*")} == before


@pytest.mark.parametrize(("name", "kept"), [("00001.parquet", 0.0), ("00001.parquet", 0.5), ("00001.tfindex", 0.0)])
def test_a_damaged_file_beside_an_exported_one_makes_an_export_write_both_again(folder, made, name, kept):
    path = folder / "train" / name
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    (folder / "train" / "summary.json").unlink()
    assert run_command(folder, made, "train", "--resume") == 0
    assert path.read_bytes() == data


@pytest.mark.parametrize("command", ["new", "run"])
def test_a_part_without_some_of_the_rows_that_it_counts_is_named(folder, made, capsys, command):
    path = folder / "run" / "scores" / "part-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)
    (folder / "run" / "summary.json").unlink() if command == "run" else None
    line = refused(capsys, folder, made, command, *["--resume"] * (command == "run"))
    assert f"{path} is damaged: it counts {table.num_rows} rows and has {table.num_rows - 1}; " in line
    assert "make it again: delete it" in line


@pytest.mark.parametrize(
    ("name", "column"), [("run/scores", "key"), ("run/scores", "embedding"), ("best/verdicts", "key")]
)
def test_a_part_without_a_column_is_named_with_the_column(folder, made, capsys, name, column):
    path = folder / name / "part-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([column]), path)
    run = name.partition("/")[0]
    for command, *more in (("new" if run == "run" else "newer",), (run, "--resume")):
        line = refused(capsys, folder, made, command, *more)
        assert f"{path} has no column {column!r}; restore it, or make it again: delete it" in line
        assert not (folder / "newer").exists()
    path.unlink()
    (folder / run / "summary.json").unlink()
    assert run_command(folder, made, run, "--resume") == 0


def test_a_part_of_another_run_over_the_same_input_is_refused(folder, made, capsys, tmp_path):
    """The other run has other embeddings; the parts have the same shards, keys and number of rows."""
    other = curated(f"{made}/data/*.tar", tmp_path / "other", f"--clip_model={SECOND_SMALL}")
    path = folder / "run" / "scores" / "part-00001.parquet"
    before = path.read_bytes()
    path.write_bytes((other / "scores" / "part-00001.parquet").read_bytes())
    line = refused(capsys, folder, made, "new")
    assert f"{path} is of another run, with another configuration or input than {folder}/run/run.json says" in line
    for unfinished in (False, True):
        (folder / "run" / "summary.json").unlink() if unfinished else None
        line = refused(capsys, folder, made, "run", "--resume")
        assert f"{path} is of another run, with another configuration or input than" in line
    path.unlink()
    assert run_command(folder, made, "run", "--resume") == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("looked_into", [1000, 0])
@pytest.mark.parametrize("finished", [True, False])
def test_a_part_with_embeddings_as_wide_of_another_model_is_refused_in_a_table_of_any_size(
    folder, made, capsys, tmp_path, monkeypatch, looked_into, finished
):
    """Before the work, where a command looks into all parts, and else by the worker that opens it."""
    for module in (beginning, whole_run):
        monkeypatch.setattr(module, "LOOKED_INTO", looked_into)
    other = curated(f"{made}/data/*.tar", tmp_path / "other", "--quick_gelu=yes")
    path = folder / "run" / "scores" / "part-00001.parquet"
    path.write_bytes((other / "scores" / "part-00001.parquet").read_bytes())
    for command in ("new", "unique") if finished else ("run",):
        if not finished:
            (folder / "run" / "summary.json").unlink()
        shutil.rmtree(folder / "unique", ignore_errors=True)
        line = refused(capsys, folder, made, command, *([] if finished else ["--resume"]))
        assert f"{path} is of another run, with another configuration or input than {folder}/run/run.json says" in line


def test_verdicts_of_another_selection_in_an_unfinished_one_are_refused(folder, made, capsys):
    words = [f"--scores={folder}/run", f"--output={folder}/few", "--keep=width < 20"]
    assert select.main(words) == 0
    path = folder / "best" / "verdicts" / "part-00001.parquet"
    path.write_bytes((folder / "few" / "verdicts" / "part-00001.parquet").read_bytes())
    (folder / "best" / "summary.json").unlink()
    line = refused(capsys, folder, made, "best", "--resume")
    assert f"{path} is of another run, with another configuration or input than {folder}/best/run.json says" in line


def test_parts_without_a_mark_are_taken_where_the_run_has_none(folder, made):
    """Of a version before there were marks: it is continued, and its new parts have none either."""
    said = json.loads((folder / "run" / "run.json").read_text())
    del said["mark"]
    (folder / "run" / "run.json").write_text(json.dumps(said))
    for path in (folder / "run" / "scores").iterdir():
        table = pq.read_table(path)
        left = {key: value for key, value in table.schema.metadata.items() if key != b"beam_curate.run"}
        pq.write_table(table.replace_schema_metadata(left), path)
    (folder / "run" / "scores" / "part-00000.parquet").unlink()
    (folder / "run" / "summary.json").unlink()
    assert run_command(folder, made, "run", "--resume") == 0
    assert pq.read_schema(folder / "run" / "scores" / "part-00000.parquet").metadata[b"beam_curate.run"] == b""
    assert run_command(folder, made, "new") == 0


def test_verdicts_of_another_selection_are_refused(folder, made, capsys):
    """Of the same table, by another rule."""
    words = [f"--scores={folder}/run", f"--output={folder}/few", "--top_fraction=aesthetic=0.4"]
    assert select.main(words) == 0
    path = folder / "best" / "verdicts" / "part-00001.parquet"
    path.write_bytes((folder / "few" / "verdicts" / "part-00001.parquet").read_bytes())
    for command, *more in (("newer",), ("best", "--resume")):
        line = refused(capsys, folder, made, command, *more)
        assert f"{path} is of another run, with another configuration or input than {folder}/best/run.json says" in line


@pytest.mark.parametrize(
    ("run", "part"), [("run", "scores/part-00001.parquet"), ("best", "verdicts/part-00001.parquet")]
)
def test_a_part_of_the_same_run_that_is_not_that_of_its_end_is_refused(folder, run, part):
    """An older copy that was put back, or one that a program has changed: it has the mark and the counts, and other values."""
    Run(str(folder / run)).check_table()
    path = folder / run / part
    table = pq.read_table(path)
    place = table.schema.get_field_index("error_message")
    texts = table.column(place).to_pylist()
    changed = table.set_column(place, table.schema.field(place), [["zzz", *texts[1:]]])
    pq.write_table(changed, path)
    with pytest.raises(ScoreTableError, match=f"a part in {path.parent} was changed after the run had ended"):
        Run(str(folder / run)).check_table()


@pytest.mark.parametrize("name", ["part-00001.parquet", "summary.json"])
def test_a_duplicates_table_that_lacks_a_file_is_not_complete(folder, made, capsys, name):
    path = folder / "unique" / "duplicates" / name
    before = path.read_bytes()
    path.unlink()
    line = refused(capsys, folder, made, "unique", "--resume")
    assert f"{path} is missing: restore it, or make it again: delete duplicates/summary.json" in line
    assert refused(capsys, folder, made, "newer")
    assert not (folder / "newer").exists()
    (folder / "unique" / "duplicates" / "summary.json").unlink(missing_ok=True)
    (folder / "unique" / "summary.json").unlink()
    assert run_command(folder, made, "unique", "--resume") == 0
    assert path.read_bytes() == before


def test_a_damaged_layout_is_named_and_made_again(folder, made, capsys):
    assert run_command(folder, made, "run", "--resume", "--layout=laion") == 0
    (folder / "run" / "layouts" / "laion" / "_layout.json").write_bytes(b"[]")
    line = refused(capsys, folder, made, "run", "--resume", "--layout=laion")
    assert "laion/_layout.json is damaged" in line
    assert f"delete the files of the layout in {folder}/run/layouts/laion" in line
    shutil.rmtree(folder / "run" / "layouts" / "laion")
    assert run_command(folder, made, "run", "--resume", "--layout=laion") == 0


@pytest.mark.parametrize(("name", "error"), [("run.json", DamagedFileError), ("summary.json", DamagedFileError),
                                             ("scores/part-00001.parquet", ScoreTableError)])  # fmt: skip
def test_reading_a_table_names_the_damaged_file(folder, name, error):
    (folder / "run" / name).write_bytes(b"")
    with pytest.raises(error, match=name):
        read_score_table(str(folder / "run"))


@pytest.mark.parametrize("table", [{"path": [1], "size": [1]}, {"path": ["a"]}, {"path": ["a"], "size": ["b"]},
                                   {"path": [None], "size": [1]}])  # fmt: skip
def test_a_list_of_shards_of_another_shape_is_named(folder, made, capsys, table):
    pq.write_table(pa.table(table), folder / "run" / "input_shards.parquet")
    line = refused(capsys, folder, made, "run", "--resume")
    assert "input_shards.parquet is damaged" in line
    assert "--overwrite" in line


def test_shapes(tmp_path):
    shape = {"a": int, "b?": [{"c": str}], "d?": {"*": (int, type(None))}}
    good = [
        {"a": 1},
        {"a": 1, "b": [], "d": {}},
        {"a": 1, "b": [{"c": "x", "e": 0}], "d": {"f": None, "g": 2}, "h": []},
    ]
    assert [misfit(value, shape) for value in good] == ["", "", ""]
    bad = {
        "it has no a": {},
        "a is 'True', and no whole number": {"a": True},
        "b is '{}', and no list": {"a": 1, "b": {}},
        "it has no b[0].c": {"a": 1, "b": [{}]},
        "d.f is 'x', and no whole number or null": {"a": 1, "d": {"f": "x"}},
        "what it holds is '[]', and no object": [],
    }
    for text, value in bad.items():
        assert misfit(value, shape) == text
        (tmp_path / "x.json").write_text(json.dumps(value))
        with pytest.raises(DamagedFileError, match=r"x.json is damaged: .*; mend it"):
            read_object(str(tmp_path / "x.json"), shape, "mend it")
