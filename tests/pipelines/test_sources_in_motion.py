"""Runs that change while another command reads them: that one must not say that what it made is complete."""

import json
import pkgutil
import shutil
import threading

import pytest

from beam_curate import read_score_table
from beam_curate.commands import curate, dedup, export, launch, report, select
from beam_curate.runs import beginning
from tests.support import forked
from tests.support.exporting_runs import MODEL, OFF, awkward, curated

LIMITS = ["--max_pixels=100000", "--samples_per_shard=5"]
AGAIN = ["--samples_per_shard=5", "--retry_failed=too_many_pixels"]


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """A run of 20 samples in four shards and a failed one, and what it is when that one was scored again: it lies among them."""
    folder = tmp_path_factory.mktemp("motion")
    pattern = awkward(folder)
    before = curated(pattern, folder / "before", *LIMITS)
    shutil.copytree(before, folder / "after")
    curated(pattern, folder / "after", *AGAIN)
    return folder


@pytest.fixture
def run(versions, tmp_path):
    shutil.copytree(versions / "before", tmp_path / "run")
    return tmp_path / "run"


def changes(run, version):
    """What `--retry_failed` does to a run: the mark of its end goes first, and comes last."""
    (run / "summary.json").unlink()
    last = version / "summary.json"
    shutil.copytree(version, run, dirs_exist_ok=True, ignore=lambda folder, names: ["summary.json"])
    shutil.copy(last, run)


def in_the_middle(monkeypatch, module, name, at, act):
    """Has something happen before a function is called the n-th time; it is called by one thread at a time."""
    real, calls, turn = getattr(module, name), [], threading.Lock()

    def called(*arguments, **named):
        with turn:
            calls.append(name)
            if len(calls) == at:
                act()
            return real(*arguments, **named)

    monkeypatch.setattr(module, name, called)


def job(command, run, output):
    if command == "export":
        return export, [f"--input={run}", f"--output={output}", "--format=webdataset", "--samples_per_file=5"]
    words = {
        "select": ["--top=aesthetic=12"],
        "dedup": ["--methods=exact"],
        "search": ["--methods=exact", "--table_only"],
    }
    return (select if command == "select" else dedup), [f"--scores={run}", f"--output={output}", *words[command]]


PLACES = [
    ("export", "beam_curate.runs.placed_rows.Meeting", "rows", 4),
    ("export", "beam_curate.runs.ending", "write_lists", 1),
    ("select", "beam_curate.transforms.judge_parts", "rejudge_part", 1),
    ("select", "beam_curate.runs.ending", "write_lists", 1),
    ("dedup", "beam_curate.transforms.join_duplicates", "finish_search", 1),
    ("dedup", "beam_curate.transforms.judge_parts", "rejudge_part", 1),
    ("search", "beam_curate.transforms.join_duplicates", "finish_search", 1),
]


@pytest.mark.parametrize(("command", "module", "name", "at"), PLACES)
def test_a_job_whose_source_changes_does_not_say_that_it_is_complete(
    versions, run, tmp_path, monkeypatch, capsys, command, module, name, at
):
    output = tmp_path / "out"
    command, flags = job(command, run, output)
    in_the_middle(monkeypatch, pkgutil.resolve_name(module), name, at, lambda: changes(run, versions / "after"))
    with pytest.raises(Exception, match=rf"{run} was changed while it was read.*`overwrite`"):
        command.main(flags)
    assert not (output / "summary.json").exists()
    assert "--table_only" not in flags or not (output / "duplicates" / "summary.json").exists()
    capsys.readouterr()
    assert command.main([*flags, "--resume"]) == 2
    assert "; the run that is read was changed since, or is another one: repeat" in capsys.readouterr().err
    monkeypatch.undo()
    assert command.main([*flags, "--overwrite"]) == 0


