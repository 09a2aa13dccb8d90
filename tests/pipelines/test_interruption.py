"""Ctrl-C and SIGTERM: real signals to real processes, at several moments."""

import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from beam_curate.clip import handler
from beam_curate.commands import curate
from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests.support import forked
from tests.support.logging_run import LoggingHandler

SHARDS, SAMPLES = 12, 30
MODEL = ["--clip_model=ViT-S-32-alt", "--pretrained=random", "--aesthetic_head=random", "--nsfw_head=random"]
RULES = ["--min_aesthetic=4.5", "--samples_per_shard=64", "--batch_size=8"]
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
# In flight at most: decoding ahead (64), a batch in the model (8), a batch being scored (64), and the shard they end in.
IN_FLIGHT = 64 + 8 + 64 + SAMPLES
PATIENCE_SECONDS = 240

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    for shard in range(SHARDS):
        members = [(f"{number:04d}.jpg", encoded(photo(shard * SAMPLES + number))) for number in range(SAMPLES)]
        (folder / f"{shard:05d}.tar").write_bytes(tar_bytes(members))
    return folder


@pytest.fixture
def start(tmp_path):
    """Starts a process as from a shell; what is left of it at the end is killed, and fails the test."""
    started = []

    def start(*command):
        mark = f"TEST_OF={tmp_path}"
        environment = {**os.environ, **dict([mark.split("=", 1)])}
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=environment, start_new_session=True, preexec_fn=_as_from_a_shell,  # noqa: PLW1509 - it only restores a signal
        )  # fmt: skip
        started.append((process, mark))
        return process

    yield start
    for process, mark in started:
        left = marked(mark)
        for number in left:
            os.kill(number, signal.SIGKILL)
        process.communicate()
        assert not left


LOGGING_RUN = """
import os, runpy, signal
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process of pytest-xdist ignores it
runpy.run_module("tests.support.logging_run", run_name="__main__", alter_sys=True)
"""


class ForkedRun(forked.Forked):
    """A run with a log, in a process that has the libraries loaded when it begins; as subprocess.Popen as far as is needed."""

    def __init__(self, *words):
        super().__init__(LOGGING_RUN, *words)

    @property
    def returncode(self):
        return self.poll()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout):
        late = threading.Timer(timeout, self.kill)
        late.start()
        error = self.stderr.read()
        self.close()
        late.cancel()
        return "", error


def _as_from_a_shell():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a process of pytest-xdist ignores it


def marked(mark):
    """The processes that have a mark in their environment, as children inherit it."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            dead = entry.name.isdigit() and (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            if entry.name.isdigit() and not dead and mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # gone meanwhile
    return found


def wait_until(condition, process):
    patience = time.monotonic() + PATIENCE_SECONDS
    looked = time.monotonic()
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < patience
        time.sleep(max(0.002, 10 * (time.monotonic() - looked)))  # the process needs the time that looking takes
        looked = time.monotonic()


def listens(process):
    """Whether the command has begun: the thread that waits for signals is the first that it starts."""
    return len(os.listdir(f"/proc/{process.pid}/task")) > 1


def maps(process, library):
    return library in pathlib.Path(f"/proc/{process.pid}/maps").read_text()


def is_copy(number):
    """Whether a process holds a copy of a model, or is about to."""
    try:
        return b"spawn_main" in pathlib.Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False


GRPC = re.compile(r"[IWE]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \w+\.cc:\d+\] ")
"""What gRPC's C++ core logs by itself, at any time, such as after a fork."""


def told(process):
    """The exit status, and the lines on standard error but for what a run says at its start."""
    _, error = process.communicate(timeout=PATIENCE_SECONDS)
    lines = [line for line in error.splitlines() if not line.startswith(("warning: ", "note: "))]
    return process.returncode, [line for line in lines if not GRPC.match(line)]


def logged(log):
    return log.read_text().split() if log.exists() else []


def flags(data, output, *more):
    return [f"--input={data}/*.tar", f"--output={output}", *MODEL, *RULES, *more]


def run(data, output, log):
    return [str(log), *flags(data, output)]


SCRIPTS = {
    "curate": ["--input=/none/*.tar", "--output=/none/out"],
    "select": ["--scores=/none", "--output=/none/out"],
    "dedup": ["--scores=/none", "--output=/none/out"],
    "export": ["--input=/none", "--output=/none/out", "--format=webdataset"],
    "demo": ["--folder=/proc/none"],
    "fetch_models": ["--model_dir=/proc/none", "--hub_url=http://127.0.0.1:9", "--github_url=http://127.0.0.1:9"],
}


@pytest.mark.parametrize("number", WORDS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_ends_at_its_very_start(script, number, start):
    process = start(f"pipelines/{script}.py", *SCRIPTS[script])
    wait_until(lambda: listens(process), process)
    process.send_signal(number)
    assert told(process) == (128 + number, [f"error: {WORDS[number]}"])


@pytest.mark.parametrize("library", ["libarrow", "libtorch_cpu"])
def test_while_libraries_are_loaded(library, data, tmp_path, start):
    process = start("-m", "tests.support.logging_run", *run(data, tmp_path / "out", tmp_path / "log"))
    wait_until(lambda: maps(process, library), process)
    process.send_signal(signal.SIGINT)
    assert told(process) == (130, ["error: interrupted"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_run_ends_at_once_and_goes_on_with_resume(signals, data, tmp_path, monkeypatch):
    output, log = tmp_path / "out", tmp_path / "log"
    process = ForkedRun(*run(data, output, log))
    wait_until(lambda: list(output.glob("scores/part-*")), process)
    for number in signals:
        process.send_signal(number)
    kept = f"what is finished in {output} is kept: go on with --resume"
    assert told(process) == (128 + signals[0], [f"error: {WORDS[signals[0]]}; {kept}"])
    assert len(logged(log)) < SHARDS * SAMPLES

    # In this process, which has loaded what it needs; what is tested is what the first one left.
    monkeypatch.setattr(handler, "ClipModelHandler", functools.partial(LoggingHandler, str(log)))
    assert curate.main(flags(data, output, "--resume")) == 0
    counts = Counter(logged(log))
    assert len(counts) == SHARDS * SAMPLES
    assert sum(counts.values()) - len(counts) <= IN_FLIGHT


@pytest.mark.parametrize("everyone", [False, True], ids=["the command", "its whole group"])
def test_worker_processes_end_with_it(everyone, data, tmp_path, start):
    """At a terminal Ctrl-C reaches the whole process group."""
    output = tmp_path / "out"
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2", "--model_copies=2"]
    process = start("pipelines/curate.py", f"--input={data}/*.tar", f"--output={output}", *MODEL, *workers)
    wait_until(lambda: any(is_copy(number) for number in marked(f"TEST_OF={tmp_path}")), process)
    if everyone:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    status, lines = told(process)
    assert status == (130 if everyone else 143)
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    if not everyone:  # a worker that the terminal's signal reaches before its end may say so itself
        assert lines[-1].startswith("error: ")
        assert not [line for line in lines if "Traceback" in line or "KeyboardInterrupt" in line]
    assert marked(f"TEST_OF={tmp_path}") == []


def test_an_ignored_signal_stays_ignored_and_forks_have_their_own(start):
    code = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from beam_curate.commands.interruption import listen
listen()
child = os.fork()
if not child:
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)
status = os.waitpid(child, 0)[1]
os.kill(os.getpid(), signal.SIGINT)
sys.exit(50 + os.WTERMSIG(status))
"""
    process = start("-c", code)
    assert told(process) == (50 + signal.SIGTERM, [])
