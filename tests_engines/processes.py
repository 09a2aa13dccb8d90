"""Processes that the tests start: each in a process group of its own, with a log, and surely stopped."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

_POLL_SECONDS = 0.02
_STOP_SECONDS = 10


@contextmanager
def running(
    argv: Sequence[str], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Starts a command and, at the end, stops it with all that it has started."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env, cwd=cwd, start_new_session=True
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]", first: int = signal.SIGTERM) -> None:
    """Signals a process group, and kills what has not ended after a while."""
    for number in (first, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def wait_for(
    condition: Callable[[], bool], seconds: float, what: str, process: "subprocess.Popen[bytes]", log: Path
) -> None:
    """Polls until a condition holds; fails, with the end of the log, when the time is over or the process has ended."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"{what}: the process ended with status {process.returncode}\n{tail(log)}")
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {seconds} s\n{tail(log)}")
        time.sleep(_POLL_SECONDS)


def accepts(host: str, port: int) -> bool:
    """Whether something listens at an address."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def tail(log: Path, size: int = 6000) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-size:]


def children(parent: int) -> list[int]:
    """The process numbers of a process's children, those of all of its threads."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found
