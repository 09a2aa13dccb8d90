"""Files on any Beam file system: whole reads, atomic writes, and what lies under a folder.

A file becomes visible under its final name complete or not at all: it is written under a unique name in the
`_temporary` folder of its output folder, closed, measured, and renamed. Two workers that write the same file (a retry)
each use a temporary of their own, and since a file's bytes are a pure function of the work, the last rename changes nothing.
On local disks the bytes are on the disk before the rename, and the name before the writer goes on: without that a loss of power
leaves files of zero length under their final names.

Transient errors are retried everywhere, within the limits of `retrying`; what fails for good is a StorageError, an OSError
that names the file. A write that fails starts again with a new temporary file, never in the middle of the old one.
"""

import contextlib
import io
import json
import os
import posixpath
import re
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, TypeVar, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from typing_extensions import Buffer

from beam_curate.storage.object_stores import scheme
from beam_curate.storage.operations import (
    absolute,
    absolute_pattern,
    all_files,
    delete,
    delete_once,
    exists,
    files_under,
    join,
    make_parent,
    match,
    open_read,
    size_of,
    status_of,
    sync_folder,
    why_not_writable,
)
from beam_curate.storage.retrying import STORAGE_ERRORS, Attempts, InterruptedTransferError

__all__ = [
    "BUCKET",
    "CLAIM",
    "SPOOLED_BYTES",
    "TEMPORARY",
    "absolute",
    "absolute_pattern",
    "all_files",
    "atomic_output",
    "clean_temporary",
    "delete",
    "exists",
    "files_under",
    "is_temporary",
    "join",
    "match",
    "open_read",
    "read_bytes",
    "read_json",
    "remove_empty_temporary",
    "size_of",
    "status_of",
    "why_not_writable",
    "write_atomic",
    "write_json",
]

TEMPORARY: Final = "_temporary"
CLAIM: Final = "running"
"""How the names of files in TEMPORARY begin that say who writes to a folder."""
BUCKET: Final = "bucket"
"""Begins the names there of what one step leaves for the next one of a sort."""
_OF_TEMPORARY: Final = re.compile(rf"[0-9a-f]{{32}}-|{BUCKET}-\d+$|{CLAIM}(-\d+)?\.json$")
SPOOLED_BYTES: Final = 1 << 24
"""What `atomic_output` holds in memory, 16 MiB; the rest of a larger file waits on the worker's disk."""

_COPY_BYTES = 1 << 20

T = TypeVar("T")


def read_bytes(path: str) -> bytes:
    """The whole of a small file."""
    with open_read(path) as stream:
        return stream.read()


def read_json(path: str) -> Any:
    """The value in a JSON file."""
    return json.loads(read_bytes(path))


def write_atomic(output: str, name: str, write: Callable[[BinaryIO], T]) -> T:
    """Writes `output`/`name` by calling `write`; it appears complete, replacing an older one, or not at all.

    Args:
        output: The run's output folder, which holds the `_temporary` folder.
        name: The file's path below it, such as `scores/part-00000.parquet`.
        write: Writes the whole file to the stream it gets. It is called again, with a new stream, when storing the
            bytes failed, so it must give the same bytes each time. An error of its own is not retried.

    Returns:
        What the last call of `write` returned.

    Raises:
        StorageError: Writing or renaming failed for good; nothing new is visible under the final name.
    """
    destination = join(output, name)
    attempts = Attempts("writing", destination)
    while True:
        temporary = join(output, TEMPORARY, f"{uuid.uuid4().hex}-{name.replace('/', '-')}")
        stream = _Output(temporary)
        try:
            result = write(cast(BinaryIO, stream))
            stream.finish()
            _rename(temporary, destination, stream)
            return result
        except BaseException as error:
            # Not handled, only cleaned up: what storage did not cause goes on to the caller.
            stream.discard()
            if stream.failure is None or not isinstance(error, Exception):
                raise
            # The failure rather than the error: a library in between may have made another one of it.
            attempts.failed(stream.failure)


