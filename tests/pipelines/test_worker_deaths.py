"""A dead worker process ends a run, whichever of Beam's threads finds out first."""

import signal
import threading
import time

import pytest

from beam_curate.commands import worker_deaths
from beam_curate.commands.worker_deaths import WorkerDiedError, ends_with_its_workers


@pytest.fixture(autouse=True)
def interruptible():
    """SIGINT as a command has it: a process of pytest-xdist ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def worker_that_dies(seconds):
    """The thread in which Beam's runner waits for a worker, and what it raises when the process is killed."""

    def wait():
        time.sleep(seconds)
        raise RuntimeError("Worker subprocess exited with return code 137")

    threading.Thread(target=wait, name="run_worker").start()


def closed():
    raise RuntimeError("Channel closed prematurely.")


def test_a_wait_is_interrupted():
    with pytest.raises(WorkerDiedError, match="return code 137; if the kernel killed it"), ends_with_its_workers():
        worker_that_dies(0.05)
        for _ in range(600):
            time.sleep(0.05)


def test_the_runner_may_find_the_connection_closed_first():
    with pytest.raises(WorkerDiedError, match="return code 137; if the kernel killed it"), ends_with_its_workers():
        worker_that_dies(0.2)
        closed()


def test_or_last():
    with pytest.raises(WorkerDiedError, match="return code 137"), ends_with_its_workers():
        worker_that_dies(0)
        try:
            time.sleep(30)
        except KeyboardInterrupt:
            closed()


def test_a_closed_connection_of_living_workers_stays_what_it_is(monkeypatch):
    monkeypatch.setattr(worker_deaths, "_NOTICE_SECONDS", 0.05)
    with pytest.raises(RuntimeError, match=r"^Channel closed prematurely\.$") as caught, ends_with_its_workers():
        closed()
    assert not isinstance(caught.value, WorkerDiedError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ValueError])
def test_other_errors_pass_at_once(error):
    with pytest.raises(error), ends_with_its_workers():
        raise error("of the user's own")
