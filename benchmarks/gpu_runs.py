"""What gpu.py runs: the handler against the CPU, out of memory, the bare model, the pipeline, and the decoders."""

import contextlib
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from gpu_peaks import image_gflops, peak_tflops
from photo_shards import photo_jpegs, write_shards

from beam_curate import ClipModelHandler, DecodeOptions
from beam_curate.clip.model_description import describe_model
from beam_curate.images.dali_decoding import DaliDecoder, require_dali
from beam_curate.images.decoding import decode_image
from beam_curate.records import DecodedImage, Sample, SampleRef
from beam_curate.transforms.decode_images import decode_sample
from pipelines import curate

MIN_COSINE: Final = {"fp32": 0.9999, "fp16": 0.9995, "bf16": 0.998}
"""The lowest cosine with the CPU's fp32 embedding that passes, for an image: bf16 keeps 8 bits of a number."""

_SHARDS: Final = 8
_LEVELS: Final = (
    3.0  # mean difference in levels of 255 that passes for DALI's pixels, see `beam_curate/images/dali_decoding.py`
)


class Settings(NamedTuple):
    """What every run needs: where the model runs, and its weights."""

    device: str
    pretrained: str
    model_dir: str | None
    seconds: float

    def handler(self, clip_model: str, **options: Any) -> ClipModelHandler:
        """A handler on the device, unless `device` says otherwise."""
        weights = {"pretrained": self.pretrained, "model_dir": self.model_dir, "device": self.device}
        return ClipModelHandler(clip_model, **{**weights, **options})


