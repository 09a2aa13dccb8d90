"""Copies of a tower in processes of their own, which all worker processes of a machine share.

Beam's RunInference has copies of a model too (`model_copies`), but puts them all into the worker process that comes first
(its MultiProcessShared, without `spawn_process`): one interpreter that unpickles all pixels, and one CUDA context whose
kernels run one after the other. Here each copy has a process, so that their kernels can share a GPU (NVIDIA's MPS). Pixels
lie in memory that both processes read; only where they lie, and texts, go through the connection.
"""

import contextlib
import functools
import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from beam_curate.clip import copy_process
from beam_curate.clip.served_tower import CopiedTower, ServedTower
from beam_curate.clip.tower_errors import Raised
from beam_curate.devices import DeviceFailedError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


class CopyGoneError(DeviceFailedError):
    """The process of a copy has gone."""


class _Copy(Generic[T]):
    """One copy, as a worker process sees it; used as a tower is, by many threads, each of which has a connection with it."""

    def __init__(self, build: Callable[[], CopiedTower], name: str) -> None:
        self._build = functools.partial(ServedTower, build)
        self._name = name
        self._lock = threading.Lock()
        self._pixels: Any = None
        self._of_thread = threading.local()
        self._ended: set[int] = set()
        self._child = copy_process.start(name, self._build)

    def wait(self) -> None:
        """Waits until the tower is built; it then lives at least as long as this object."""
        self._first = self._link()

    def _link(self) -> copy_process.Link:
        link: copy_process.Link | None = getattr(self._of_thread, "link", None)
        if link is None or link.process in self._ended:  # as another thread has found out
            child, self._child = self._child, None
            link = self._of_thread.link = copy_process.connect(self._name, self._build, child)
            self._ended.discard(link.process)  # the system may give a number again
        return link

    def describe(self) -> Any:
        return self._link().ask("describe")

    def runtime(self) -> tuple[str, str]:
        found: tuple[str, str] = self._link().ask("runtime")
        return found

    def embed(self, items: Sequence[T], places: int) -> npt.NDArray[Any]:
        """Embeds with the copy: see careful_calls.Tower."""
        given = self._given(items)
        link = self._link()
        try:
            found = link.ask("embed", given, places)
        except copy_process.GONE as error:
            self._ended.add(link.process)
            raise CopyGoneError(
                f"process {link.process} of a copy of the model has gone, or the worker that had started it"
            ) from error
        if isinstance(found, Raised):
            raise found.error()
        embedded: npt.NDArray[Any] = found
        return embedded

    def _given(self, items: Sequence[T]) -> Any:
        """What goes through the connection: where pixels lie, and texts themselves."""
        if items and isinstance(items[0], str):
            return list(items)
        if not all(isinstance(item, bytes) for item in items):
            raise TypeError(f"a copy of a model takes texts or bytes of pixels, not {type(items[0]).__name__}")
        if not items:
            return []
        from beam_curate.clip.pixel_files import SharedPixels

        with self._lock:
            self._pixels = self._pixels or SharedPixels()
        return self._pixels.write(items)

    def recover(self, error: BaseException) -> bool:
        """Ends the process that this thread asked last, if it is still there, and starts another: see careful_calls.Tower."""
        process = self._of_thread.link.process
        with self._lock:
            if process not in self._ended:
                _LOG.error("%s, process %d, is given up: %s", self._name, process, error)
                self._ended.add(process)
                with contextlib.suppress(ProcessLookupError):  # another worker process was quicker
                    os.kill(process, signal.SIGKILL)
        self.wait()
        return True


class TowerCopies(Generic[T]):
    """Copies of a tower that take turns: see careful_calls.Model."""

    def __init__(self, build: Callable[[], CopiedTower], name: str, copies: int) -> None:
        """Starts what of the copies no other worker process of this machine has started, and waits for all of them.

        Args:
            build: Builds the tower; it is pickled, for it is called in the process of the copy.
            name: Tells these copies from others on this machine: the same in all workers of a job.
            copies: How many there are.

        Raises:
            RuntimeError: A copy cannot be loaded, and the message has the traceback of its process; or this is not Linux.
        """
        if not hasattr(os, "memfd_create"):
            raise RuntimeError(
                "copies of a model share memory in a way that only Linux has: give model_copies=None here"
            )
        self._copies = [_Copy[T](build, f"{name}-{number}") for number in range(copies)]
        for copy in self._copies:
            copy.wait()
        self._turns = itertools.count()
        self._description: Any = self._copies[0].describe()

    def describe(self) -> Any:
        """Returns the description of the model and of its weights."""
        return self._description

    def runtime(self) -> tuple[str, str]:
        """Returns the device and the precision in use."""
        return self._copies[0].runtime()

    def one(self) -> _Copy[T]:
        """The copy whose turn it is."""
        return self._copies[next(self._turns) % len(self._copies)]
