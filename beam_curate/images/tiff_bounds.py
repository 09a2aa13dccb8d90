"""Bounds what Pillow reads of a TIFF or EXIF directory, which is otherwise bound by no length of anything.

An entry of a directory says where its value lies, so thousands of entries may name the same bytes: of a TIFF of 2 MB Pillow
would keep 60 GB. And a number of a value becomes a Python object of up to 500 bytes. All formats that carry EXIF are hit, some
of them while they are opened, so the bounds are set where every directory is read.
"""

import io
from typing import IO, Final

from PIL.TiffImagePlugin import ImageFileDirectory_v2

MAX_NUMBER_BYTES: Final = 1 << 22
"""The most bytes of a directory's values that are numbers, 4 MiB; real ones are tables of 100 KB. Further ones are left out."""

_SLACK_BYTES = 1 << 16  # small values are shared in real files, such as both resolutions
_NO_NUMBERS = (1, 2, 7)  # the types byte, ASCII and undefined, which Pillow keeps as they are (TIFF 6.0, section 2)


class _Budget:
    """A file of which no more can be read than it holds, however often the same bytes are."""

    def __init__(self, file: IO[bytes]) -> None:
        start = file.tell()
        self._left = file.seek(0, io.SEEK_END) + _SLACK_BYTES
        file.seek(start)
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1, /) -> bytes:
        if size > self._left:
            raise OSError("the values of the directory are longer than the file")
        data = self._file.read(size)
        self._left -= len(data)
        return data


_load = ImageFileDirectory_v2.load


def _load_bounded(self: ImageFileDirectory_v2, fp: IO[bytes]) -> None:
    """What Pillow's own method does, up to the first value beyond the bounds: there the directory ends."""
    _load(self, _Budget(fp))  # type: ignore[arg-type]  # it reads, seeks and tells, nothing else
    left = MAX_NUMBER_BYTES
    for tag, data in list(self._tagdata.items()):
        if self.tagtype[tag] not in _NO_NUMBERS:
            left -= len(data)
            if left < 0:
                del self._tagdata[tag]


def bound_directories() -> None:
    """Sets the bounds in this process, once; harmless to call again."""
    ImageFileDirectory_v2.load = _load_bounded  # type: ignore[method-assign]  # Pillow makes directories by this name
