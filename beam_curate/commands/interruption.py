"""Ctrl-C and SIGTERM end a command at once: one line, status 130 or 143, and no process of it is left.

A file of a run is complete or not there, whatever moment a process ends at, so there is nothing to unwind; only folders for
what a run holds meanwhile are deleted. Unwinding would take as long as the work in flight, and Beam's threads, its runners and
their job servers would each say and do something of their own about it: the in-process runner makes another exception of an
interruption, and a job server takes the handler away.

So a thread waits for the signals, as Python passes them on at once, whatever the main thread does. Only the standard
library is imported, and little of it: what comes before `listen` is not covered.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from typing import Final, NoReturn

_WORDS: Final = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_SWEEPS: Final = 5  # looks for children: a child may start another one while it is looked for

_listening = threading.Event()
_ending = threading.Lock()
_said: list[str] = []


def listen() -> None:
    """Has SIGINT and SIGTERM end this process; one that the process ignores, as under nohup, stays ignored.

    Call it first of all, in the main thread. Processes that are forked from this one get back what was there before.
    """
    taken = [number for number in _WORDS if signal.getsignal(number) != signal.SIG_IGN]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    # For the case that a library has taken the wakeup; the end itself would be interrupted in the main thread.
    def tell(number: int, frame: object) -> None:
        with contextlib.suppress(OSError):
            os.write(writing, bytes([number]))

    before = {number: signal.signal(number, tell) for number in taken}
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reading, taken), name="signals", daemon=True).start()

    def forget() -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)

    os.register_at_fork(after_in_child=forget)
    _listening.set()


@contextlib.contextmanager
def saying(what: str) -> Iterator[None]:
    """Adds to the line what holds if the process is interrupted in the block.

    Args:
        what: The end of a sentence, without a full stop.
    """
    _said.append(what)
    try:
        yield
    finally:
        _said.pop()


@contextlib.contextmanager
def sparing_children() -> Iterator[None]:
    """Keeps Ctrl-C from the processes that are started in the block, which are killed here and would tell of it else.

    At a terminal it reaches all processes of the group. Threads and processes take over what their starter blocks; the
    thread that waits for signals was started before, and gets this one then.
    """
    if not _listening.is_set():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave(status: int) -> NoReturn:
    """Ends the process with a status, unless a signal is ending it already."""
    _ending.acquire()
    os._exit(status)


def end_children(spared: Collection[int] = ()) -> None:
    """Kills all processes below this one, at once. On systems without /proc, those that Beam started end by themselves.

    Args:
        spared: Processes that stay, and those below them.
    """
    for _ in range(_SWEEPS):
        children = own_children(spared)
        if not children:
            return
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _wait(reading: int, taken: list[signal.Signals]) -> None:
    while True:
        for number in os.read(reading, 1):
            if number in taken:
                _end(number)


def _end(number: int) -> None:
    if not _ending.acquire(blocking=False):
        return  # the command ends by itself at this moment
    try:
        line = "; ".join([f"error: {_WORDS[signal.Signals(number)]}", *_said[-1:]])
        shown = "".join(character if character.isprintable() else "?" for character in line)
        error = os.dup(2)
        # Other threads are about to lose their connections, and would tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        start = "\r\x1b[K" if os.isatty(error) else ""  # in place of the progress line
        os.write(error, f"{start}{shown}\n".encode(errors="replace"))
        end_children()
        scratch = sys.modules.get("beam_curate.storage.scratch")
        if scratch is not None:
            scratch.delete_own()
    finally:
        os._exit(128 + number)


def own_children(spared: Collection[int] = ()) -> list[int]:
    """The processes below this one, those that have ended and not been waited for left out.

    Args:
        spared: Processes that are left out, and those below them.
    """
    parents: dict[int, int] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with (
                    contextlib.suppress(OSError),
                    open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file,
                ):
                    state, parent = file.read().rpartition(")")[2].split()[:2]
                    if state not in "ZX":
                        parents[int(name)] = int(parent)
    found = [os.getpid()]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one and child not in spared]
    return found[1:]
