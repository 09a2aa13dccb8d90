"""Where the pixels of a batch lie on their way to a model: buffers that each thread keeps.

A buffer that is made for each batch costs more than the copy into it: its pages are new (glibc gives large blocks back to the
system at once), and memory that CUDA copies from in the background has to be pinned first.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch


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
            RuntimeError: The other process has gone, or does not hold as much.
        """
        wanted = rows[: self.images].reshape(-1).data if self.images else memoryview(b"")
        try:
            file = os.open(f"/proc/{self.process}/fd/{self.descriptor}", os.O_RDONLY)
            try:
                if os.fstat(file).st_ino != self.inode:
                    raise ConnectionAbortedError("the process that wrote the pixels has closed their file")
                done = 0
                while done < len(wanted):
                    read = os.preadv(file, [wanted[done:]], done)
                    if not read:
                        raise ConnectionAbortedError(f"the file of the pixels ends after {done} of {len(wanted)} bytes")
                    done += read
            finally:
                os.close(file)
        except OSError as error:
            raise RuntimeError(f"the pixels of process {self.process} cannot be read: {error}") from error


HostImages: TypeAlias = Sequence[bytes | npt.NDArray[np.uint8]] | npt.NDArray[np.uint8] | PixelFile
"""(S, S, 3) uint8 each, in the host's memory."""


class SharedPixels(threading.local):
    """A file in memory for each thread, which another process of this machine reads: see PixelFile.

    It has no name and no limit of a file system (that of /dev/shm is 64 MB in many containers), and goes with the process,
    however that ends.
    """

    def __init__(self) -> None:
        self._file: int | None = None

    def write(self, images: Sequence[bytes]) -> PixelFile:
        """Writes images over those before, which must not be needed any more.

        Raises:
            OSError: There is no memory left for them.
        """
        if self._file is None:
            self._file = os.memfd_create("beam-curate-pixels", os.MFD_CLOEXEC)
        place = 0
        for image in images:
            view = memoryview(image)
            while view:
                written = os.pwrite(self._file, view, place)
                place, view = place + written, view[written:]
        return PixelFile(os.getpid(), self._file, os.fstat(self._file).st_ino, len(images))

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


class HostBuffer(threading.local):
    """The (N, S, S, 3) uint8 pixels of a batch in the host's memory, for each thread; pinned for a GPU.

    Args:
        size: S.
        device: Where the pixels go.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._size = size
        self._device = device
        self._pixels = torch.empty((0, size, size, 3), dtype=torch.uint8)
        self._sent: torch.cuda.Event | None = None

    def upload(self, images: HostImages, places: int) -> torch.Tensor:
        """Gives images on the device, and black ones behind them: (places, S, S, 3) uint8.

        On a CPU it is the buffer itself, which this thread's next call overwrites.

        Raises:
            TypeError: An image is not (S, S, 3) uint8.
        """
        if self._sent is not None:
            self._sent.synchronize()  # the copy before: until then the GPU reads from the buffer
        cuda = self._device.type == "cuda"
        if len(self._pixels) < places:
            self._pixels = torch.empty((places, self._size, self._size, 3), dtype=torch.uint8, pin_memory=cuda)
        batch = self._pixels[:places]
        self._fill(batch.numpy().reshape(places, -1), images)
        if not cuda:
            return batch
        there = batch.to(self._device, non_blocking=True)
        self._sent = self._sent or torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._sent.record(torch.cuda.current_stream(self._device))
        return there

    def _fill(self, rows: npt.NDArray[np.uint8], images: HostImages) -> None:
        if isinstance(images, PixelFile):
            images.read(rows)
        else:
            for row, image in zip(rows, images, strict=False):
                pixels = np.frombuffer(image, np.uint8)
                if pixels.size != row.size or getattr(image, "dtype", np.uint8) != np.uint8:
                    size = self._size
                    raise TypeError(f"an image is {pixels.size} bytes, expected uint8 ({size}, {size}, 3)")
                row[:] = pixels
        rows[len(images) :] = 0
