"""Copies of a tower in processes of their own, which all worker processes of a machine share.

Beam's RunInference has copies of a model too (`model_copies`), but puts them all into the worker process that comes first
(its MultiProcessShared, without `spawn_process`): one interpreter that unpickles all pixels, and one CUDA context whose
kernels run one after the other. Here each copy has a process, so that their kernels can share a GPU (NVIDIA's MPS). Pixels
lie in memory that both processes read; only where they lie, and texts, go through the connection.
"""

import contextlib
import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from typing import Any, Final, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from apache_beam.utils.multi_process_shared import MultiProcessShared

from beam_curate.clip.careful_calls import SAMPLE_ERRORS, TowerError
from beam_curate.devices import DeviceFailedError, device_failed, out_of_memory

_LOG = logging.getLogger(__name__)
# What a call of a tower raises whose process has gone, because it was killed or the worker that had started it has ended. In the
# middle of an answer it is an OSError without a number; those that the tower raises come in another way: see _Raised.
_GONE: Final = (OSError, EOFError)

T = TypeVar("T")


class CopiedTower(Protocol):
    """A tower that can be copied."""

    def describe(self) -> Any:
        """What it is."""

    def runtime(self) -> tuple[str, str]:
        """The device and the precision in use."""

    def embed(self, items: Any, places: int) -> npt.NDArray[Any]:
        """See careful_calls.Tower; images come as a PixelFile."""


class CopyGoneError(DeviceFailedError):
    """The process of a copy has gone."""


class _Raised(NamedTuple):
    """An error of a tower, as it goes to another process, which may not know its class or be unable to build it."""

    kind: Literal["memory", "device", "items", "system"]
    message: str


class _Served:
    """A tower in the process of a copy."""

    def __init__(self, build: Callable[[], CopiedTower]) -> None:
        self._tower = build()

    def describe(self) -> Any:
        return self._tower.describe()

    def runtime(self) -> tuple[str, str]:
        return self._tower.runtime()

    def process(self) -> int:
        return os.getpid()

    def embed(self, items: Any, places: int) -> npt.NDArray[Any] | _Raised:
        try:
            return self._tower.embed(items, places)
        except SAMPLE_ERRORS as error:
            if out_of_memory(error) or type(error).__name__ == "OutOfMemoryError":
                return _Raised("memory", str(error))
            kind: Literal["device", "items"] = "device" if device_failed(error) else "items"
            return _Raised(kind, f"{type(error).__name__}: {error}")
        except OSError as error:
            return _Raised("system", str(error))


class _Connection(NamedTuple):
    """A copy's process, and what answers for it."""

    server: Any
    process: int


class _Copy(Generic[T]):
    """One copy, as a worker process sees it; used as a tower is, by many threads."""

    def __init__(self, build: Callable[[], CopiedTower], name: str) -> None:
        self._build = build
        self._name = name
        self._lock = threading.Lock()
        self._pixels: Any = None
        self._asked = threading.local()
        self._connection = self._connect()

    def _connect(self) -> _Connection:
        # Python's resource tracker, which a first copy starts, unblocks Ctrl-C in this thread: the copy would take that over.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        served = _Serve(self._build)
        shared = MultiProcessShared(served, self._name, always_proxy=True, spawn_process=True)
        server: Any = shared.acquire()
        return _Connection(server, server.process())

    def describe(self) -> Any:
        return self._connection.server.describe()

    def runtime(self) -> tuple[str, str]:
        found: tuple[str, str] = self._connection.server.runtime()
        return found

    def embed(self, items: Sequence[T], places: int) -> npt.NDArray[Any]:
        """Embeds with the copy: see careful_calls.Tower."""
        given = self._given(items)
        # Another thread may replace it, and this one shall not replace that one's.
        connection = self._asked.connection = self._connection
        try:
            found = connection.server.embed(given, places)
        except _GONE as error:
            raise CopyGoneError(
                f"process {connection.process} of a copy of the model has gone, or the worker that had started it"
            ) from error
        if isinstance(found, np.ndarray):
            return found
        kind, message = found
        if kind == "memory":
            import torch

            raise torch.cuda.OutOfMemoryError(message)
        if kind == "system":
            raise OSError(message)
        raise DeviceFailedError(message) if kind == "device" else TowerError(message)

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
        with self._lock:
            if self._connection is self._asked.connection:
                _, process = self._connection
                _LOG.error("Copy %s of the model, process %d, is given up: %s", self._name, process, error)
                if not isinstance(error, CopyGoneError):  # another process may have its number by now
                    with contextlib.suppress(ProcessLookupError):  # another worker process was quicker
                        os.kill(process, signal.SIGKILL)
                self._connection = self._connect()
        return True


class _Serve:
    """Builds what a copy's process serves; pickled."""

    def __init__(self, build: Callable[[], CopiedTower]) -> None:
        self._build = build

    def __call__(self) -> _Served:
        return _Served(self._build)


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
