"""Worker processes killed in the middle of a local run: it ends at once, and resumes to the same bytes."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.support.storage_jobs import comparable, put, run_job, shard_bytes, stored

WORKER = b"apache_beam.runners.worker.sdk_worker_main"
JOB = """
import sys
from beam_curate.commands.worker_deaths import ends_with_its_workers
from tests.support.storage_jobs import run_job

if __name__ == "__main__":
    with ends_with_its_workers():
        run_job(sys.argv[1], sys.argv[2], resume=sys.argv[3] == "resume",
                options=["--direct_num_workers=2", "--direct_running_mode=multi_processing"])
"""
TIMEOUT_SECONDS = 240


def workers_of(parent):
    """The processes below a process that run Beam's worker."""
    parents, found = {}, []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # gone meanwhile
            parents[int(entry.name)] = int(fields[1])
            if WORKER in command and not command.startswith(b"/bin/sh"):
                found.append(int(entry.name))

    def below(process):
        while process not in (0, parent):
            process = parents.get(process, 0)
        return process == parent

    return [process for process in found if below(process)]


@pytest.mark.skipif(sys.platform != "linux", reason="finds worker processes in /proc")
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_worker(seed, tmp_path):
    data, output = str(tmp_path / "data"), str(tmp_path / "out")
    put(data, shard_bytes())
    run_job(data, str(tmp_path / "clean"))
    expected = comparable(stored(str(tmp_path / "clean")))
    rng = random.Random(seed)
    process = subprocess.Popen(
        [sys.executable, "-c", JOB, data, output, "new"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    killed = None
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while killed is None and process.poll() is None and time.monotonic() < deadline:
        parts = len(list((tmp_path / "out" / "scores").glob("part-*"))) if (tmp_path / "out" / "scores").exists() else 0
        workers = workers_of(process.pid)
        # Killed when it has started, or when it has written one or two parts.
        if workers and parts >= seed % 3:
            time.sleep(rng.uniform(0, 0.3))
            killed = rng.choice(workers)
            try:
                os.kill(killed, signal.SIGKILL)
            except ProcessLookupError:
                killed = -1
    since = time.monotonic()
    try:
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
    if process.returncode:
        assert "Worker subprocess exited with return code 137" in errors, errors[-3000:]
        run_job(data, output, resume=(tmp_path / "out" / "run.json").exists())
    print(f"killed {killed} with seed {seed}: exit status {process.returncode} after {time.monotonic() - since:.1f} s")
    assert comparable(stored(output)) == expected
    assert workers_of(process.pid) == []
