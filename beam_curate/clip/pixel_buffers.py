"""Where the pixels of a batch lie on their way to a model: buffers that each thread keeps.

A buffer that is made for each batch costs more than the copy into it: its pages are new (glibc gives large blocks back to the
system at once), and memory that CUDA copies from in the background has to be pinned first.
"""

import threading
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from beam_curate.clip.pixel_files import PixelFile

HostImages: TypeAlias = Sequence[bytes | npt.NDArray[np.uint8]] | npt.NDArray[np.uint8] | PixelFile
"""(S, S, 3) uint8 each, in the host's memory."""


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
        self._sent = self._sent or torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # see cuda.wait_for
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
