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


class Counts(NamedTuple):
    """What a process has done.

    Attributes:
        samples: Samples that were scored, packed by `pack`, or read to be exported.
        rejected: Of these, those that a rule rejected, and
        failed: those that failed.
        input_bytes: Bytes of the input that were read.
        parts: Reads of parts of a score table.
        judged: Rows of a score table that were judged, and
        kept: of these, those that the rules keep.
        written: Samples in output files that are finished.
        buckets: Buckets of a search for duplicates, and
        compared: of these, those that are compared.
    """

    samples: int = 0
    rejected: int = 0
    failed: int = 0
    input_bytes: int = 0
    parts: int = 0
    judged: int = 0
    kept: int = 0
    written: int = 0
    buckets: int = 0
    compared: int = 0


class Progress:
    """Counts of this process since its start; `add` is safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()

    def add(self, **more: int) -> None:
        """Adds to the counts, by the names of `Counts`."""
        with self._lock:
            now = self._counts
            self._counts = now._replace(**{name: getattr(now, name) + number for name, number in more.items()})

    def snapshot(self) -> Counts:
        """The counts so far."""
        return self._counts


PROGRESS = Progress()


class Seen(NamedTuple):
    """What a look finds: how much of the whole is done, and what else there is to say."""

    done: int
    words: str = ""


def samples_seen(start: Counts) -> Callable[[float], Seen]:
    """Looks at this process's counters since `start`, a snapshot; done are bytes.

    Says what the job has done of each kind of work, and nothing of the kinds that it has not begun or does not have.
    """

    def look(seconds: float) -> Seen:
        since = Counts(*(now - then for now, then in zip(PROGRESS.snapshot(), start, strict=True)))
        words = []
        if since.samples:
            words += [f"{since.samples:,} samples", f"{since.samples / max(seconds, 1e-9):.1f} images/s"]
        words += [f"{number:,} {word}" for word in ("rejected", "failed") if (number := getattr(since, word))]
        if since.buckets:
            words.append(f"{since.compared:,} of {since.buckets:,} buckets compared")
        if since.judged:
            words.append(f"{since.judged:,} rows judged ({since.kept:,} kept)")
        if since.written:
            words.append(f"{since.written:,} samples written")
        return Seen(since.input_bytes, ", ".join(words))

    return look


def parts_seen() -> Callable[[float], Seen]:
    """Looks at how many times a part of a score table was read from now on."""
    start = PROGRESS.snapshot().parts
    return lambda seconds: Seen(PROGRESS.snapshot().parts - start)


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
        unit: Of what is done; empty: only the words of `look` are said.
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
    if not total and not unit:
        scaled["bar_format"] = "{desc}: {elapsed}{postfix}"  # neither a share nor a number of anything
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
    elif seen.done and unit:
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
