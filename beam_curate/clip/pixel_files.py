"""Pixels that go from one process to another of the same machine, in memory that both read."""

import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PixelFile:
    """Images that lie one behind the other in a file in memory of another process of this machine.

    Attributes:
        process: The other process.
        descriptor: The open file there.
        inode: The file's number, by which it is known for the right one.
        images: How many there are.
    """

    process: int
    descriptor: int
    inode: int
    images: int

    def __len__(self) -> int:
        return self.images

    def read(self, rows: npt.NDArray[np.uint8]) -> None:
        """Reads the images into the first of the rows, (N, S * S * 3), which are one piece of memory.

        Raises:
            OSError: The other process has gone, does not let this one read, or does not hold as much. No image is to blame, so
                it is none of tower_errors.SAMPLE_ERRORS.
        """
        wanted = rows[: self.images].reshape(-1).data if self.images else memoryview(b"")
        try:
            file = os.open(f"/proc/{self.process}/fd/{self.descriptor}", os.O_RDONLY)
            try:
                if os.fstat(file).st_ino != self.inode:
                    raise OSError("the process that wrote the pixels has closed their file")
                done = 0
                while done < len(wanted):
                    read = os.preadv(file, [wanted[done:]], done)
                    if not read:
                        raise OSError(f"the file of the pixels ends after {done} of {len(wanted)} bytes")
                    done += read
            finally:
                os.close(file)
        except OSError as error:
            raise OSError(f"the pixels of process {self.process} cannot be read: {error}") from error


class _Memory:
    """A file in memory, which is closed when nobody holds this object any more."""

    def __init__(self) -> None:
        self.file = os.memfd_create("beam-curate-pixels", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.file)


class SharedPixels(threading.local):
    """A file in memory for each thread, which another process of this machine reads: see PixelFile.

    It has no name and no limit of a file system (that of /dev/shm is 64 MB in many containers), and goes with the thread, or
    with the process, however that ends.
    """

    def __init__(self) -> None:
        self._memory: _Memory | None = None

    def write(self, images: Sequence[bytes]) -> PixelFile:
        """Writes images over those before, which must not be needed any more.

        Raises:
            OSError: There is no memory left for them.
        """
        self._memory = self._memory or _Memory()
        file = self._memory.file
        place = 0
        for image in images:
            view = memoryview(image)
            while view:
                written = os.pwrite(file, view, place)
                place, view = place + written, view[written:]
        return PixelFile(os.getpid(), file, os.fstat(file).st_ino, len(images))
