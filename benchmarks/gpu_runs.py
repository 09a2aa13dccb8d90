"""What gpu.py checks of the handler: embeddings against the CPU, an image beside other images, and out of memory."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from photo_shards import photo_jpegs

from beam_curate import ClipModelHandler, DecodeOptions
from beam_curate.clip import model_description
from beam_curate.clip.model_description import describe_model
from beam_curate.records import DecodedImage, Sample, SampleRef
from beam_curate.transforms.decode_images import decode_sample

PRECISIONS: Final = ("fp32", "bf16", "fp16")

MIN_COSINE: Final = {"fp32": 0.9999, "fp16": 0.9995, "bf16": 0.998}
"""The lowest cosine with the CPU's fp32 embedding that passes, for an image: bf16 keeps 8 bits of a number."""


class Settings(NamedTuple):
    """What every run needs: where the model runs, its weights, and how speeds are taken.

    Attributes:
        device: `cuda` or `cpu`.
        pretrained: As of `ClipModelHandler`.
        model_dir: As of `ClipModelHandler`.
        seconds: How long the model alone is timed.
        threads: Bundles of the pipeline at the same time.
        peak_tflops: What the GPU can do, where its name does not tell.
    """

    device: str
    pretrained: str = "random"
    model_dir: str | None = None
    seconds: float = 3.0
    threads: int = 1
    peak_tflops: float | None = None

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.startswith("cuda")

    @property
    def name(self) -> str:
        """The GPU's name, or `cpu`."""
        return torch.cuda.get_device_name(self.device) if self.cuda else "cpu"

    def handler(self, clip_model: str, **options: Any) -> ClipModelHandler:
        """A handler on the device, unless `device` says otherwise."""
        weights = {"pretrained": self.pretrained, "model_dir": self.model_dir, "device": self.device}
        return ClipModelHandler(clip_model, **{**weights, **options})


def usual_precisions(device: str) -> list[str]:
    """The precisions that are for a device: a GPU before Ampere only emulates bf16, and a CPU is slow in fp16."""
    if device == "cpu":
        return ["fp32", "bf16"]
    native = model_description.choose_precision("auto", torch.device(device)) == torch.bfloat16
    return [each for each in PRECISIONS if native or each != "bf16"]


def fastest(device: str, precisions: Sequence[str]) -> str:
    """The one of the precisions that `--precision auto` takes on the device, or else the first one."""
    chosen = model_description.choose_precision("auto", torch.device(device))
    return next((each for each in precisions if model_description.PRECISIONS[each] == chosen), precisions[0])


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
    """The embeddings of images, (N, D) float32.

    Raises:
        RuntimeError: An image failed.
    """
    rows = handler.run_inference(images, tower)
    failed = [row.failure for row in rows if row.failure is not None]
    if failed:
        raise RuntimeError(f"{len(failed)} photographs failed, the first one with: {failed[0].message}")
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


