"""The operations on Beam's file systems that everything else is made of, each with retries.

Transient errors are retried within the limits of `retrying`; what fails for good is a StorageError, an OSError that names
the file.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from apache_beam.io.filesystems import FileSystems

from beam_curate.storage.local_files import files_in, local_files, local_matches
from beam_curate.storage.object_stores import GCS, S3, delete_gcs, scheme
from beam_curate.storage.patterns import literal, pattern_regex
from beam_curate.storage.ranged_reading import open_stream
from beam_curate.storage.retrying import STORAGE_ERRORS, Attempts, retried
from beam_curate.storage.schemes import check_scheme


def absolute(path: str) -> str:
    """The path as any worker of this machine can open it: local paths made absolute, URLs as they are.

    Raises:
        SchemeError: No file system is for this URL.
    """
    if "://" not in path:
        return os.path.abspath(path)
    check_scheme(path)
    return path


def absolute_pattern(pattern: str) -> str:
    """As `absolute`, of a pattern: characters of a pattern in the name of the working folder are only these characters."""
    if "://" in pattern or os.path.isabs(pattern):
        return absolute(pattern)
    return os.path.normpath(os.path.join(literal(os.getcwd()), pattern))


def join(folder: str, *names: str) -> str:
    """The path of a file under a folder, local or not (a trailing slash on the folder is fine)."""
    folder = folder.rstrip("/") or "/"
    # Beam looks through all classes of file systems each time.
    return FileSystems.join(folder, *names) if "://" in folder else os.path.join(folder, *names)


def exists(path: str) -> bool:
    """Whether there is a file at the path.

    Raises:
        StorageError: It cannot be told.
    """
    return retried("looking for", path, lambda: bool(FileSystems.exists(path)))


def open_read(path: str) -> BinaryIO:
    """Opens a file for reading its bytes as they are (never decompressed by the file name), forward and with seeks.

    A connection that breaks is opened again, and reading goes on where it was.

    Raises:
        StorageError: The file cannot be opened or, later, read; an OSError that names it.
    """
    return open_stream(path)


def size_of(path: str) -> int:
    """The length of a file in bytes.

    Raises:
        StorageError: It cannot be told, for one because there is no such file.
    """
    return status_of(path).size


class Status(NamedTuple):
    """The length of a file in bytes, and when it was written, in seconds by the clock of the storage; 0 if that does not tell."""

    size: int
    changed: float


def status_of(path: str) -> Status:
    """The status of a file, for one request.

    Raises:
        StorageError: It cannot be told, for one because there is no such file.
    """
    found = retried("measuring", path, lambda: FileSystems.get_filesystem(path).metadata(path))
    return Status(int(found.size_in_bytes), float(found.last_updated_in_seconds or 0))


def make_parent(path: str) -> None:
    """Makes the folder that a file is to lie in, where there are folders."""
    folder = os.path.dirname(path)
    if scheme(path) or os.path.isdir(folder or "."):  # object stores have none
        return
    missing = []
    while folder and not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for each in reversed(missing):
        os.makedirs(each, exist_ok=True)
        sync_folder(os.path.dirname(each) or ".")


def why_not_writable(folder: str) -> str:
    """Why no file can be made in a local folder, which need not be there yet; empty if one can, or if it is not local.

    It is tried, since the rights of a folder do not tell all: a disk may be read-only, or another machine's. Nothing is left.
    """
    if scheme(folder):
        return ""
    there = os.path.abspath(folder)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        return f"{there} is no folder"
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        return f"{there} cannot be written to: {os.strerror(error.errno or 0)}"
    return ""


def sync_folder(folder: str) -> None:
    """Brings the names in a local folder to the disk.

    Some network file systems refuse that for folders: a name is as safe there as they make it.
    """
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def match(patterns: Sequence[str]) -> list[dict[str, int]]:
    """Paths and sizes of the files that match each pattern: `*` and `?` do not cross a folder, `**` does, `[0-9]` is a set.

    Objects that stand for a folder, as the consoles of stores make them, are none.

    Raises:
        StorageError: A folder or bucket cannot be listed.
    """
    # One by one: Beam asks the first pattern's file system for all of them.
    return [_files(pattern) for pattern in patterns]


def _files(pattern: str) -> dict[str, int]:
    if not scheme(pattern):
        return {path: size for path, size in local_matches(pattern).items() if size is not None}
    # Beam's `*` leaves out names with a backslash; its `**` does not, and lists the same.
    ours = pattern_regex(pattern)
    found = _matching(re.sub(r"\*+", "**", pattern), pattern)
    return {path: size for path, size in found.items() if ours.fullmatch(path) and not _is_marker(path, size)}


def _is_marker(path: str, size: int) -> bool:
    """Whether an object stands for a folder: in the consoles of S3 and Google Cloud, and in Hadoop."""
    return not size and path.endswith(("/", "_$folder$"))


def _matching(pattern: str, shown: str = "") -> dict[str, int]:
    (result,) = retried("listing", shown or pattern, lambda: FileSystems.match([pattern]))
    return {file.path: file.size_in_bytes for file in result.metadata_list}


def files_under(output: str, pattern: str) -> dict[str, int]:
    """Paths and sizes of the files that match `output`/`pattern` (`*` does not cross a folder); empty if none.

    Raises:
        StorageError: The folder cannot be listed.
    """
    if scheme(output):
        return _matching(join(literal(output), pattern))
    # Beam would walk through everything below the folder, and take a bracket in its name for a pattern.
    path = join(output, pattern)
    return files_in(os.path.dirname(path), os.path.basename(path))


def all_files(folder: str, *, must_list: bool = False) -> Iterator[str]:
    """The paths of all files below a folder, at any depth, one after the other; empty if there is no such folder.

    Objects that stand for a folder are none. Local folders behind links are looked into, each once; a link that leads nowhere is
    a file.

    Args:
        folder: Where to look.
        must_list: Whether a local folder that may not be listed is an error; else it is passed over: nothing in it can have been
            written for this user.

    Raises:
        StorageError: A folder cannot be listed.
    """
    if scheme(folder):
        found = _matching(join(literal(folder), "**"))
        yield from (path for path, size in found.items() if not _is_marker(path, size))
        return
    yield from local_files(folder, must_list=must_list)


def delete(paths: list[str]) -> None:
    """Deletes files; one that is already gone is fine.

    Raises:
        StorageError: A file is still there and could not be deleted.
    """
    left, batch = list(paths), len(paths)
    attempts = Attempts("deleting", ", ".join(paths[:3]))
    while left:
        now, later = left[:batch], left[batch:]
        try:
            delete_once(now)
            now = []
            attempts.progressed()
        except STORAGE_ERRORS as error:
            still = [path for path in now if exists(path)]
            if len(still) < len(now):
                attempts.progressed()
            now = still
            if now:
                batch = max(1, batch // 2)  # some file systems delete nothing where one file of many fails
                attempts.failed(error)
        left = [*now, *later]


def delete_once(paths: list[str]) -> None:
    """As `delete`, but with one attempt, and with the errors of the file system as they come."""
    kind = scheme(paths[0])
    if kind == GCS:
        delete_gcs(paths)
    elif kind == S3:
        FileSystems.delete(paths)
    elif kind:
        FileSystems.delete([literal(path) for path in paths])
    else:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
