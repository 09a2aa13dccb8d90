"""Threads that write output shards side by side in a process, within bounds of memory.

Writing a shard is waiting for storage, hashing and copying, which all leave Python's lock to others. A thread holds the rows
of its shard (2 to 5 KB each with a 768-d embedding), 8 MiB of a source, a row group of a part of the score table (about 7 MB)
and a few small buffers: about 40 MB for shards of 1000 samples. What a shuffled shard holds back until its turn comes is bounded
over all threads by `HELD_BYTES`.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

HELD_BYTES: Final = 1 << 30
"""What all threads together may announce to hold, 1 GiB; more only if one thread alone announces it."""

T = TypeVar("T")


def default_threads() -> int:
    """Threads of a process: two a core, since they also wait, and 4 to 16."""
    return min(16, max(4, 2 * (os.cpu_count() or 1)))


class WritingThreads:
    """The threads of a process, shared by its workers.

    Attributes:
        number: How many there are.
    """

    def __init__(self, number: int = 0, held_bytes: int = HELD_BYTES) -> None:
        self.number = number or default_threads()
        self._most = held_bytes
        self._held = 0
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(self.number, thread_name_prefix="write")

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
