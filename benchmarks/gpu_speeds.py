"""The speeds that gpu.py takes: of the bare model, and of the whole pipeline."""

import contextlib
import functools
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gpu_peaks import image_gflops, peak_tflops
from gpu_runs import Settings
from photo_shards import write_shards

from beam_curate.commands import curate


def model_speeds(
    settings: Settings, clip_model: str, precision: str, batch_sizes: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Times the tower alone on decoded batches: pixels to the device, the model, and the embeddings back."""
    tower = settings.handler(clip_model, precision=precision).load_model()
    side = tower.describe().image_size
    for batch_size in batch_sizes:
        pixels = np.random.default_rng(0).integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8)
        if settings.cuda:
            torch.cuda.reset_peak_memory_stats(settings.device)
        try:
            speed: float | None = batch_size / _per_call(functools.partial(tower.embed, pixels), settings.seconds)
        except torch.cuda.OutOfMemoryError:
            speed = None
        line = {"model": clip_model, "precision": precision, "batch_size": batch_size, "images_per_s": speed}
        yield _with_mfu(settings, {**line, "gpu_gb": speed and _peak_gb(settings)})


def _per_call(call: Callable[[], Any], seconds: float) -> float:
    """The median time of a call, after three to warm up; a call ends when its result is there."""
    for _ in range(3):
        call()
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _peak_gb(settings: Settings) -> float | None:
    return torch.cuda.max_memory_allocated(settings.device) / 1e9 if settings.cuda else None


def _with_mfu(settings: Settings, result: dict[str, Any]) -> dict[str, Any]:
    """Adds the TFLOP/s that the images a second come to, and which share of the GPU's they are."""
    peak = settings.peak_tflops or peak_tflops(settings.name, result["precision"])
    speed = result["images_per_s"]
    used = speed and speed * image_gflops(result["model"]) / 1000
    return {**result, "tflops": used, "peak_tflops": peak, "mfu": used and peak and used / peak}


class Shards(NamedTuple):
    """The pipeline's input: four shards for each bundle of the long run, one for each of the short one."""

    paths: tuple[str, ...]
    per_shard: int


@functools.cache
def photo_tars(folder: Path, images: int, threads: int) -> Shards:
    """Writes at least so many images for so many bundles."""
    per_shard = -(-images // (4 * threads))
    return Shards(tuple(str(path) for path in write_shards(folder, "S", 4 * threads, per_shard)), per_shard)


def pipeline_speed(
    settings: Settings,
    clip_model: str,
    precision: str,
    batch_size: int,
    decoder: str,
    shards: Shards,
) -> Iterator[dict[str, Any]]:
    """Times `pipelines/curate.py`, in process, on shards of photographs: what an image more costs, from tar to tar.

    It runs on a quarter of the shards and on all of them; start-up and the model's load are in both, so not in the difference. A
    run before them, which is not timed, loads the kernels and the libraries. As on a worker, several bundles run at the same
    time, in threads that share the model: the runner deals the shards out to them, one to each in the short run, four in the
    long one.
    """
    flags = [f"--clip_model={clip_model}", f"--pretrained={settings.pretrained}"]
    flags += [f"--model_dir={settings.model_dir}"] if settings.model_dir else []
    flags += ["--aesthetic_head=random", "--nsfw_head=random", "--min_aesthetic=none", "--max_nsfw=none"]
    flags += [f"--device={settings.device}", f"--precision={precision}", f"--batch_size={batch_size}"]
    flags += [f"--decoder={decoder}"] + ([f"--dali_device={settings.device}"] if decoder == "dali" else [])
    flags += [f"--direct_num_workers={settings.threads}", "--direct_running_mode=multi_threading"]
    few = shards.paths[: settings.threads]
    _curate(few, flags)
    if settings.cuda:
        torch.cuda.reset_peak_memory_stats(settings.device)
    seconds = [_curate(few, flags), _curate(shards.paths, flags)]
    more = (len(shards.paths) - len(few)) * shards.per_shard
    faster = seconds[1] > seconds[0]  # not so only if the input is far too small
    line = {
        "model": clip_model,
        "precision": precision,
        "batch_size": batch_size,
        "decoder": decoder,
        "threads": settings.threads,
        "images": len(shards.paths) * shards.per_shard,
        "seconds": seconds,
        "images_per_s": more / (seconds[1] - seconds[0]) if faster else None,
        "gpu_gb": _peak_gb(settings),
    }
    yield _with_mfu(settings, line)


def _curate(inputs: tuple[str, ...], flags: list[str]) -> float:
    """Runs the command and says how long it took.

    Raises:
        RuntimeError: It did not end well.
    """
    with tempfile.TemporaryDirectory(prefix="beam-curate-bench-") as output:
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()) as said:
            status = curate.main([f"--input={','.join(inputs)}", f"--output={output}/out", *flags])
        seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"curate.py ended with status {status}: {said.getvalue()}")
    return seconds
