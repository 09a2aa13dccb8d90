"""Reading members back from their source shard by span."""

import contextlib
import hashlib
from types import TracebackType
from typing import Any, BinaryIO

from beam_curate.compression import is_compressed, open_decompressed
from beam_curate.storage import open_read

_SKIP_BLOCK = 1 << 20


class SourceChangedError(RuntimeError):
    """A source shard is no longer what was scored."""


class SourceReader:
    """Reads spans of source shards, one shard open at a time.

    Spans of a plain tar are ranged reads. Those of a compressed one are offsets in the uncompressed stream, which is read
    forward: give the spans of a shard in ascending order (a step back starts it again).
    """

    def __init__(self) -> None:
        self._path = ""
        self._open = contextlib.ExitStack()
        self._stream: BinaryIO | None = None
        self._seekable = True
        self._position = 0

    def __enter__(self) -> "SourceReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """The bytes of a span.

        Raises:
            SourceChangedError: The shard ends before the end of the span.
            OSError: The shard cannot be read.
        """
        if path != self._path or (not self._seekable and offset < self._position):
            self._start(path)
        stream: Any = self._stream
        if self._seekable:
            stream.seek(offset)
        else:
            while self._position < offset:
                skipped = len(stream.read(min(_SKIP_BLOCK, offset - self._position)))
                if not skipped:
                    break
                self._position += skipped
        data: bytes = stream.read(size)
        self._position += len(data)
        if len(data) != size:
            raise SourceChangedError(f"{path} is shorter than when it was scored: no {size} bytes at offset {offset}")
        return data

    def _start(self, path: str) -> None:
        self._open.close()
        raw = self._open.enter_context(contextlib.closing(open_read(path)))
        self._seekable = not is_compressed(raw.read(_SNIFF))
        raw.seek(0)
        self._stream = raw if self._seekable else open_decompressed(raw)
        self._path = path
        self._position = 0


_SNIFF = 512


def check_sha256(data: bytes, expected: str, key: str, path: str) -> None:
    """Compares an image's bytes with the digest taken when it was scored.

    Raises:
        SourceChangedError: They differ; it names the sample and its shard.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise SourceChangedError(
            f"{path} changed after it was scored: the image of sample {key!r} has sha256 {found}, {expected} was scored. "
            f"Restore the shard, or score it again into a new output folder"
        )
