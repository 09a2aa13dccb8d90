"""Threads that a process's workers share, for work that mostly waits for storage or computes without Python's lock.

What each piece of work holds in memory is small, or it says so: `holding` bounds the sum.
"""

import contextlib
import functools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final, TypeVar

HELD_BYTES: Final = 1 << 30
"""What all threads together may announce to hold, 1 GiB; more only if one thread alone announces it."""

S = TypeVar("S")
T = TypeVar("T")


def usable_cores(limits: str = "/sys/fs/cgroup") -> int:
    """The processor cores that this process may use: those it is bound to, and no more than its control group has time for.

    `os.cpu_count` tells those of the machine: in a container with a share of one they would be far too many threads.

    Args:
        limits: Where the control group of the process is mounted. Source: Linux, Control Group v2, `cpu.max`; and for version 1
            CFS Bandwidth Control, `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    """
    bound = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(bound(0)) if bound else os.cpu_count() or 1
    groups = _limit(f"{limits}/cpu.max"), _limit(f"{limits}/cpu/cpu.cfs_quota_us", f"{limits}/cpu/cpu.cfs_period_us")
    return min([cores, *(math.ceil(quota / period) for quota, period in groups if quota > 0 and period > 0)])


def _limit(*paths: str) -> tuple[int, int]:
    """Quota and period from the files of a control group; no quota where there are none, or no limit."""
    try:
        quota, period = (int(word) for path in paths for word in Path(path).read_text().split())
    except (OSError, ValueError):  # `max` is not a number
        return 0, 0
    return quota, period


def default_threads() -> int:
    """Threads of a process: two a core, since they also wait, and 4 to 16."""
    return min(16, max(4, 2 * usable_cores()))


class Threads:
    """Threads, and how much memory they hold.

    Attributes:
        number: How many there are.
    """

    def __init__(self, number: int = 0, held_bytes: int = HELD_BYTES) -> None:
        self.number = number or default_threads()
        self._most = held_bytes
        self._held = 0
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(self.number, thread_name_prefix="side-by-side")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Has a thread do the work."""
        return self._pool.submit(work)

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Waits until so many bytes more may be held, and holds them while the block runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + size <= self._most)
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()


class Queue(deque[Future[T]]):
    """Work under way, in the order in which it was given to threads.

    After an error the rest is not started, and what was started is waited for: nothing is written any more when it is known.
    """

    def take(self) -> T:
        """Waits for the first result.

        Raises:
            BaseException: What the work raised.
        """
        with contextlib.ExitStack() as unless_done:
            unless_done.callback(self._stop)
            result = self.popleft().result()
            unless_done.pop_all()
        return result

    def _stop(self) -> None:
        for waiting in self:
            waiting.cancel()
        wait(self)


def in_threads(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Does the work on each item side by side; the results come in order, and few wait at a time."""
    threads = Threads()
    queue: Queue[T] = Queue()
    for item in items:
        queue.append(threads.submit(functools.partial(work, item)))
        if len(queue) > threads.number:
            yield queue.take()
    while queue:
        yield queue.take()
