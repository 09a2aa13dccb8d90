"""Folders for what a run holds meanwhile: none is left of a process that has ended, and none is taken from one that lives."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from beam_curate.storage import scratch
from tests.conftest import ROOT

OTHER = """
import sys, time
from beam_curate.commands.interruption import listen
from beam_curate.storage import scratch
if sys.argv[1:]:
    listen()
name = scratch.new_name()
scratch.make(name)
open(name + "/file", "w").close()
print(name, flush=True)
time.sleep(100)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="owners are known by /proc")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def other(folder):
    """Starts another process that has a folder, and says which."""
    started = []

    def start(*given):
        command = [sys.executable, "-c", OTHER, *given]
        environment = {**os.environ, "TMPDIR": str(folder)}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_who_comes_next_deletes_what_a_killed_process_left_and_nothing_else(folder, other):
    killed, left = other()
    _, kept = other()
    foreign = folder / "beam_curate-17-1-5-0" / "file"  # of another namespace of processes
    foreign.parent.mkdir()
    foreign.touch()
    (folder / "beam_curate-of-somebody").mkdir()
    mine = scratch.new_name()
    scratch.make(mine)
    assert os.path.exists(f"{left}/file")  # it lives
    killed.kill()
    killed.wait()
    scratch.make(mine)  # as another bundle does
    assert os.path.exists(left)
    scratch.make(scratch.new_name())
    assert not os.path.exists(left)
    assert os.path.exists(f"{kept}/file")
    assert foreign.exists()
    assert {path.name for path in folder.iterdir()} >= {"beam_curate-of-somebody", os.path.basename(mine)}


def test_a_process_that_has_the_number_of_another_is_not_taken_for_it(folder):
    path = folder / f"beam_curate-{scratch._namespace()}-{os.getpid()}-1-0"
    path.mkdir()
    scratch.make(scratch.new_name())
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_nothing(other, number):
    process, name = other("listen")
    assert os.path.exists(name)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert not os.path.exists(name)


def test_a_block_has_a_folder():
    with scratch.made() as path:
        assert os.listdir(path) == []
        assert os.stat(path).st_mode & 0o777 == 0o700
    assert not os.path.exists(path)
