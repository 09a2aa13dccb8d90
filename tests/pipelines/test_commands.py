"""How a command ends."""

import os

import pytest

from beam_curate.commands import endings
from beam_curate.commands.worker_deaths import WorkerDiedError
from beam_curate.runs.score_table import ScoreTableError
from beam_curate.storage.retrying import StorageError


@pytest.fixture
def left(monkeypatch):
    """The exit statuses with which commands left."""
    found = []
    monkeypatch.setattr(endings, "leave", found.append)
    return found


def failing(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageError("opening /d/0.tar failed: FileNotFoundError"), 1),
        (ScoreTableError("/d/part-00000.parquet is none\n[while running 'Judge']"), 1),
        (WorkerDiedError("Worker subprocess exited with return code 137"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_is_expected_to_go_wrong_is_one_line(error, status, left, capsys):
    endings.run_command(failing(error))
    line = " ".join(str(error).split()) or "interrupted"
    assert capsys.readouterr().err == f"error: {line}\n"
    assert left == [status]


@pytest.mark.parametrize(
    "error", [OSError("no"), ValueError("no"), RuntimeError("no"), KeyError("no"), TypeError("no")]
)
def test_bugs_keep_their_traceback(error, left):
    with pytest.raises(type(error)):
        endings.run_command(failing(error))
    assert left == []


def test_the_status_is_the_commands(left):
    for status in (0, 1, 2):
        endings.run_command(lambda status=status: status)
    assert left == [0, 1, 2]


def test_errors_of_the_library_are_told_in_the_words_of_the_command_line(left, capsys):
    said = "`output` /d/out holds a run already; continue it with `resume`; compress with `--long=27`"
    told = "error: --output /d/out holds a run already; continue it with --resume; compress with `--long=27`\n"
    endings.fail(ValueError(said))
    endings.run_command(failing(ScoreTableError(said)))
    assert capsys.readouterr().err == 2 * told


def test_a_reader_that_has_gone_is_no_bug(left, monkeypatch, capsys):
    """As in `beam-curate select ... --dry_run | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(os.devnull, "w") as nowhere, open(writing, "w", closefd=False) as gone:
        monkeypatch.setattr("sys.stdout", gone)
        endings.run_command(lambda: print("x" * 100_000) or 0)
        monkeypatch.setattr("sys.stdout", nowhere)
        with pytest.raises(BrokenPipeError):
            endings.run_command(failing(BrokenPipeError("of something else")))
        os.dup2(nowhere.fileno(), writing)
    os.close(writing)
    assert left == [141]
    assert capsys.readouterr().err == ""