def device_name(device: str) -> str:
    """The GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def decoded_photos(settings: Settings, clip_model: str, count: int) -> list[DecodedImage]:
    """Photographs as the model sees them; the same again after 36."""
    model = describe_model(clip_model, settings.pretrained, model_dir=settings.model_dir)
    options = DecodeOptions(model.image_size, model.resize_mode, model.interpolation)
    jpegs = itertools.islice(itertools.cycle(photo_jpegs("S")), count)
    return [
        decode_sample(Sample(SampleRef(0, "photos", number, f"{number}"), data), options)
        for number, data in enumerate(jpegs)
    ]


def embed(handler: ClipModelHandler, tower: Any, images: Sequence[DecodedImage]) -> np.ndarray:
    """The embeddings of images, (N, D) float32; an image that fails is an error."""
    rows = handler.run_inference(images, tower)
    failed = [row.failure for row in rows if row.failure is not None]
    if failed:
        raise SystemExit(f"error: {len(failed)} photographs failed, the first one with: {failed[0].message}")
    return np.stack([np.frombuffer(row.embedding, "<f2") for row in rows]).astype(np.float32)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The cosine of each row with its counterpart, in float64."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    return (left * right).sum(axis=1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))


def compare_embeddings(
    settings: Settings, clip_model: str, precisions: Sequence[str], images: int
) -> Iterator[dict[str, Any]]:
    """Embeds photographs in each precision, and in fp32 on the CPU, with the same weights."""
    photos = decoded_photos(settings, clip_model, images)
    reference = settings.handler(clip_model, device="cpu", precision="fp32", batch_size=8)
    expected = embed(reference, reference.load_model(), photos)
    for precision in precisions:
        handler = settings.handler(clip_model, precision=precision, batch_size=8)
        found = cosines(embed(handler, handler.load_model(), photos), expected)
        low = float(found.min())
        yield {
            "model": clip_model,
            "precision": precision,
            "images": images,
            "cosine_min": low,
            "cosine_mean": float(found.mean()),
            "limit": MIN_COSINE[precision],
            "passed": low >= MIN_COSINE[precision],
        }


class _Recorder:
    """A tower that notes the size of each call, and on a CPU runs out of memory above a limit, which is made up there."""

    def __init__(self, tower: Any, limit: int | None) -> None:
        self._tower = tower
        self._limit = limit
        self.calls: list[int] = []

    def describe(self) -> Any:
        return self._tower.describe()

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        self.calls.append(len(pixels))
        if self._limit is not None and len(pixels) > self._limit:
            raise torch.cuda.OutOfMemoryError("made up: there is no CUDA here")
        return self._tower.embed(pixels)


def out_of_memory(settings: Settings, clip_model: str, batch_size: int) -> dict[str, Any]:
    """Runs a batch beside a ballast that leaves too little memory for it: the handler must halve it, and lose nothing.

    The embeddings are compared with those of a handler that has room for the batch.
    """
    photos = decoded_photos(settings, clip_model, batch_size)
    handler = settings.handler(clip_model, batch_size=batch_size)
    tower = handler.load_model()
    expected = embed(handler, tower, photos)
    cuda = settings.device.startswith("cuda")
    ballast = _ballast(settings.device, tower, photos) if cuda else None
    recorder = _Recorder(tower, None if cuda else batch_size // 2)
    found = embed(handler, recorder, photos)
    free = 0 if ballast is None else torch.cuda.mem_get_info(settings.device)[0]
    size = 0 if ballast is None else ballast.numel()
    del ballast
    low = float(cosines(found, expected).min())
    return {
        "model": clip_model,
        "batch_size": batch_size,
        "real": cuda,
        "ballast_gb": size / 1e9,
        "free_gb": free / 1e9,
        "calls": recorder.calls,
        "cosine_min": low,
        "same_bits": bool(np.array_equal(found, expected)),
        "passed": recorder.calls[0] == batch_size > recorder.calls[-1] and low >= MIN_COSINE["fp16"],
    }


def _ballast(device: str, tower: Any, photos: Sequence[DecodedImage]) -> torch.Tensor:
    """Takes so much of the GPU's memory that half the batch fits beside it and the whole does not."""
    size = round((len(photos[0].pixels) // 3) ** 0.5)
    pixels = np.frombuffer(b"".join(photo.pixels for photo in photos), np.uint8).reshape(-1, size, size, 3)
    needs = []
    for part in (pixels, pixels[: len(pixels) // 2]):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_reserved(device)
        tower.embed(part)
        needs.append(torch.cuda.max_memory_reserved(device) - before)
    torch.cuda.empty_cache()
    whole, half = needs
    return torch.empty(torch.cuda.mem_get_info(device)[0] - (whole + half) // 2, dtype=torch.uint8, device=device)


def model_speed(settings: Settings, clip_model: str, precision: str, batch_size: int) -> dict[str, Any]:
    """Times the tower alone on decoded batches: pixels to the device, the model, and the embeddings back."""
    tower = settings.handler(clip_model, precision=precision, batch_size=batch_size).load_model()
    side = tower.describe().image_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8)
    cuda = settings.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(settings.device)
    result = {"model": clip_model, "precision": tower.runtime()[1], "batch_size": batch_size}
    try:
        seconds = _per_call(lambda: tower.embed(pixels), settings.seconds)
    except torch.cuda.OutOfMemoryError:
        return {**result, "images_per_s": None, "gpu_gb": None}
    peak = torch.cuda.max_memory_allocated(settings.device) / 1e9 if cuda else None
    return {**result, "images_per_s": batch_size / seconds, "gpu_gb": peak}


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


def with_mfu(result: dict[str, Any], device: str, peak: float | None) -> dict[str, Any]:
    """Adds the TFLOP/s that the images a second come to, and which share of the GPU's they are."""
    peak = peak or peak_tflops(device, result["precision"])
    speed = result["images_per_s"]
    used = speed and speed * image_gflops(result["model"]) / 1000
    return {**result, "tflops": used, "peak_tflops": peak, "mfu": used and peak and used / peak}


def photo_tars(folder: Path, images: int) -> list[str]:
    """Writes the pipeline's input, and gives the paths of its shards."""
    return [str(path) for path in write_shards(folder, "S", _SHARDS, -(-images // _SHARDS))]


def pipeline_speed(
    settings: Settings,
    clip_model: str,
    precision: str,
    batch_size: int,
    decoder: str,
    paths: Sequence[str],
    images: int,
) -> dict[str, Any]:
    """Times `pipelines/curate.py`, in process, on shards of photographs: what an image more costs, from tar to tar.

    It runs on a quarter of the shards and on all of them; start-up and the model's load are in both, so not in the difference.
    """
    flags = [f"--clip_model={clip_model}", f"--pretrained={settings.pretrained}"]
    flags += [f"--model_dir={settings.model_dir}"] if settings.model_dir else []
    flags += ["--aesthetic_head=random", "--nsfw_head=random", "--min_aesthetic=none", "--max_nsfw=none"]
    flags += [f"--device={settings.device}", f"--precision={precision}", f"--batch_size={batch_size}"]
    flags += [f"--decoder={decoder}"] + ([f"--dali_device={settings.device}"] if decoder == "dali" else [])
    seconds = []
    for inputs in (paths[: _SHARDS // 4], paths):
        with tempfile.TemporaryDirectory(prefix="beam-curate-bench-") as output:
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()) as said:
                status = curate.main([f"--input={','.join(inputs)}", f"--output={output}/out", *flags])
            seconds.append(time.perf_counter() - start)
        if status:
            raise SystemExit(f"error: curate.py ended with status {status}: {said.getvalue()}")
    more = -(-images // _SHARDS) * (_SHARDS - _SHARDS // 4)
    result = {"model": clip_model, "precision": precision, "batch_size": batch_size, "decoder": decoder}
    faster = seconds[1] > seconds[0]  # not so only if the input is far too small
    return {
        **result,
        "images": images,
        "seconds": seconds,
        "images_per_s": more / (seconds[1] - seconds[0]) if faster else None,
    }


def compare_decoders(settings: Settings, size: str, images: int) -> Iterator[dict[str, Any]]:
    """Decodes photographs with each decoder on all cores, and with DALI on the device; differences are to Pillow."""
    jpegs = list(itertools.islice(itertools.cycle(photo_jpegs(size)), images))
    threads = os.cpu_count() or 1
    reference: list[np.ndarray] = []
    for decoder in ("pillow", "fast", "scaled"):
        options = DecodeOptions(decoder=decoder)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda data, options=options: decode_image(data, options), jpegs[:threads]))
            start = time.perf_counter()
            found = [pixels for _, pixels in pool.map(lambda data, options=options: decode_image(data, options), jpegs)]
            seconds = time.perf_counter() - start
        reference = reference or found
        yield {"decoder": decoder, "size": size, "images_per_s": images / seconds, **_differences(found, reference)}
    try:
        require_dali(settings.device)
    except ValueError as error:
        yield {"decoder": "dali", "size": size, "not_run": str(error)}
        return
    dali = DaliDecoder(DecodeOptions(decoder="dali"), settings.device)
    batches = [jpegs[at : at + 32] for at in range(0, len(jpegs), 32)]
    dali.decode(batches[0])
    start = time.perf_counter()
    results = [future.result() for future in [dali.submit(batch) for batch in batches]]
    seconds = time.perf_counter() - start
    dali.close()
    found = [picture for result in results for _, (picture,) in result.images]
    line = {"decoder": f"dali on {settings.device}", "size": size, "images_per_s": images / seconds}
    line |= {"by_dali": sum(result.by_dali for result in results), **_differences(found, reference)}
    yield {**line, "passed": line["by_dali"] == images and line["mean_levels"] <= _LEVELS}


def _differences(found: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> dict[str, float]:
    """The largest difference in levels of 255, and the mean one of the worst image."""
    largest, mean = 0, 0.0
    for left, right in zip(found, reference, strict=True):
        difference = np.abs(left.astype(np.int16) - right)
        largest, mean = max(largest, int(difference.max())), max(mean, float(difference.mean()))
    return {"max_levels": largest, "mean_levels": mean}
