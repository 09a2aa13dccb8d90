"""How far a local run is: counters of this process, and a line on the terminal.

Beam's own counters are not visible while the in-process runner works, but its transforms run in this process, so they
count here as well. On other runners nobody looks at these numbers, and Beam's counters tell the same.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator

from tqdm import tqdm


class Progress:
    """Counts of this process since its start; `add` is safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.samples = 0
        self.failed = 0
        self.input_bytes = 0

    def add(self, samples: int = 0, failed: int = 0, input_bytes: int = 0) -> None:
        """Adds to the counts."""
        with self._lock:
            self.samples += samples
            self.failed += failed
            self.input_bytes += input_bytes

    def snapshot(self) -> tuple[int, int, int]:
        """Samples, failed samples and input bytes so far."""
        with self._lock:
            return self.samples, self.failed, self.input_bytes


PROGRESS = Progress()


@contextlib.contextmanager
def progress_line(total_bytes: int, enabled: bool | None = None, interval: float = 0.5) -> Iterator[None]:
    """Shows samples, images/s, failures and the time left on the terminal while the block runs.

    The time left follows the input's bytes, since the number of samples is not known before they are read.

    Args:
        total_bytes: Size of the shards to read.
        enabled: None shows it only when standard error is a terminal.
        interval: Seconds between two looks at the counters.
    """
    if not (sys.stderr.isatty() if enabled is None else enabled):
        yield
        return
    start_samples, start_failed, start_bytes = PROGRESS.snapshot()
    stop = threading.Event()
    line = tqdm(total=total_bytes, unit="B", unit_scale=True, desc="curate", dynamic_ncols=True, file=sys.stderr)

    def follow() -> None:
        done = False
        while not done:
            done = stop.wait(interval)
            samples, failed, input_bytes = PROGRESS.snapshot()
            seconds = line.format_dict["elapsed"] or 1e-9
            line.set_postfix_str(
                f"{samples - start_samples} samples, {(samples - start_samples) / seconds:.1f} images/s, "
                f"{failed - start_failed} failed",
                refresh=False,
            )
            line.update(max(0, min(input_bytes - start_bytes, total_bytes) - line.n))

    follower = threading.Thread(target=follow, name="progress", daemon=True)
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join()
        line.close()
