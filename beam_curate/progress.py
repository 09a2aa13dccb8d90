"""How far a job is: counters of this process, and who shows them.

Beam's own counters are not visible while the in-process runner works, but its transforms run in this process, so they
count here as well. On other runners nobody looks at these numbers, and Beam's counters tell the same.
"""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from tqdm import tqdm

MODES: Final = ("none", "line", "bar")
MINUTE: Final = 60.0
BYTES: Final = "B"
PARTS: Final = " reads of parts"
_BAR_SECONDS: Final = 0.5
_PATIENCE: Final = 10.0


class Progress:
    """Counts of this process since its start; `add` is safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.samples = 0
        self.rejected = 0
        self.failed = 0
        self.input_bytes = 0
        self.parts = 0
        self.buckets = 0
        self.compared = 0

    def add(
        self,
        samples: int = 0,
        failed: int = 0,
        input_bytes: int = 0,
        rejected: int = 0,
        buckets: int = 0,
        compared: int = 0,
        parts: int = 0,
    ) -> None:
        """Adds to the counts; `buckets` are those of a search for duplicates, of which some are `compared`."""
        with self._lock:
            self.samples += samples
            self.rejected += rejected
            self.failed += failed
            self.input_bytes += input_bytes
            self.parts += parts
            self.buckets += buckets
            self.compared += compared

    def snapshot(self) -> tuple[int, int, int, int, int, int]:
        """Samples, rejected samples, failed samples, input bytes, buckets and compared ones so far."""
        with self._lock:
            return self.samples, self.rejected, self.failed, self.input_bytes, self.buckets, self.compared


PROGRESS = Progress()


class Seen(NamedTuple):
    """What a look finds: how much of the whole is done, and what else there is to say."""

    done: int
    words: str = ""


def samples_seen(start: tuple[int, int, int, int, int, int]) -> Callable[[float], Seen]:
    """Looks at this process's counters since `start`, a snapshot; done are bytes.

    These are samples, images/s, rejections and failures, and in a search for duplicates the buckets that are compared of all:
    there alone before the first sample is read.
    """

    def look(seconds: float) -> Seen:
        since = (now - then for now, then in zip(PROGRESS.snapshot(), start, strict=True))
        samples, rejected, failed, read, buckets, compared = since
        words = [f"{compared:,} of {buckets:,} buckets compared"] if buckets else []
        if samples or not buckets:
            speed = f"{samples / max(seconds, 1e-9):.1f} images/s"
            words = [f"{samples:,} samples, {speed}, {rejected:,} rejected, {failed:,} failed", *words]
        return Seen(read, ", ".join(words))

    return look


def parts_seen() -> Callable[[float], Seen]:
    """Looks at how many times a part of a score table was read from now on."""
    start = PROGRESS.parts
    return lambda seconds: Seen(PROGRESS.parts - start)


@contextlib.contextmanager
def shown(
    look: Callable[[float], Seen],
    total: int,
    name: str,
    mode: str | None = None,
    interval: float | None = None,
    unit: str = BYTES,
) -> Iterator[None]:
    """Shows on standard error how far the block is.

    The time left follows the share that is done: of a run this is the input's bytes, since the number of samples is not known
    before they are read.

    Args:
        look: Finds out; called with the seconds since the start.
        total: What is done at the end; 0 if that is not known.
        name: What is done, to begin a line with.
        mode: `bar`: a line that is written over and over; `line`: a line a minute; `none`: nothing. None: a bar on a terminal,
            lines elsewhere.
        interval: Seconds between two looks; None: as the mode says.
        unit: Of what is done.
    """
    mode = mode or ("bar" if sys.stderr.isatty() else "line")
    if mode == "none":
        yield
        return
    show = functools.partial(_bar if mode == "bar" else _lines, look, total, name, unit)
    stop = threading.Event()
    seconds = interval or (_BAR_SECONDS if mode == "bar" else MINUTE)
    follower = threading.Thread(target=show, args=(stop, seconds), name="progress", daemon=True)
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join(_PATIENCE)  # a service that is asked may not answer


def _bar(
    look: Callable[[float], Seen], total: int, name: str, unit: str, stop: threading.Event, interval: float
) -> None:
    scaled: dict[str, Any] = {"unit": unit, "unit_scale": unit == BYTES}
    with tqdm(total=total or None, desc=name, dynamic_ncols=True, file=sys.stderr, **scaled) as line:
        done = False
        while not done:
            done = stop.wait(interval)
            seen = look(line.format_dict["elapsed"])
            line.set_postfix_str(seen.words, refresh=False)
            line.update(max(0, min(seen.done, total or seen.done) - line.n))


def _lines(
    look: Callable[[float], Seen], total: int, name: str, unit: str, stop: threading.Event, interval: float
) -> None:
    start = time.monotonic()
    while not stop.wait(interval):
        seconds = time.monotonic() - start
        print(f"{name}: {_told(look(seconds), total, unit, seconds)}", file=sys.stderr, flush=True)


def _told(seen: Seen, total: int, unit: str, seconds: float) -> str:
    words = [seen.words] if seen.words else []
    if total:
        words.append(f"{100 * min(seen.done, total) / total:.0f} % of {_size(total, unit)}")
        if 0 < seen.done < total:
            words.append(f"{_duration(seconds * (total - seen.done) / seen.done)} left")
    elif seen.done:
        words.append(_size(seen.done, unit))
    return f"{', '.join(words) or 'at work'} after {_duration(seconds)}"


def _size(number: int, unit: str) -> str:
    return str(tqdm.format_sizeof(number, BYTES)) if unit == BYTES else f"{number:,}{unit}"


def _duration(seconds: float) -> str:
    """Hours and minutes, or seconds below two minutes."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / MINUTE)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
