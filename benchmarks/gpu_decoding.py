"""What gpu.py measures of the decoders: speed, differences to Pillow, a bad JPEG among good ones, and who decodes for DALI."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final

import numpy as np
import torch
from gpu_runs import Settings
from photo_shards import photo_jpegs
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from beam_curate import DecodeOptions
from beam_curate.images.dali_decoding import DaliDecoder, require_dali
from beam_curate.images.decoding import ImageError, decode_image
from beam_curate.threads import usable_cores

DALI: Final = DecodeOptions(decoder="dali")
_BATCH: Final = 32
_LEVELS: Final = 3.0
"""The mean difference in levels of 255 that passes for DALI's pixels, see `beam_curate/images/dali_decoding.py`."""


def dali_problem(device: str) -> str | None:
    """Says why DALI cannot be used on the device; None if it can."""
    try:
        require_dali(device)
    except ValueError as error:
        return str(error)
    try:
        DaliDecoder(DALI, device).close()
    except (
        ImportError,
        OSError,
        RuntimeError,
        MemoryError,
    ) as error:  # built for another CUDA or Python, or no memory left
        return f"{type(error).__name__}: {error}"
    return None


def host_speeds(size: str, images: int) -> Iterator[dict[str, Any]]:
    """Decodes photographs with each decoder on all cores; differences are to Pillow."""
    jpegs = list(itertools.islice(itertools.cycle(photo_jpegs(size)), images))
    threads = usable_cores()
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


def dali_speed(settings: Settings, size: str, images: int) -> Iterator[dict[str, Any]]:
    """Decodes photographs with DALI on the device; differences are to Pillow."""
    different = photo_jpegs(size)
    jpegs = list(itertools.islice(itertools.cycle(different), images))
    batches = [jpegs[at : at + _BATCH] for at in range(0, len(jpegs), _BATCH)]
    with closing(DaliDecoder(DALI, settings.device)) as dali:
        dali.decode(batches[0])
        start = time.perf_counter()
        results = [future.result() for future in [dali.submit(batch) for batch in batches]]
        seconds = time.perf_counter() - start
    by_dali = sum(result.by_dali for result in results)
    found = [picture for result in results for _, (picture,) in result.images][: len(different)]
    reference = [decode_image(data, DecodeOptions(decoder="pillow"))[1] for data in different[:images]]
    line = {"decoder": f"dali on {settings.device}", "size": size, "images_per_s": images / seconds, "by_dali": by_dali}
    line |= _differences(found, reference)
    yield {**line, "passed": by_dali == images and line["mean_levels"] <= _LEVELS}


def _differences(found: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> dict[str, float]:
    """The largest difference in levels of 255, and the mean one of the worst image."""
    largest, mean = 0, 0.0
    for left, right in zip(found, reference, strict=True):
        difference = np.abs(left.astype(np.int16) - right)
        largest, mean = max(largest, int(difference.max())), max(mean, float(difference.mean()))
    return {"max_levels": largest, "mean_levels": mean}


def bad_jpeg(settings: Settings) -> Iterator[dict[str, Any]]:
    """Times a batch with one bad JPEG beside a clean one: DALI refuses the whole batch, and its pipeline is built again.

    The bad one must be refused by DALI and by Pillow, and the others' pixels be those of the clean batch.
    """
    clean = photo_jpegs("S")[:_BATCH]
    place = _BATCH // 2
    mixed = [*clean[:place], spoilt(clean[place]), *clean[place + 1 :]]
    with closing(DaliDecoder(DALI, settings.device)) as dali:
        dali.decode(clean)
        expected, clean_s = _timed(lambda: dali.decode(clean))
        found, bad_s = _timed(lambda: dali.decode(mixed))
    refused = isinstance(found.images[place], ImageError) and found.by_dali == len(mixed) - 1
    pairs = [pair for number, pair in enumerate(zip(found.images, expected.images, strict=True)) if number != place]
    same = all(np.array_equal(left[1][0], right[1][0]) for left, right in pairs)
    yield {
        "decoder": f"dali on {settings.device}",
        "size": "S",
        "batch": len(clean),
        "clean_ms": 1000 * clean_s,
        "one_bad_ms": 1000 * bad_s,
        "by_dali": found.by_dali,
        "same_bits": same,
        "passed": refused and same,
    }


def spoilt(jpeg: bytes) -> bytes:
    """A JPEG whose scan names a Huffman table that does not exist: its header is good, and no decoder reads it."""
    scan = jpeg.rfind(b"\xff\xda")
    return jpeg[: scan + 6] + b"\x33" + jpeg[scan + 7 :]


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and the median time of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times)


def who_decodes(settings: Settings) -> Iterator[dict[str, Any]]:
    """Says whether nvJPEG decodes for DALI: what its decoder for the GPU cannot do, DALI does silently on the processor."""
    batch = photo_jpegs("S")[:_BATCH]
    with closing(DaliDecoder(DALI, settings.device)) as dali:
        dali.decode(batch)
        kernels = gpu_kernels(lambda: dali.decode(batch))
    nvjpeg = uses_nvjpeg(kernels) if settings.cuda else "no"
    yield {"decoder": f"dali on {settings.device}", "size": "S", "nvjpeg": nvjpeg, "kernels": kernels}


def gpu_kernels(call: Callable[[], Any]) -> list[str]:
    """The names of what runs on the GPU during a call, whichever thread or library of the process starts it.

    Empty where torch cannot know: CUPTI, which tells it, is not there or not allowed.
    """
    if ProfilerActivity.CUDA not in torch.profiler.supported_activities():
        return []
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as watched:
        call()
    return sorted({event.name for event in watched.events() if event.device_type == DeviceType.CUDA})


def uses_nvjpeg(kernels: Sequence[str]) -> str:
    """Whether nvJPEG's kernels are among what runs on the GPU, known by their C++ namespace: yes, no, or unknown.

    With an engine for JPEG too, as long as nvJPEG converts what that decodes to RGB in a kernel.
    """
    if not kernels:
        return "unknown"
    return "yes" if any("nvjpeg" in name.lower() for name in kernels) else "no"