class _Output(io.BufferedIOBase):
    """A temporary file under way: keeps its length and checksum, and the error that stopped it."""

    def __init__(self, path: str) -> None:
        self.failure: Exception | None = None
        self.length = 0
        self.crc = 0
        self._path = path
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._stream: BinaryIO | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        if self.failure is not None:
            raise self.failure
        piece = data if isinstance(data, bytes) else bytes(data)
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        self.length += len(piece)
        self.crc = zlib.crc32(piece, self.crc)
        if self._waiting_bytes >= _COPY_BYTES:
            self._store()
        return len(piece)

    def tell(self) -> int:
        return self.length

    def _store(self) -> BinaryIO:
        try:
            if self._stream is None:
                make_parent(self._path)
                self._stream = FileSystems.create(self._path, compression_type=CompressionTypes.UNCOMPRESSED)
            if self._waiting:
                self._stream.write(b"".join(self._waiting))
        except STORAGE_ERRORS as error:
            self.failure = error
            raise
        self._waiting.clear()
        self._waiting_bytes = 0
        return self._stream

    def finish(self) -> None:
        """Closes the file and makes sure that all of it is there."""
        stream = self._store()
        try:
            if not scheme(self._path):
                stream.flush()
                os.fsync(stream.fileno())
            stream.close()
            stored = size_of(self._path)
            if stored != self.length:
                raise InterruptedTransferError(f"{stored} bytes of {self.length} were stored")
        except STORAGE_ERRORS as error:
            self.failure = error
            raise

    def discard(self) -> None:
        """Removes what there is of the file, if one attempt can; `clean_temporary` finds what stays."""
        if self._stream is None:
            return
        with contextlib.suppress(*STORAGE_ERRORS, ValueError):  # ValueError: closed already
            self._stream.close()
        with contextlib.suppress(*STORAGE_ERRORS):
            delete_once([self._path])


def _rename(temporary: str, destination: str, written: _Output) -> None:
    """Gives a finished file its name. It is done too if only the answer was lost: no source, and the same bytes there."""
    attempts = Attempts("renaming to", destination)
    while True:
        try:
            make_parent(destination)
            FileSystems.rename([temporary], [destination])
            if not scheme(destination):
                sync_folder(os.path.dirname(destination))
            return
        except STORAGE_ERRORS as error:
            if not exists(temporary) and exists(destination) and _is_same(destination, written):
                return
            attempts.failed(error)


def _is_same(path: str, written: _Output) -> bool:
    crc = 0
    length = 0
    with open_read(path) as stream:
        while data := stream.read(_COPY_BYTES):
            crc = zlib.crc32(data, crc)
            length += len(data)
    return (length, crc) == (written.length, written.crc)


@contextlib.contextmanager
def atomic_output(output: str, name: str) -> Iterator[BinaryIO]:
    """Opens `output`/`name` for writing; it appears when the block ends without an error, replacing an older one.

    The block cannot be run again, so its bytes wait in memory, and from SPOOLED_BYTES on in a temporary file of the
    worker, until the block ends; then they are stored, with retries. For files larger than that `write_atomic` saves the
    detour.

    Args:
        output: The run's output folder, which holds the `_temporary` folder.
        name: The file's path below it, such as `scores/part-00000.parquet`.

    Raises:
        StorageError: Writing or renaming failed for good; nothing new is visible under the final name.
    """
    with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as spool:

        def copy(stream: BinaryIO) -> None:
            spool.seek(0)
            shutil.copyfileobj(spool, stream, _COPY_BYTES)

        yield cast(BinaryIO, spool)
        write_atomic(output, name, copy)


def write_json(output: str, name: str, value: Any) -> None:
    """Writes a value as indented JSON, atomically, keys in the order given."""
    data = json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False).encode() + b"\n"
    write_atomic(output, name, lambda stream: stream.write(data))


def clean_temporary(output: str) -> None:
    """Removes what interrupted writes left in the `_temporary` folder; the mark of who writes there stays, see `runs.claims`.

    Raises:
        StorageError: Something is left that cannot be deleted.
    """
    left = [
        path
        for path in files_under(output, f"{TEMPORARY}/*")
        if is_temporary(output, path) and not posixpath.basename(path).startswith(CLAIM)
    ]
    if left:
        delete(left)
    remove_empty_temporary(output)


def is_temporary(output: str, path: str) -> bool:
    """Whether a file has a name that this project gives to files of the `_temporary` folder."""
    folder, _, name = path.rpartition("/")
    return folder == join(output, TEMPORARY) and _OF_TEMPORARY.match(name) is not None


def remove_empty_temporary(output: str) -> None:
    """Removes the `_temporary` folder of a folder that may not be ours alone, if nothing is in it."""
    folder = join(output, TEMPORARY)
    if not scheme(output) and os.path.isdir(folder):
        with contextlib.suppress(OSError):  # a worker may be writing there again
            os.rmdir(folder)