def compare_neighbours(
    settings: Settings, clip_model: str, precision: str, batch_sizes: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Embeds a batch, the same in another order, and every third image of it: the bits of an image must stay the same.

    The third is filled up with black images or computed as a smaller batch, as the handler does with the tail of every bundle.
    That two runs write the same bytes rests on this, since a runner makes other bundles each time.
    """
    photos = decoded_photos(settings, clip_model, max(batch_sizes))
    tower = settings.handler(clip_model, precision=precision).load_model()
    for batch_size in batch_sizes:
        handler = settings.handler(clip_model, precision=precision, batch_size=batch_size)
        recorder = _Recorder(tower, None)
        batch, order = photos[:batch_size], np.random.default_rng(0).permutation(batch_size)
        whole = embed(handler, recorder, batch)
        moved = embed(handler, recorder, [batch[place] for place in order])
        part = embed(handler, recorder, batch[1::3])
        line = {"model": clip_model, "precision": precision, "batch_size": batch_size}
        if set(recorder.calls) != {batch_size}:  # a call of another shape may give other bits
            yield {**line, "not_run": f"out of memory with {batch_size} images at a time"}
            continue
        same = np.array_equal(moved, whole[order]) and np.array_equal(part, whole[1::3])
        yield {
            **line,
            "moved": float(np.abs(moved - whole[order]).max()),
            "part": float(np.abs(part - whole[1::3]).max()),
            "passed": same,
        }


class _Recorder:
    """A tower that notes the batch size of each call, and on a CPU runs out of memory above a limit, which is made up there."""

    def __init__(self, tower: Any, limit: int | None) -> None:
        self._tower = tower
        self._limit = limit
        self.calls: list[int] = []

    def describe(self) -> Any:
        return self._tower.describe()

    def one(self) -> "_Recorder":
        return self

    def recover(self, error: BaseException) -> bool:
        return self._tower.recover(error)

    def embed(self, images: Sequence[bytes], places: int) -> np.ndarray:
        self.calls.append(places)
        if self._limit is not None and places > self._limit:
            raise torch.cuda.OutOfMemoryError("made up: there is no CUDA here")
        return self._tower.embed(images, places)


def out_of_memory(settings: Settings, clip_model: str, batch_size: int) -> Iterator[dict[str, Any]]:
    """Runs a batch beside a ballast that leaves too little memory for it: the handler must halve it, and lose nothing.

    The embeddings are compared with those of a handler that has room for the batch.
    """
    photos = decoded_photos(settings, clip_model, batch_size)
    handler = settings.handler(clip_model, batch_size=batch_size)
    tower = handler.load_model()
    whole = _Recorder(tower, None)
    expected = embed(handler, whole, photos)
    line = {"model": clip_model, "precision": tower.runtime()[1], "batch_size": batch_size, "real": settings.cuda}
    if set(whole.calls) != {batch_size}:
        yield {**line, "not_run": f"out of memory with {batch_size} images even without a ballast"}
        return
    needs = _needs(settings.device, tower, photos) if settings.cuda else None
    if needs and needs[0] < _LEAST_NEED:
        yield {**line, "not_run": f"the batch needs {needs[0] / 1e6:.0f} MB, too little to tell: give a larger one"}
        return
    ballast = _ballast(settings.device, sum(needs) // 2) if needs else None
    recorder = _Recorder(tower, None if needs else batch_size // 2)
    found = embed(handler, recorder, photos)
    del ballast
    low = float(cosines(found, expected).min())
    yield {
        **line,
        "need_gb": needs and needs[0] / 1e9,
        "free_gb": needs and sum(needs) / 2e9,
        "calls": recorder.calls,
        "cosine_min": low,
        "same_bits": bool(np.array_equal(found, expected)),
        "passed": recorder.calls[0] == batch_size > recorder.calls[-1] and low >= MIN_COSINE[line["precision"]],
    }


# Left free is the mean of what the whole batch and its half need, see `_needs`. The whole needs more, so it cannot fit. The half
# needs about half as much, so it has a quarter of the whole's need to spare for what the allocator loses: it asks the device for
# blocks of 2, of 20 or of multiples of 2 MB, and gaps stay in blocks that are in use. Of this need a quarter is 32 MB.
_LEAST_NEED: Final = 128 << 20


def _needs(device: str, tower: Any, photos: Sequence[DecodedImage]) -> tuple[int, int]:
    """The bytes that a call has allocated at its peak with all of the images, and with half of them, beside the weights.

    Not those that are reserved: before it fails, torch's allocator gives back all blocks that it only keeps.
    """
    side = round((len(photos[0].pixels) // 3) ** 0.5)
    pixels = np.frombuffer(b"".join(photo.pixels for photo in photos), np.uint8).reshape(-1, side, side, 3)
    peaks = []
    for part in (pixels, pixels[: len(pixels) // 2]):
        # Kernels are loaded into the device's memory when they are first called, and workspaces of libraries stay allocated:
        # both are no need of a later call, and there would be no room for them beside the ballast.
        tower.embed(part)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        tower.embed(part)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    return peaks[0], peaks[1]


def _ballast(device: str, free: int) -> torch.Tensor:
    """Takes all of the GPU's memory but so many bytes."""
    torch.cuda.empty_cache()
    return torch.empty(torch.cuda.mem_get_info(device)[0] - free, dtype=torch.uint8, device=device)
