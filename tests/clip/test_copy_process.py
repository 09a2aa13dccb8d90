"""A process that all workers of a machine find by its name: who starts it, who waits, and what is left of it."""

import contextlib
import functools
import logging
import os
import pathlib
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from beam_curate.clip import copy_process
from beam_curate.clip.copy_process import NotLoadedError, connect, start
from beam_curate.clip.served_tower import ServedTower
from beam_curate.clip.tower_copies import TowerCopies
from tests.support import forked
from tests.support.stub_tower import Tower, image, tower_after, turns

PATIENCE_SECONDS = 120
build = functools.partial(ServedTower, Tower)

# A worker process: it has copies, says who serves them, and ends as it is told.
WORKER = """
import os, signal, sys
from tests.support.stub_tower import Tower, tower_after, turns
from beam_curate.clip.tower_copies import TowerCopies
if __name__ == "__main__":
    name, end, gate = sys.argv[1:]
    copies = TowerCopies(__import__("functools").partial(tower_after, gate) if gate else Tower, name, 2)
    print(*turns(copies, 2), flush=True)
    if end:
        os.kill(os.getpid(), int(end))
"""


@pytest.fixture
def name():
    return f"process-{uuid.uuid4().hex}"


def worker(name, *, end="", gate="", **more):
    """It has the libraries loaded when it begins; the processes of its copies are new ones."""
    return forked.Forked(WORKER, name, end, gate, **more)


def until(true):
    late = time.monotonic() + PATIENCE_SECONDS
    while not (found := true()):
        assert time.monotonic() < late
        time.sleep(0.02)
    return found


def running(process):
    """Whether a process is there, and not only its number."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def addresses(name):
    return [line for line in pathlib.Path("/proc/net/unix").read_text().splitlines() if name in line]


@pytest.mark.parametrize("end", ["", str(int(signal.SIGKILL)), str(int(signal.SIGTERM))])
def test_nothing_is_left_however_a_worker_ends(tmp_path, name, end):
    before = set(os.listdir("/dev/shm"))
    process = worker(name, end=end, env={**os.environ, "TMPDIR": str(tmp_path)})
    served = process.stdout.read().split()
    assert process.close() == -int(end or 0)
    assert len(set(served)) == 2
    until(lambda: not any(map(running, served)) and not addresses(name))
    assert os.listdir(tmp_path) == []
    assert set(os.listdir("/dev/shm")) <= before


def test_a_worker_that_is_killed_while_it_loads_is_followed_by_another(tmp_path, name):
    gate = tmp_path / "gate"

    def loading():
        return {int(path.suffix[1:]) for path in tmp_path.glob("gate.*")}

    with contextlib.closing(worker(name, gate=str(gate))) as first, ThreadPoolExecutor(1) as pool:
        until(lambda: len(loading()) == 2)  # both at once
        orphans = loading()
        follower = pool.submit(TowerCopies, functools.partial(tower_after, str(gate)), name, 2)
        time.sleep(0.2)
        assert loading() == orphans  # it waits for those
        first.kill()
        until(lambda: len(loading()) == 3)
        gate.touch()
        served = set(turns(follower.result(), 4))
    assert served == loading() - orphans
    until(lambda: not any(map(running, orphans)))
    assert len(addresses(name)) >= 2
    assert {connect(f"{name}-{number}", build).process for number in (0, 1)} == served


def test_who_comes_first_starts_it_and_who_waits_long_says_so(tmp_path, name, monkeypatch, caplog):
    gate = tmp_path / "gate"
    monkeypatch.setattr(copy_process, "_REPORT_SECONDS", 0.05)
    slow = functools.partial(ServedTower, functools.partial(tower_after, str(gate)))
    with ThreadPoolExecutor(4) as pool, caplog.at_level(logging.WARNING):
        links = [pool.submit(connect, name, slow) for _ in range(4)]
        until(lambda: caplog.text.count(f"{name} is still being loaded after 0 s") > 8)
        gate.touch()
        assert len({link.result().process for link in links}) == 1
    assert len(list(tmp_path.glob("gate.*"))) == 1


def test_a_process_that_dies_while_it_loads_is_an_error_of_its_starter_alone(tmp_path, name):
    slow = functools.partial(ServedTower, functools.partial(tower_after, str(tmp_path / "gate")))
    child = start(name, slow)
    until(lambda: list(tmp_path.glob("gate.*")))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(connect, name, build)
        until(lambda: len(addresses(name)) > 1)
        os.kill(child.process.pid, signal.SIGKILL)
        with pytest.raises(NotLoadedError, match=rf"{name} cannot be loaded: its process has ended with status -9"):
            connect(name, slow, child)
        assert other.result().ask("describe") == "described"


def test_a_process_ends_when_nobody_is_connected(name, monkeypatch):
    at_once = functools.partial(_unused_at_once, Tower)
    child = start(name, at_once)
    one, two = connect(name, at_once, child), connect(name, at_once)
    one.connection.close()
    time.sleep(0.5)
    assert two.ask("describe") == "described"
    two.connection.close()
    until(lambda: not running(child.process.pid))
    assert connect(name, build).process != child.process.pid


def _unused_at_once(tower):
    copy_process._UNUSED_SECONDS = 0.05  # read when the object is built
    return ServedTower(tower)


def test_copies_live_as_long_as_somebody_has_them(name):
    """Not only as long as the thread that has loaded them."""
    with ThreadPoolExecutor(1) as pool:
        copies = pool.submit(TowerCopies, functools.partial(_tower_unused_at_once), name, 1).result()
    time.sleep(0.5)
    (process,) = turns(copies, 1)
    del copies
    until(lambda: not running(process))


def _tower_unused_at_once():
    copy_process._UNUSED_SECONDS = 0.05
    return Tower()


def test_containers_that_share_the_network_have_processes_of_their_own(name, monkeypatch):
    first = connect(name, build)
    address = copy_process.address
    monkeypatch.setattr(copy_process, "address", lambda name: f"{address(name)}0")  # another namespace of processes
    second = connect(name, build)
    assert first.process != second.process


def test_nobody_else_is_listened_to(name, monkeypatch):
    link = connect(name, build)
    assert link.ask("embed", ["3"], 1).tolist() == [[link.process, 3]]
    monkeypatch.setattr(copy_process.os, "geteuid", lambda: 12345)
    with pytest.raises(NotLoadedError, match=f"{name} is a process of another user"):
        connect(name, build)


def test_a_thread_that_ends_leaves_no_connection(name):
    copies = TowerCopies(Tower, name, 1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        thread = threading.Thread(target=turns, args=(copies, 1))
        thread.start()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) == before
    with contextlib.closing(connect(f"{name}-0", build).connection):
        assert copies.one().embed([image(2)], 1)[0][1] == 2
