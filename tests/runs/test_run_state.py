from dataclasses import replace

import pytest
from apache_beam.io.filesystems import FileSystems

from beam_curate.records import Shard
from beam_curate.runs.claims import RunError
from beam_curate.runs.configuration import EXPORT, SCORE, Configuration, Files, read_configuration
from beam_curate.runs.parts import part_paths
from beam_curate.runs.run import Run
from beam_curate.runs.wanted import WantedRun
from beam_curate.storage import operations
from beam_curate.storage.files import write_json

SHARDS = [Shard(0, "/d/0.tar", 10), Shard(1, "/d/1.tar", 20)]
FLAT = {"batch_size": 32, "model": {"weights": "sha256:aa", "std": (1, 2)}, "max_pixels": 5}
CONFIGURATION = read_configuration(FLAT)


@pytest.fixture
def run(tmp_path):
    output = str(tmp_path / "out")
    assert Run(output).begin(WantedRun(CONFIGURATION, SHARDS)) is False
    return output


def test_a_new_run_writes_its_configuration_and_input(run):
    assert Run(run).input_shards == SHARDS
    assert part_paths(run) == {}
    assert Run(run).begin(WantedRun(CONFIGURATION, SHARDS, resume=True)) is False
    write_json(run, "summary.json", {})
    assert Run(run).begin(WantedRun(CONFIGURATION, SHARDS, resume=True)) is True


@pytest.mark.parametrize("path", ["scores/part-00000.parquet", "verdicts/part-00001.parquet", "duplicates/summary.json",
                                  "layouts/laion/a.parquet", "photos/holiday/a.jpg", "00000.tar", "_temporary/mine"])  # fmt: skip
def test_a_folder_with_files_below_it_and_no_run_is_refused(path, tmp_path):
    # Parts of a table whose run.json was deleted (`rm out/*`) would be taken for the new run's own.
    file = tmp_path / "out" / path
    file.parent.mkdir(parents=True)
    file.write_text("x")
    for option in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(RunError, match=rf"is not empty and holds no run of beam_curate, but {file}; give an empty"):
            Run(str(tmp_path / "out")).begin(WantedRun(CONFIGURATION, SHARDS, **option))
    left = [each for each in (tmp_path / "out").rglob("*") if each.is_file()]
    assert left == [file]


def test_links_do_not_hide_that_a_folder_is_not_empty(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "circle").symlink_to(tmp_path / "out")
    assert Run(str(tmp_path / "out")).begin(WantedRun(CONFIGURATION, SHARDS)) is False
    (tmp_path / "out" / "run.json").unlink()
    (tmp_path / "elsewhere" / "part-00000.parquet").write_text("x")
    with pytest.raises(RunError, match="is not empty"):
        Run(str(tmp_path / "out")).begin(WantedRun(CONFIGURATION, SHARDS))


def test_folders_and_what_a_stopped_start_leaves_are_no_hindrance(tmp_path):
    output = tmp_path / "out"
    (output / "scores").mkdir(parents=True)
    (output / "_temporary").mkdir()
    (output / "_temporary" / f"{32 * 'a'}-run.json").write_text("{")
    (output / "input_shards.parquet").write_text("")
    assert Run(str(output)).begin(WantedRun(CONFIGURATION, SHARDS)) is False


@pytest.mark.parametrize("data", ["", "{}", '{"steps": 3}', "[]", "no JSON"])
def test_a_run_json_of_another_program_makes_no_run_to_overwrite(data, tmp_path):
    folder = tmp_path / "downloaded"  # img2dataset's own names
    folder.mkdir()
    for name in ("00000.tar", "00000.parquet", "00000_stats.json"):
        (folder / name).write_text("x")
    (folder / "run.json").write_text(data)
    for step in (SCORE, EXPORT):
        with pytest.raises(
            RunError, match=r"run\.json is damaged: .* may be no run of beam_curate: give another `output`"
        ):
            Run(str(folder)).begin(WantedRun(replace(CONFIGURATION, step=step), SHARDS, overwrite=True))
    assert len([path for path in folder.iterdir() if path.is_file()]) == 4


@pytest.mark.parametrize(
    ("configuration", "shards", "message"),
    [
        ({"batch_size": 16}, SHARDS, "batch_size was 32 and is 16 now"),
        (
            {"model": {"weights": "sha256:bb", "std": (1, 2)}},
            SHARDS,
            "model.weights was 'sha256:aa' and is 'sha256:bb' now",
        ),
        ({"extra": 1}, SHARDS, "extra was None and is 1 now"),
        ({}, SHARDS[:1], "/d/1.tar was 20 bytes and is missing now"),
        ({}, [*SHARDS, Shard(2, "/d/2.tar", 5)], "/d/2.tar was missing and is 5 bytes now"),
        ({}, [SHARDS[0], Shard(1, "/d/1.tar", 21)], "/d/1.tar was 20 bytes and is 21 bytes now"),
        ({"max_pixels": 6}, SHARDS, "max_pixels was 5 and is 6 now"),
    ],
)
def test_another_run_is_refused_by_name_of_the_difference(run, configuration, shards, message):
    with pytest.raises(RunError, match=message):
        Run(run).begin(WantedRun(read_configuration({**FLAT, **configuration}), shards, resume=True))


