"""Copies of a tower in processes of their own, which all worker processes of a machine share.

Beam's RunInference has copies of a model too (`model_copies`), but puts them all into the worker process that comes first
(its MultiProcessShared, without `spawn_process`): one interpreter that unpickles all pixels, and one CUDA context whose
kernels run one after the other. Here each copy has a process, so that their kernels can share a GPU (NVIDIA's MPS).
"""

import itertools
import logging
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from apache_beam.utils.multi_process_shared import MultiProcessShared

if TYPE_CHECKING:
    from beam_curate.clip.model_description import ModelDescription
    from beam_curate.clip.visual_tower import VisualTower

_LOG = logging.getLogger(__name__)
# What a call of a tower raises whose process has gone, since the worker that had started it ended.
_GONE = (ConnectionError, EOFError)


class TowerCopies:
    """Copies of a tower that take turns; used as a VisualTower is."""

    def __init__(self, build: Callable[[], "VisualTower"], name: str, copies: int) -> None:
        """Starts what of the copies no other worker process of this machine has started, and waits for all of them.

        Args:
            build: Builds the tower; it is pickled, for it is called in the process of the copy.
            name: Tells these copies from others on this machine: the same in all workers of a job.
            copies: How many there are.

        Raises:
            RuntimeError: A copy cannot be loaded; the message has the traceback of its process.
        """
        self._build = build
        self._names = [f"{name}-{number}" for number in range(copies)]
        self._towers = [self._connect(number) for number in range(copies)]
        self._turns = itertools.count()
        self._description: ModelDescription = self._towers[0].describe()

    def _connect(self, number: int) -> "VisualTower":
        # Python's resource tracker, which a first copy starts, unblocks Ctrl-C in this thread: the copy would take that over.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        shared = MultiProcessShared(self._build, self._names[number], always_proxy=True, spawn_process=True)
        tower: VisualTower = shared.acquire()
        return tower

    def describe(self) -> "ModelDescription":
        """Returns the description of the model and of its weights."""
        return self._description

    def runtime(self) -> tuple[str, str]:
        """Returns the device and the precision in use."""
        return self._towers[0].runtime()

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
        """Embeds a batch of images with the copy whose turn it is: see VisualTower.embed."""
        number = next(self._turns) % len(self._towers)
        try:
            return self._towers[number].embed(pixels)
        except _GONE:
            _LOG.warning("A copy of the model has gone with the worker that had started it: starting it again")
            self._towers[number] = self._connect(number)
            return self._towers[number].embed(pixels)