def stopped(monkeypatch, command, flags):
    """A job that was stopped before its end."""
    with monkeypatch.context() as patched:
        in_the_middle(patched, pkgutil.resolve_name("beam_curate.runs.ending"), "write_lists", 1, lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            command.main(flags)


def test_a_selection_whose_search_was_made_anew_is_not_continued(run, tmp_path, monkeypatch, capsys):
    """Other groups may have the same numbers, by which alone it was known again."""
    search = [f"--scores={run}", f"--output={tmp_path}/found", "--methods=exact", "--table_only"]
    chosen = [f"--scores={run}", f"--output={tmp_path}/best", f"--duplicates={tmp_path}/found"]
    assert dedup.main([*search, "--keep_by=first"]) == 0
    stopped(monkeypatch, select, chosen)
    assert dedup.main([*search, "--keep_by=first", "--overwrite"]) == 0  # the same again
    stopped(monkeypatch, select, [*chosen, "--resume"])
    end = tmp_path / "found" / "duplicates" / "summary.json"
    end.write_text(json.dumps({**json.loads(end.read_text()), "largest": []}))
    capsys.readouterr()
    assert select.main([*chosen, "--resume"]) == 2
    assert f"{tmp_path}/found/duplicates is not what this run began with" in capsys.readouterr().err
    assert select.main([*chosen, "--overwrite"]) == 0


def test_a_source_that_is_packed_meanwhile_or_moved_is_the_same(versions, tmp_path, monkeypatch):
    """Shards that come to a table, and samples that are tried again and fail again, change nothing that is read."""
    table, moved, output = tmp_path / "run", tmp_path / "elsewhere", tmp_path / "out"
    data = [f"--input={versions}/awkward/*.tar", *MODEL, *OFF, *LIMITS, f"--output={table}"]
    assert curate.main([*data, "--table_only"]) == 0
    shutil.copytree(table, tmp_path / "packed")
    assert curate.main([*data[:-1], f"--output={tmp_path}/packed", "--resume"]) == 0
    failed = [*data[:-1], f"--output={tmp_path}/packed", "--retry_failed=too_many_pixels"]
    assert curate.main(failed) == 0
    in_the_middle(monkeypatch, pkgutil.resolve_name("beam_curate.runs.ending"), "write_lists", 1,
                  lambda: changes(table, tmp_path / "packed"))  # fmt: skip
    assert dedup.main([f"--scores={table}", f"--output={output}", "--methods=exact"]) == 0
    monkeypatch.undo()
    flags = ["--top=aesthetic=12", f"--output={tmp_path}/best"]
    stopped(monkeypatch, select, [f"--scores={table}", *flags])
    table.rename(moved)
    assert select.main([f"--scores={moved}/", *flags, "--resume"]) == 0


@pytest.mark.parametrize("place", ["/", "moved", "link"])
@pytest.mark.parametrize("command", ["select", "dedup", "against", "export"])
def test_a_run_that_is_read_is_known_by_what_it_is(versions, run, tmp_path, monkeypatch, command, place):
    """Wherever it lies when the job goes on, and however it is named: no file is written again."""
    output = tmp_path / "out"
    if command == "against":
        command, flags = (
            dedup,
            [f"--scores={versions}/after", f"--output={output}", "--methods=exact", f"--against={run}"],
        )
    else:
        command, flags = job(command, run, output)
    stopped(monkeypatch, command, flags)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    named = {"/": f"{run}/", "moved": f"{tmp_path}/moved", "link": f"{tmp_path}/link"}[place]
    if place == "moved":
        run.rename(named)
    if place == "link":
        (tmp_path / "link").symlink_to(run)
    again = [flag.replace(f"={run}", f"={named}") if flag.endswith(f"={run}") else flag for flag in flags]
    assert again != flags
    assert command.main([*again, "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in output.glob("*.tar")} == before
    assert command.main([*again, "--resume"]) == 0  # it is complete


@pytest.mark.parametrize("reader", ["report", "dry run", "read_score_table"])
def test_what_reads_a_run_that_changes_shows_nothing_of_it(versions, run, tmp_path, monkeypatch, capsys, reader):
    """Nobody holds the folder of a run that is only read."""
    page = tmp_path / "page.html"

    def read():
        if reader == "report":
            return report.main([f"--run={run}", f"--report={page}"])
        if reader == "dry run":
            return select.main([f"--scores={run}", "--keep=width > 5", "--dry_run", f"--report={page}"])
        return read_score_table(str(run), ["key", "status"])

    places = {
        "report": ("beam_curate.report.writing", "find_duplicates"),
        "dry run": ("beam_curate.transforms.preview_selection", "preview_page"),
        "read_score_table": ("beam_curate.runs.table_parts.Part", "read"),
    }
    module, name = places[reader]
    in_the_middle(monkeypatch, pkgutil.resolve_name(module), name, 1, lambda: changes(run, versions / "after"))
    capsys.readouterr()
    words = f"{run} was changed while it was read"
    if reader == "dry run":  # the pipeline is not all of it: the command ends as where an option is wrong
        assert read() == 2
        shown = capsys.readouterr()
        assert words in shown.err
        assert "samples" not in shown.out
    else:
        with pytest.raises(ValueError, match=words):
            read()
    assert not page.exists()


def test_a_report_is_not_written_into_a_run_to_which_another_job_writes(run, tmp_path, capsys):
    """It would show the run of before, beside the end of the new one."""
    code = (
        "import sys; from beam_curate.runs.claims import claim; claim(sys.argv[1]); print('ready', flush=True); input()"
    )
    job = forked.Forked(code, str(run))
    assert job.stdout.readline() == "ready\n"
    before = (run / "report.html").stat().st_mtime_ns
    capsys.readouterr()
    assert report.main([f"--run={run}"]) == 2
    assert f"{run}: another job writes there, process {job.pid}" in capsys.readouterr().err
    assert (run / "report.html").stat().st_mtime_ns == before
    assert report.main([f"--run={run}", f"--report={tmp_path}/page.html"]) == 0
    job.stdin.write("\n")
    assert job.close() == 0
    assert report.main([f"--run={run}"]) == 0
    assert not (run / "_temporary").exists()


@pytest.mark.parametrize("ends", [True, False])
def test_a_report_on_dataflow_keeps_its_run_until_the_job_has_ended(run, monkeypatch, ends):
    """The job goes on when the command is interrupted, and writes the page."""
    job = {"name": "report-1", "project": "some", "region": "here"}
    monkeypatch.setattr(launch, "service_job", lambda options: job)
    claimed = run / "_temporary" / "running.json"

    def waits(*given):
        assert json.loads(claimed.read_text())["job"] == job
        if not ends:
            raise KeyboardInterrupt

    monkeypatch.setattr(launch, "run_and_wait", waits)
    if ends:
        assert report.main([f"--run={run}"]) == 0
    else:
        with pytest.raises(KeyboardInterrupt):
            report.main([f"--run={run}"])
    assert claimed.exists() is not ends


@pytest.mark.parametrize("deleted", [0, 1, 3])
def test_a_retry_that_was_stopped_as_it_began_is_not_forgotten(versions, run, monkeypatch, deleted):
    """Whatever it had deleted by then of what follows from the table: `--resume` alone tries the samples."""
    data = [f"--input={versions}/awkward/*.tar", *MODEL, *OFF, f"--output={run}", "--samples_per_shard=5"]
    real, done = beginning.delete_matching, []

    def some(output, patterns):
        real(output, patterns[:deleted])
        done.append(patterns)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(beginning, "delete_matching", some)
        with pytest.raises(KeyboardInterrupt):
            curate.main([*data, "--retry_failed=too_many_pixels"])
    assert done
    assert curate.main([*data, "--resume"]) == 0
    assert read_score_table(str(run), ["status"]).column("status").to_pylist() == ["kept"] * 21