def test_a_retry_may_change_the_limits_and_takes_back_the_end(run, tmp_path):
    for name in ("00000.tar", "00000.parquet", "00000_stats.json", "index.json", "sizes.json", "summary.json"):
        (tmp_path / "out" / name).write_text("{}")
    changed = {**FLAT, "max_pixels": 6}
    assert Run(run).begin(WantedRun(read_configuration(changed), SHARDS, retry=["too_many_pixels"])) is False
    left = ["00000.parquet", "00000.tar", "00000_stats.json"]  # whose plan may still hold
    assert sorted(path.name for path in (tmp_path / "out").glob("*.*")) == [*left, "input_shards.parquet", "run.json"]
    assert Run(run).begin(WantedRun(read_configuration(changed), SHARDS, resume=True)) is False


def test_overwrite_deletes_the_run_and_nothing_else(run, tmp_path):
    for name in ("00000.tar", "scores/part-00000.parquet", "mine.txt", "README.json", f"_temporary/{32 * 'a'}-x"):
        path = tmp_path / "out" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    assert Run(run).begin(WantedRun(Configuration(), SHARDS[:1], overwrite=True)) is False
    left = {str(path.relative_to(run)) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {"mine.txt", "README.json", "run.json", "input_shards.parquet"}
    assert Run(run).input_shards == SHARDS[:1]


OF_A_RUN = ["summary.json", "00000.tar", "00000.parquet", "00000_stats.json", "index.json", "sizes.json", "report.html",
            "verdicts/part-00000.parquet", "duplicates/summary.json", "duplicates/part-00000.parquet",
            "scores/part-00000.parquet"]  # fmt: skip

THEN = ["input_shards.parquet", "run.json", "input_shards.parquet"]
"""What an overwriting start deletes and writes after these, before the new mark."""


class Stopped:
    """Stops a beginning before the deletion or the writing of a file: the one with this number."""

    def __init__(self, monkeypatch, output, number):
        self.done, self._output, self._number = [], output, number
        delete, rename = operations.delete_once, FileSystems.rename
        monkeypatch.setattr(operations, "delete_once", lambda paths: self._step(paths, delete, paths))
        steps = lambda sources, targets: self._step(targets, rename, sources, targets)  # noqa: E731
        monkeypatch.setattr(FileSystems, "rename", staticmethod(steps))

    def _step(self, paths, work, *arguments):
        if "_temporary" not in paths[0]:  # not the claim on the folder, nor what a write leaves
            if len(self.done) == self._number:
                raise KeyboardInterrupt
            self.done += [path.removeprefix(f"{self._output}/") for path in paths]
        work(*arguments)


def stopped(monkeypatch, output, number, wanted):
    """What a beginning has deleted and written when it was stopped; None if it came to its end before."""
    with monkeypatch.context() as patched:
        stop = Stopped(patched, output, number)
        try:
            Run(str(output)).begin(wanted)
        except KeyboardInterrupt:
            return stop.done
    return None


def a_run(output):
    """A run of which all kinds of files are there."""
    Run(str(output)).begin(WantedRun(CONFIGURATION, SHARDS))
    for name in OF_A_RUN:
        path = output / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")


def left(output):
    return {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}


def test_a_start_that_was_stopped_is_no_run(tmp_path, monkeypatch):
    wanted = WantedRun(CONFIGURATION, SHARDS)
    for number in range(2):
        output = tmp_path / str(number)
        assert stopped(monkeypatch, output, number, wanted) == ["input_shards.parquet"][:number]
        assert Run(str(output)).begin(wanted) is False
    assert stopped(monkeypatch, tmp_path / "all", 2, wanted) is None


def test_a_deletion_that_was_stopped_goes_on_with_the_same_command(tmp_path, monkeypatch):
    """After each file: what is left never passes for a complete run, nor a search for a complete one, and can be deleted."""
    wanted = WantedRun(CONFIGURATION, SHARDS, overwrite=True)
    for number in range(len(OF_A_RUN) + 4):
        output = tmp_path / str(number)
        a_run(output)
        done = stopped(monkeypatch, output, number, wanted)
        assert done[:1] in ([], ["summary.json"])
        assert "duplicates/part-00000.parquet" not in done or "duplicates/summary.json" in done
        assert done[len(OF_A_RUN) :] == THEN[: max(0, number - len(OF_A_RUN))]
        assert Run(str(output)).begin(wanted) is False
        assert left(output) == {"run.json", "input_shards.parquet"}


@pytest.mark.parametrize("then", [{"retry": ["no_image"]}, {"resume": True}])
def test_a_retry_that_was_stopped_goes_on_and_is_not_complete(tmp_path, monkeypatch, then):
    """After each file: what the table is no longer going to fit is not taken for done, and the reasons are not forgotten."""
    wanted = WantedRun(CONFIGURATION, SHARDS, retry=("no_image",))
    number = 0
    while True:
        output = tmp_path / str(number)
        a_run(output)
        (output / "scores" / "part-00000.parquet").unlink()  # it is looked into, and is none
        done = stopped(monkeypatch, output, number, wanted)
        if done is None:
            break
        assert Run(str(output)).is_finished == ("summary.json" not in done)
        number += 1
        if not done and "resume" in then:
            continue  # nothing is done yet, and the run is as it was
        assert Run(str(output)).begin(replace(wanted, **{"retry": (), **then})) is False
        assert list(Run(str(output)).retried) == ["no_image"]
        assert left(output) == {"run.json", "input_shards.parquet", "00000.tar", "00000.parquet", "00000_stats.json"}
    assert number == 9  # the mark, what follows from the table, and the mark again


def test_an_export_is_no_run_to_continue_and_is_deleted_whole(tmp_path):
    output = str(tmp_path / "export")
    made = replace(
        CONFIGURATION, step=EXPORT, files=Files(extension="rec", beside=(".idx", "-more.txt"), indexed=False)
    )
    Run(output).begin(WantedRun(made, SHARDS))
    for name in ("00000.rec", "00000.idx", "00000-more.txt", "00000.parquet", "README.md", "croissant.json", "failures.parquet",
                 "mine.txt", "00000.tar", "000.rec"):  # fmt: skip
        (tmp_path / "export" / name).write_text("---\ntags:\n- beam-curate\n---\n")
    with pytest.raises(RunError, match="holds an export; give another `output`"):
        Run(output).begin(WantedRun(replace(made, step=SCORE), SHARDS, resume=True))
    assert Run(output).begin(WantedRun(made, SHARDS, resume=True)) is False
    with pytest.raises(RunError, match=r"`overwrite`: `output` \S+ holds an export; give another `output`"):
        Run(output).begin(WantedRun(CONFIGURATION, SHARDS, overwrite=True))
    Run(output).begin(WantedRun(replace(CONFIGURATION, step=EXPORT), SHARDS, overwrite=True))
    left = {path.name for path in (tmp_path / "export").iterdir() if path.is_file()}
    assert left == {"input_shards.parquet", "mine.txt", "run.json", "00000.tar", "000.rec"}


def test_what_is_read_is_not_deleted(tmp_path):
    output = tmp_path / "out"
    Run(str(output)).begin(WantedRun(CONFIGURATION, SHARDS))
    (output / "00000.tar").write_text("x")
    (tmp_path / "link").symlink_to(output)
    within = [Shard(0, "/data/a.tar", 1), Shard(1, str(tmp_path / "link" / "00000.tar"), 1)]
    with pytest.raises(RunError, match=r"out holds \S+/link/00000\.tar, which this run reads; give another `output`"):
        Run(str(output)).begin(WantedRun(CONFIGURATION, within, overwrite=True))
    for folder in (str(output), str(output / "more"), str(tmp_path / "link")):
        with pytest.raises(RunError, match=rf"holds {folder}, which this run reads"):
            Run(str(output)).begin(WantedRun(CONFIGURATION, SHARDS, overwrite=True, reads=[folder]))
        with pytest.raises(RunError, match=rf"holds {folder}, which this run reads"):
            Run(str(output)).begin(WantedRun(CONFIGURATION, SHARDS, overwrite=True, scores=folder))
    assert (output / "00000.tar").exists()
    Run(str(output)).begin(WantedRun(CONFIGURATION, SHARDS, overwrite=True, reads=[str(tmp_path), f"{output}2"]))
    assert not (output / "00000.tar").exists()


def test_scores_are_not_replaced_by_verdicts(tmp_path):
    output = str(tmp_path / "out")
    Run(output).begin(WantedRun(CONFIGURATION, SHARDS))
    with pytest.raises(
        RunError, match=r"`overwrite`: `output` \S+ holds the score table of a run of beam-curate curate"
    ):
        Run(output).begin(WantedRun(CONFIGURATION, SHARDS, overwrite=True, scores="/other"))
    Run(f"{output}2").begin(WantedRun(CONFIGURATION, SHARDS, scores="/other"))
    Run(f"{output}2").begin(WantedRun(CONFIGURATION, SHARDS, scores="/another", overwrite=True))


def test_numbered_files_of_others_stay(run, tmp_path):
    theirs = {"2024_raw.tar", "2024.tar", "9.parquet", "1234_stats.json", "00000_raw.tar"}
    for name in (*theirs, "00000.tar", "123456.parquet", "00012_stats.json"):
        (tmp_path / "out" / name).write_text("x")
    Run(run).begin(WantedRun(CONFIGURATION, SHARDS, overwrite=True))
    left = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert left == {*theirs, "input_shards.parquet", "run.json"}


def test_a_card_of_the_users_own_stays_in_the_folder_of_a_run(run, tmp_path):
    (tmp_path / "out" / "README.md").write_text("mine")
    Run(run).begin(WantedRun(CONFIGURATION, SHARDS, overwrite=True))
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
