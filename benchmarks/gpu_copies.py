"""What gpu.py checks of copies of the model: their bits, their speed, and what becomes of one that is killed or loses its GPU."""

import contextlib
import functools
import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from gpu_runs import Settings, decoded_photos, embed

from beam_curate.clip.careful_calls import CarefulCalls
from beam_curate.clip.tower_copies import TowerCopies
from beam_curate.clip.visual_tower import build_visual_tower
from beam_curate.clip.weights import find_weights
from beam_curate.devices import DeviceFailedError

_LOSE: Final = -1
"""The number of places with which a tower is made to lose its GPU."""


class LosableTower:
    """A tower that loses its GPU on demand, by an assertion in a kernel; on a CPU the error is made up."""

    def __init__(self, settings: Settings, clip_model: str, precision: str) -> None:
        source = find_weights(clip_model, settings.pretrained, model_dir=settings.model_dir)
        self._tower = build_visual_tower(source, precision=precision, device=settings.device)
        self._cuda = settings.cuda
        self._lost = False

    def describe(self) -> Any:
        """As the tower's."""
        return self._tower.describe()

    def runtime(self) -> tuple[str, str]:
        """As the tower's."""
        return self._tower.runtime()

    def embed(self, images: Any, places: int) -> np.ndarray:
        """As the tower's, or loses the GPU."""
        if places == _LOSE and self._cuda:
            beyond = torch.full((1,), 5, device="cuda")
            torch.zeros(1, device="cuda")[beyond].cpu()
        self._lost = self._lost or places == _LOSE
        if self._lost:
            raise RuntimeError("CUDA error: device-side assert triggered (made up: there is no CUDA here)")
        return self._tower.embed(images, places)


def check_copies(
    settings: Settings, clip_model: str, precision: str, batch_size: int, copies: int
) -> Iterator[dict[str, Any]]:
    """Embeds with copies what one model has embedded: as they are, after one is killed, and after one has lost its GPU."""
    photos = decoded_photos(settings, clip_model, 2 * copies * batch_size)
    handler = settings.handler(clip_model, precision=precision, batch_size=batch_size)
    line = {"model": clip_model, "precision": precision, "batch_size": batch_size, "copies": copies, "mps": _mps()}
    if line["mps"] and torch.cuda.is_initialized() and torch.cuda.memory_reserved():
        # This process would lose the GPU with the copy, and as long as it is there no new one would be let in.
        yield {**line, "not_run": "under MPS give --only copies: this process uses the GPU by now"}
        return
    build = functools.partial(LosableTower, settings, clip_model, precision)
    try:
        expected = embed(handler, _copies(build, 1), photos)
        _end_all()
        model = _copies(build, copies)
        line["same_bits"] = np.array_equal(embed(handler, model, photos), expected)
        pixels = [photo.pixels for photo in photos[:batch_size]]
        line["images_per_s"] = _speed(model, pixels, max(settings.threads, 2 * copies), settings.seconds)
        os.kill(_processes()[0], signal.SIGKILL)
        line["after_kill"] = np.array_equal(embed(handler, model, photos), expected)
        before = _processes()
        with contextlib.suppress(DeviceFailedError):
            model.one().embed(pixels[:1], _LOSE)
        line["after_loss"] = np.array_equal(embed(handler, model, photos), expected) and _processes() != before
    finally:
        _end_all()
    yield {**line, "passed": line["same_bits"] and line["after_kill"] and line["after_loss"]}


def _copies(build: Callable[[], LosableTower], number: int) -> Any:
    return TowerCopies(build, f"beam-curate-bench-{uuid.uuid4().hex}", number)


def _end_all() -> None:
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def _processes() -> list[int]:
    return sorted(process.pid for process in multiprocessing.active_children() if process.pid)


def _mps() -> bool:
    """Whether NVIDIA's MPS is started, by the folder in which processes find it."""
    return Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"), "control").exists()


def _speed(model: Any, pixels: Sequence[bytes], threads: int, seconds: float) -> float:
    """Images a second of so many threads, each with whole batches; what one thread of a worker process does each."""
    calls = CarefulCalls(len(pixels), "gpu_copies")
    end = time.perf_counter() + seconds

    def work(_: int) -> int:
        done = 0
        while time.perf_counter() < end:
            done += len(calls.embed(pixels, model))
        return done

    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        return sum(pool.map(work, range(threads))) / (time.perf_counter() - start)
