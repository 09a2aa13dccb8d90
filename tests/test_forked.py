"""Processes that are forked for tests are as Python's own: see tests/support/forked.py."""

import json
import os
import signal
import subprocess
import sys

import pytest
from apache_beam.runners.portability import local_job_service

from tests.support import forked, quick_workers

ASKED = """
import json, os, sys, threading
print(json.dumps({
    "words": sys.argv,
    "name": __name__,
    "main": sys.modules["__main__"].__dict__ is globals(),
    "folder": os.getcwd(),
    "path": sys.path,
    "environment": {name: os.environ.get(name) for name in ("GIVEN", "HOME", "NOT_GIVEN")},
    "as the shell sees it": os.popen("echo $GIVEN").read(),
    "threads": len(os.listdir("/proc/self/task")),
    "ours": sorted(name for name in sys.modules if name.startswith("beam_curate")),
    "interrupted": sys.stdin.read(),
}))
print("an error", file=sys.stderr)
"""


def test_a_process_is_as_pythons_own(tmp_path, monkeypatch):
    monkeypatch.setenv("NOT_GIVEN", "1")
    environment = {"GIVEN": "a b", "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    quick = forked.run(ASKED, "a", "b c", cwd=tmp_path, env=environment)
    slow = subprocess.run(
        [sys.executable, "-c", ASKED, "a", "b c"], cwd=tmp_path, env=environment, input="",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found, expected = json.loads(quick.stdout), json.loads(slow.stdout)
    places, expected_places = found.pop("path"), expected.pop("path")
    assert found == expected
    assert found["threads"] == 1
    assert places[0] == expected_places[0] == ""
    assert set(expected_places) <= set(places)  # others may be from how pytest was started
    assert (quick.stderr, quick.returncode) == (slow.stderr, slow.returncode) == ("an error\n", 0)


def test_the_libraries_are_loaded_and_torch_has_multiplied_nothing():
    """Their first products read how they are to be computed."""
    code = "import json, sys; before = set(sys.modules); import os; os.environ['ATEN_CPU_CAPABILITY'] = 'default'; import torch; "
    code += "print(json.dumps([sorted(before), torch.backends.cpu.get_cpu_capability()]))"
    loaded, capability = json.loads(forked.run(code).stdout)
    assert set(forked.LOADED) <= set(loaded)
    assert capability == "DEFAULT"


ENDS = {
    "import sys; sys.exit(3)": 3,
    "raise SystemExit": 0,
    "import sys; sys.exit('why')": 1,
    "1 / 0": 1,
    "import os, sys; print('an error', file=sys.stderr); os._exit(7)": 7,
    "import os; os._exit(4)": 4,
    "import os; os.kill(os.getpid(), 9)": -9,
    "import atexit, os; atexit.register(os._exit, 5)": 5,
    "import threading, time, os; threading.Thread(target=lambda: (time.sleep(0.2), os._exit(6))).start()": 6,
}


@pytest.mark.parametrize("code", ENDS)
def test_it_ends_as_pythons_own(code):
    quick = forked.run(code, check=False)
    slow = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert quick.returncode == slow.returncode == ENDS[code]
    assert quick.stderr.splitlines()[-1:] == slow.stderr.splitlines()[-1:]
    if ENDS[code]:
        with pytest.raises(subprocess.CalledProcessError):
            forked.run(code)


def test_it_is_talked_with_and_killed():
    process = forked.Forked("import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)")
    for word in ("a", "b"):
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{word.upper()}\n"
    os.kill(process.pid, signal.SIGKILL)
    assert process.stdout.read() == ""
    assert process.close() == -signal.SIGKILL
    assert forked.run("import time; time.sleep(100)", check=False, timeout=0.1).returncode == -signal.SIGKILL
    other = forked.Forked("import sys; sys.exit(len(sys.stdin.read()))")
    assert other.close() == 0


def test_workers_of_beam_are_forked_and_what_they_write_is_seen(capfd):
    assert local_job_service.subprocess.Popen is quick_workers.QuickWorker
    worker = local_job_service.subprocess.Popen(
        f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main", shell=True, env={"PIPELINE_OPTIONS": "{"}
    )
    assert worker.wait() == worker.returncode == worker.poll() == 1
    assert "JSONDecodeError" in capfd.readouterr().err
