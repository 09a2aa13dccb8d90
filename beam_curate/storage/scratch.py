"""Folders on this machine's disk that go with the process that has them; where it was killed, the next one deletes them.

A folder's name tells its owner: the namespace of processes, the process, and when that began. So nobody deletes what another
process needs, nor one in another container that shares the temporary folder. On systems without /proc nothing is known of
owners, and nothing is deleted but by them.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from beam_curate.processes import pid_namespace, process_started

_PREFIX: Final = "beam_curate-"


def new_name() -> str:
    """A path for a folder of this process, which is not there yet; short, for each value that waits on disk has it."""
    return os.path.join(tempfile.gettempdir(), f"{_PREFIX}{_owner(os.getpid())}-{secrets.token_hex(4)}")


def make(folder: str) -> None:
    """Makes a folder of that name, also one of another process, if it is not there; and deletes those whose owners have gone."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, mode=0o700)
        for path in _folders():
            namespace, _, rest = path.name.removeprefix(_PREFIX).partition("-")
            process = rest.partition("-")[0]
            if namespace == _namespace() and process.isdecimal() and not path.name.startswith(_start_of(int(process))):
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def made() -> Iterator[str]:
    """A new folder of this process, for a block."""
    folder = new_name()
    make(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def delete_own() -> None:
    """Deletes all folders of this process."""
    for path in _folders():
        if path.name.startswith(_start_of(os.getpid())):
            shutil.rmtree(path, ignore_errors=True)


def _folders() -> Iterator[Path]:
    return Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*-*-*")


def _start_of(process: int) -> str:
    return f"{_PREFIX}{_owner(process)}-"


def _owner(process: int) -> str:
    return f"{_namespace()}-{process}-{process_started(process)}"


def _namespace() -> str:
    try:
        return str(pid_namespace())
    except OSError:
        return "unknown"
