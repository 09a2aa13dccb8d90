"""Copies of a tower in processes of their own, which all worker processes of a machine share.

Beam's RunInference has copies of a model too (`model_copies`), but puts them all into the worker process that comes first
(its MultiProcessShared, without `spawn_process`): one interpreter that unpickles all pixels, and one CUDA context whose
kernels run one after the other. Here each copy has a process, so that their kernels can share a GPU (NVIDIA's MPS). Pixels
lie in memory that both processes read; only where they lie, and texts, go through the connection.

Under MPS an error of the device that one process has caused is reported to all that share the GPU, and no new one is let in
until all of these have ended. So where a copy has lost its GPU, all copies of all models that this worker uses are ended, and
loading is tried again for a while. Source: NVIDIA, Multi-Process Service, Limited Error Containment.
"""

import contextlib
import functools
import itertools
import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import numpy.typing as npt

from beam_curate.clip import copy_process
from beam_curate.clip.served_tower import CopiedTower, ServedTower
from beam_curate.clip.tower_errors import Raised
from beam_curate.devices import DeviceFailedError

_LOG = logging.getLogger(__name__)
_PATIENCE_SECONDS: Final = 120.0  # until all processes that have lost a GPU have ended
_IMAGE_SECONDS: Final = 10.0  # on a processor an image may take a second or two

T = TypeVar("T")


class CopyGoneError(DeviceFailedError):
    """The process of a copy has gone, or does not answer."""


class _Copy(Generic[T]):
    """One copy, as a worker process sees it; used as a tower is, by many threads, each of which has a connection with it."""

    def __init__(self, build: Callable[[], CopiedTower], name: str) -> None:
        self._build = functools.partial(ServedTower, build)
        self._name = name
        self._lock = threading.Lock()
        self._pixels: Any = None
        self._of_thread = threading.local()
        self._ended: set[int] = set()
        self._last: int | None = None
        _in_use.add(self)
        self._child = copy_process.start(name, self._build)

    def wait(self) -> None:
        """Waits until the tower is built; it then lives at least as long as this object."""
        self._first = self._link()

    def _link(self) -> copy_process.Link:
        link: copy_process.Link | None = getattr(self._of_thread, "link", None)
        if link is None or link.process in self._ended:  # as another thread has found out
            child, self._child = self._child, None
            patience = 0 if self._last is None else _PATIENCE_SECONDS  # it has been loaded before
            link = self._of_thread.link = copy_process.connect(self._name, self._build, child, patience)
            self._last = link.process
            self._ended.discard(link.process)  # the system may give a number again
        return link

    def describe(self) -> Any:
        return self._link().ask("describe")

    def runtime(self) -> tuple[str, str]:
        found: tuple[str, str] = self._link().ask("runtime")
        return found

    def embed(self, items: Sequence[T], places: int) -> npt.NDArray[Any]:
        """Embeds with the copy: see careful_calls.Tower.

        Raises:
            CopyGoneError: Its process has gone, or has not answered for half an hour, or ten seconds an image if that is more.
            NotLoadedError: It had gone, and cannot be loaded again.
        """
        given = self._given(items)
        link = self._link()
        try:
            found = link.ask("embed", given, places, patience=max(copy_process.SILENT_SECONDS, _IMAGE_SECONDS * places))
        except (TimeoutError, BlockingIOError) as error:  # before its answer, or in the middle of it
            raise CopyGoneError(f"a copy of the model stands still: {error}") from error
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
        known = self._end(process, error)
        if isinstance(error, DeviceFailedError) and not isinstance(error, CopyGoneError) and not known:
            for copy in list(_in_use):
                copy.end(error)
        self.wait()
        return True

    def end(self, error: BaseException) -> None:
        """Ends the process that was connected with last."""
        if self._last is not None:
            self._end(self._last, error)

    def _end(self, process: int, error: BaseException) -> bool:
        """Ends a process of this copy, once, and says whether that was done before."""
        with self._lock:
            if process in self._ended:
                return True
            _LOG.error("%s, process %d, is given up: %s", self._name, process, error)
            self._ended.add(process)
            with contextlib.suppress(ProcessLookupError):  # another worker process was quicker
                os.kill(process, signal.SIGKILL)
            return False


# All copies that this process uses, of whichever model.
_in_use: Final[weakref.WeakSet[_Copy[Any]]] = weakref.WeakSet()


class TowerCopies(Generic[T]):
    """Copies of a tower that take turns: see careful_calls.Model."""

    def __init__(self, build: Callable[[], CopiedTower], name: str, copies: int) -> None:
        """Starts what of the copies no other worker process of this machine has started, and waits for all of them.

        Args:
            build: Builds the tower; it is pickled, for it is called in the process of the copy.
            name: Tells these copies from others on this machine: the same in all workers of a job.
            copies: How many there are.

        Raises:
            NotLoadedError: A copy cannot be loaded; the message has the traceback of its process.
            RuntimeError: This is not Linux.
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
