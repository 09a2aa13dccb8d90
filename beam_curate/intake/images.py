"""The bytes of images: of files, and of rows of Parquet tables, which are read forward and once."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

import pyarrow as pa

from beam_curate.intake.entries import NO_GROUP, Entry
from beam_curate.intake.naming import extension_of
from beam_curate.intake.parquet_rows import damage
from beam_curate.intake.reasons import EMPTY_FILE, MISSING_FILE, UNREADABLE_TABLE
from beam_curate.reasons import MEMBER_TOO_LARGE, NOT_AN_IMAGE
from beam_curate.storage.local_files import local_size
from beam_curate.storage.object_stores import scheme
from beam_curate.storage.operations import exists, join, open_read, size_of
from beam_curate.storage.parquet_reading import ParquetFile, open_parquet
from beam_curate.storage.ranged_reading import REMOTE_BUFFER_BYTES
from beam_curate.storage.retrying import StorageError

_ROWS: Final = 16
"""Images of a Parquet table that are held at a time."""


class CannotPackError(Exception):
    """A row cannot be packed: the reason, one of `intake.reasons`, and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Images:
    """Reads the images of entries; those of one row group must come in their order, so that it is read once."""

    def __init__(self, max_bytes: int) -> None:
        """Reads nothing yet.

        Args:
            max_bytes: Larger images cannot be packed.
        """
        self._max_bytes = max_bytes
        self._rows: _Rows | None = None

    def __enter__(self) -> "Images":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def read(self, entry: Entry, column: str) -> tuple[bytes, str]:
        """The bytes of an entry's image, and its extension.

        Args:
            entry: Without a failure.
            column: Of the table, that has the bytes.

        Raises:
            CannotPackError: There is no image, or none that can be packed.
            StorageError: It is there and cannot be read.
        """
        if entry.row_group == NO_GROUP:
            content = self.file(entry.image)
            return content, entry.suffix or _extension(entry.image, content)
        if self._rows is None or not self._rows.ahead(entry):
            self._leave()
            self._rows = _Rows(entry.image, entry.row_group, column)
        try:
            value = self._rows.take(entry.row)
        except StorageError:
            raise
        except (pa.ArrowException, OSError) as error:
            self._leave()
            raise CannotPackError(UNREADABLE_TABLE, damage(error)) from error
        data = value
        if isinstance(value, dict):
            data, path = value.get("bytes"), value.get("path")
            if data is None and path:  # datasets may leave images as files of their own
                data = self.file(join(entry.image.rpartition("/")[0], path))
        if not data:
            raise CannotPackError(EMPTY_FILE, "the row has no bytes of an image")
        self._check(len(data))
        return data, entry.suffix or _extension("", data)

    def file(self, path: str) -> bytes:
        """The bytes of an image that is a file.

        Raises:
            CannotPackError: It is not there, empty, or too large.
            StorageError: It cannot be read.
        """
        data = self.beside(path)
        if not data:
            raise CannotPackError(EMPTY_FILE, f"{path} is empty")
        return data

    def beside(self, path: str) -> bytes:
        """The bytes of a file beside an image, which may be empty: an image without a caption has an empty one.

        Raises:
            CannotPackError: It is not there, or too large.
            StorageError: It is there and cannot be read.
        """
        size = _size(path)
        if size is None:
            raise CannotPackError(MISSING_FILE, f"there is no file {path}")
        self._check(size)
        with open_read(path) as stream:
            return stream.read()

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise CannotPackError(MEMBER_TOO_LARGE, f"{size:,} bytes are more than {self._max_bytes:,}")

    def _leave(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None


def _size(path: str) -> int | None:
    """The length of a file; None if there is none: to open a pipe is to wait for whoever writes."""
    if not scheme(path):
        return local_size(path)
    return size_of(path) if exists(path) else None


class _Rows:
    """The image column of one row group, read forward."""

    def __init__(self, path: str, row_group: int, column: str) -> None:
        self._here = (path, row_group)
        self._opened = open_parquet(path, REMOTE_BUFFER_BYTES)  # a row group may be larger than the memory
        self._values = self._read(self._opened.__enter__(), row_group, column)
        self._next = 0

    @staticmethod
    def _read(file: ParquetFile, row_group: int, column: str) -> Iterator[Any]:
        for batch in file.iter_batches(_ROWS, [row_group], columns=[column], use_threads=False):
            yield from batch.column(0).to_pylist()

    def ahead(self, entry: Entry) -> bool:
        """Whether the row of an entry is still to come."""
        return self._here == (entry.image, entry.row_group) and self._next <= entry.row

    def take(self, row: int) -> Any:
        """The value of a row; those before it are passed over."""
        for _ in range(row - self._next):
            next(self._values)
        self._next = row + 1
        return next(self._values)

    def close(self) -> None:
        """Closes the table."""
        self._opened.__exit__(None, None, None)


def _extension(path: str, data: bytes) -> str:
    found = extension_of(data)
    if not found:
        raise CannotPackError(
            NOT_AN_IMAGE, f"{path or 'the image'} has neither the name nor the first bytes of an image"
        )
    return found
