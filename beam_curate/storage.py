"""Files on any Beam file system: whole reads, atomic writes, and what lies under a folder.

A file becomes visible under its final name complete or not at all: it is written under a unique name in the
`_temporary` folder of its output folder, closed, and renamed. Two workers that write the same file (a retry) each
use a temporary of their own, and since a file's bytes are a pure function of the work, the last rename changes nothing.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

TEMPORARY: Final = "_temporary"


def absolute(path: str) -> str:
    """The path as any worker of this machine can open it: local paths made absolute, URLs as they are."""
    return path if "://" in path else os.path.abspath(path)


def join(folder: str, *names: str) -> str:
    """The path of a file under a folder, local or not (a trailing slash on the folder is fine)."""
    return FileSystems.join(folder.rstrip("/") or "/", *names)


def exists(path: str) -> bool:
    """Whether there is a file at the path."""
    return bool(FileSystems.exists(path))


def open_read(path: str) -> BinaryIO:
    """Opens a file for reading its bytes as they are (never decompressed by the file name).

    Raises:
        OSError: The file cannot be opened; the error names it.
    """
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_bytes(path: str) -> bytes:
    """The whole of a small file."""
    with open_read(path) as stream:
        return stream.read()


def read_json(path: str) -> Any:
    """The value in a JSON file."""
    return json.loads(read_bytes(path))


@contextlib.contextmanager
def atomic_output(output: str, name: str) -> Iterator[BinaryIO]:
    """Opens `output`/`name` for writing; it appears when the block ends without an error, replacing an older one.

    Args:
        output: The run's output folder, which holds the `_temporary` folder.
        name: The file's path below it, such as `scores/part-00000.parquet`.

    Raises:
        OSError: Writing or renaming failed; nothing is visible under the final name.
    """
    temporary = join(output, TEMPORARY, f"{uuid.uuid4().hex}-{name.replace('/', '-')}")
    destination = join(output, name)
    stream = FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED)
    try:
        yield stream
        stream.close()
        _make_parent(destination)
        FileSystems.rename([temporary], [destination])
    except BaseException:
        # Not handled, only cleaned up: whatever it is goes on to the caller.
        with contextlib.suppress(OSError):
            stream.close()
        with contextlib.suppress(OSError):
            FileSystems.delete([temporary])
        raise


def _make_parent(path: str) -> None:
    if "://" not in path:  # object stores have no folders
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)


def write_json(output: str, name: str, value: Any) -> None:
    """Writes a value as indented JSON, atomically, keys in the order given."""
    with atomic_output(output, name) as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False).encode() + b"\n")


def files_under(output: str, pattern: str) -> dict[str, int]:
    """Paths and sizes of the files that match `output`/`pattern` (`*` does not cross a folder); empty if none."""
    return {found.path: found.size_in_bytes for found in FileSystems.match([join(output, pattern)])[0].metadata_list}


def delete(paths: list[str]) -> None:
    """Deletes files; one that is already gone is fine.

    Raises:
        OSError: A file is still there and could not be deleted.
    """
    try:
        FileSystems.delete(paths)
    except BeamIOError:
        left = [path for path in paths if exists(path)]
        if left:
            raise


def clean_temporary(output: str) -> None:
    """Removes what interrupted writes left in the `_temporary` folder."""
    left = list(files_under(output, f"{TEMPORARY}/*"))
    if left:
        delete(left)
    folder = join(output, TEMPORARY)
    if "://" not in output and os.path.isdir(folder):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
