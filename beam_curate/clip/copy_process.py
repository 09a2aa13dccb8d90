"""A process that serves an object to all worker processes of a machine, which find it by a name.

The name is that of an abstract Unix socket, which is no file (unix(7)): only one process can have it, and it is gone with that
process, however it ends. So it is the lock too. The worker that gets the name starts the process and leaves it the name; the
others connect, and wait until the object is built. Nothing is left in a folder.

The process ends with the worker that has started it, and where nobody has been connected for a while.

Not Beam's MultiProcessShared, which finds a process by files in the temporary folder: these stay there, name a port that by
then may be another job's, and are deleted for the process that came after by one that loads when its worker is killed.
"""

import contextlib
import errno
import functools
import logging
import multiprocessing
import os
import signal
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

from beam_curate.processes import pid_namespace

_LOG = logging.getLogger(__name__)
GONE: Final = (OSError, EOFError)
"""What is raised where the process has gone. In the middle of an answer it is an OSError without a number."""
SILENT_SECONDS: Final = 1800.0
"""How long a process may be silent, before an answer and in the middle of one. A batch takes seconds, also where some dozens of
workers wait for one copy."""
_WAITING: Final = 1024  # connections of all workers while the object is built; the next one would wait too
_UNUSED_SECONDS: Final = 60.0
_REPORT_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 0.05
_TOLD_CHARACTERS: Final = 20_000  # nobody may read it, and a connection holds about 200,000
_CREDENTIALS: Final = struct.Struct("iII")  # process, user, group: struct ucred of unix(7)
_TIME: Final = struct.Struct("ll")  # seconds and microseconds: struct timeval of socket(7)


class NotLoadedError(Exception):
    """The object could not be built. No item is to blame, so it is none of tower_errors.SAMPLE_ERRORS."""


class Link(NamedTuple):
    """A connection with the process; for one thread at a time.

    Attributes:
        connection: As it is.
        process: The number of the process.
    """

    connection: Connection
    process: int

    def ask(self, method: str, *given: Any, patience: float = SILENT_SECONDS) -> Any:
        """Has a method of the object called there, and gives what it returns.

        Args:
            method: Its name.
            given: What it takes.
            patience: For how many seconds its answer is waited for.

        Raises:
            OSError: The process has gone; or EOFError: see GONE. A TimeoutError: it has not answered.
        """
        self.connection.send((method, given))
        since = time.monotonic()
        while not self.connection.poll(min(_REPORT_SECONDS, patience)):
            waited = time.monotonic() - since
            if waited >= patience:
                raise TimeoutError(f"process {self.process} has not answered for {waited:.0f} s")
            _LOG.warning(
                "Process %d, which serves a copy of the model, has not answered for %d s", self.process, waited
            )
        return self.connection.recv()


class Child(NamedTuple):
    """A process that this one has started.

    Attributes:
        process: Of multiprocessing.
        lifeline: Closed when one of the two ends.
    """

    process: Any
    lifeline: Connection


# A process that this one has started ends where this list does: with this process.
_started: Final[list[Child]] = []


def address(name: str) -> str:
    """The socket's address. Processes in other containers may share the network, and see neither files nor memory from here."""
    return f"\0{name}-{pid_namespace()}"


def start(name: str, build: Callable[[], Any]) -> Child | None:
    """Starts the process, and does not wait for it; None where it is there already.

    Args:
        name: Tells it from others on this machine.
        build: Builds the object; it is pickled, for it is called in the process.
    """
    with socket.socket(socket.AF_UNIX) as place:
        try:
            place.bind(address(name))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return None
        place.listen(_WAITING)
        # Python's resource tracker, which it starts first, unblocks Ctrl-C in this thread; the process would take that over.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        with theirs:
            process = spawn.Process(target=_serve, args=(place, theirs, build), name=name, daemon=True)
            process.start()
    child = Child(process, ours)
    _started[:] = [each for each in _started if each.process.is_alive()]
    _started.append(child)
    return child


def connect(name: str, build: Callable[[], Any], child: Child | None = None, patience: float = 0) -> Link:
    """Connects with the process, starts it where it is not there, and waits until the object is built, however long that takes.

    Args:
        name: As of `start`.
        build: As of `start`.
        child: What `start` has given.
        patience: For how many seconds it is tried again to build an object that could not be built.

    Raises:
        NotLoadedError: The object could not be built, in a process that this one has started; has the traceback. Or the process
            is another user's.
    """
    since = time.monotonic()
    while True:
        child = child or start(name, build)
        try:
            return _greeted(name, since)
        except GONE as error:
            if child is not None:
                why = f"{name} cannot be loaded: {_why(child)}"
                if time.monotonic() - since >= patience:
                    raise NotLoadedError(why) from error
                _LOG.warning("%s", why)
                child = None
        time.sleep(_AGAIN_SECONDS)  # the one that was there is ending, or its starter has not got so far


def _greeted(name: str, since: float) -> Link:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect(address(name))
        if not _of_this_user(ours):
            raise NotLoadedError(f"{name} is a process of another user")
        # In the middle of a message too nobody waits for ever for a process that stands still.
        for wait in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, wait, _TIME.pack(int(SILENT_SECONDS), 0))
        connection = Connection(ours.detach())
    while not connection.poll(_REPORT_SECONDS):
        _LOG.warning("%s is still being loaded after %d s", name, time.monotonic() - since)
    return Link(connection, connection.recv())


def _of_this_user(other: socket.socket) -> bool:
    """Both sides unpickle what the other one sends, and everybody may connect with an abstract socket."""
    given = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(given)[1] == os.geteuid())


def _why(child: Child) -> str:
    try:
        return str(child.lifeline.recv())
    except GONE:
        child.process.join()
        return f"its process has ended with status {child.process.exitcode}"


def _serve(place: socket.socket, lifeline: Connection, build: Callable[[], Any]) -> None:
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    with contextlib.ExitStack() as stack:
        stack.push(functools.partial(_tell, lifeline))
        served = build()
    place.settimeout(_UNUSED_SECONDS)
    threads: list[threading.Thread] = []
    while True:
        try:
            accepted, _ = place.accept()
        except TimeoutError:
            threads = [thread for thread in threads if thread.is_alive()]
            if not threads:
                os._exit(0)
        else:
            threads.append(threading.Thread(target=_answer, args=(accepted, served), daemon=True))
            threads[-1].start()


def _end_with(lifeline: Connection) -> None:
    """Ends this process with the one that has started it, which never sends anything."""
    with contextlib.suppress(*GONE):
        lifeline.recv()
    os._exit(0)


def _tell(lifeline: Connection, kind: Any, error: BaseException | None, trace: Any) -> None:
    if error is not None:
        lifeline.send("".join(traceback.format_exception(error))[-_TOLD_CHARACTERS:])


def _answer(accepted: socket.socket, served: Any) -> None:
    with accepted, contextlib.suppress(*GONE):
        if not _of_this_user(accepted):
            return
        connection = Connection(accepted.detach())
        connection.send(os.getpid())
        while True:
            method, given = connection.recv()
            connection.send(getattr(served, method)(*given))
