"""Other runs that a job reads: whether they are, at its end, what they were at its begin.

Each file of a run is whole at any moment, but a run that is changed meanwhile (its failed samples are scored again, or it is
begun anew) has files of two states, and a job that reads it for hours may have read both. The file that ends a run tells its
state, and is gone while it changes. So a job notes what these files said, and looks again before it says that it is complete.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping

from beam_curate.runs.configuration import Source
from beam_curate.runs.run_files import DUPLICATES, RUN
from beam_curate.runs.state_files import read_index, read_run_file, read_summary
from beam_curate.storage.files import exists, join, read_bytes
from beam_curate.storage.json_records import to_json

Seen = Mapping[str, str]
"""By the path of the file that ends what is read, `summary.json` of a run or of a duplicates table, what tells its state."""


class RunChangedError(ValueError):
    """A run was changed while it was read, or after; the message says what to do."""


def source_of(run: str) -> Source:
    """What a run that starts from a finished one notes of it, see `Run.source`."""
    summary = read_summary(run)
    content = summary.table
    if content is None:
        listed = [
            {"filesize": one.filesize, "md5sum": one.md5sum, "nsamples": one.nsamples, "url": one.url}
            for one in read_index(run)
        ]
        content = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    return Source(summary.configuration, summary.funnel, content)


def see(ends: Iterable[str]) -> dict[str, str]:
    """Looks at the files that end what is read.

    Args:
        ends: Their paths.

    Raises:
        DamagedFileError: One is damaged.
        StorageError: One cannot be read, for one because its run is being changed.
    """
    return {path: _state(path) for path in ends}


def check_seen(seen: Seen, again: str = "") -> None:
    """Checks that what was read is still what it was.

    Args:
        seen: What it was.
        again: How to repeat what was made of it, if not just so.

    Raises:
        RunChangedError: It is not.
        DamagedFileError: A file that ends it is damaged.
        StorageError: Such a file cannot be read.
    """
    for path, state in seen.items():
        if not exists(path) or _state(path) != state:
            raise RunChangedError(
                f"{_folder(path)} was changed while it was read (samples of it were scored again, or it was begun anew): what "
                f"was made of it may be of two states; when no command writes there any more, repeat this one{again}"
            )


@contextlib.contextmanager
def unchanged(seen: Seen) -> Iterator[None]:
    """Checks at the end of a block that reads, and where it fails, that what it read is still what it was; as `check_seen`."""
    try:
        yield
    except (OSError, ValueError, RuntimeError):
        check_seen(seen)
        raise
    check_seen(seen)


def check_same(seen: Seen, now: Seen) -> None:
    """Checks that a job which goes on reads what it has read before, wherever that lies now.

    Args:
        seen: What it saw at its begin; empty if that was not noted.
        now: What it sees now.

    Raises:
        RunChangedError: It does not.
    """
    before = set(seen.values())
    path = next((path for path, state in now.items() if seen and state not in before), None)
    if path is not None:
        raise RunChangedError(
            f"`resume`: {_folder(path)} is not what this run began with: samples of it were scored again since, it was begun "
            "anew, or it is another run; repeat the command with `overwrite`, or give another `output`"
        )


def check_read(output: str) -> None:
    """Checks what a run has noted of others that it reads, see `check_seen`. A pipeline of the user's own notes nothing."""
    if exists(join(output, RUN)):
        check_seen(read_run_file(output).seen, " with `overwrite`")


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _state(path: str) -> str:
    folder = _folder(path)
    # A run's folder may have any name, that of a duplicates table too.
    searched = path.endswith(f"/{DUPLICATES[0]}") and not exists(join(folder, RUN))
    summary = None if searched else read_summary(folder)
    if summary is None or summary.table is None:  # in runs of version 0.1.0, whose end did not tell
        return hashlib.sha256(read_bytes(path)).hexdigest()
    # The rows, and how they are divided over files: the rest decides no more than these.
    said = [summary.table, to_json(summary.configuration.files)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
