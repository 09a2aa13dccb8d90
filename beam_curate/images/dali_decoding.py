"""JPEGs in batches with NVIDIA DALI, for GPUs that decode them (nvJPEG); all other images, and what DALI refuses, with Pillow.

`DaliDecoder` keeps the contract of `decoding.decode_image`: one result for each image, in order, with the same facts, and the
same reason for what cannot be decoded. For that:

- The header decides what DALI gets: whole JPEGs of 8 bits, grey or YCbCr, of the usual chroma subsampling, not smaller than
  the model's image and of at most `MAX_CHUNK_PIXELS` (see `dali_plans`). nvJPEG decodes nothing else; other formats DALI
  decodes on the processor, as Pillow does, but with its own idea of alpha, palettes and 16 bits.
- DALI raises for a whole batch when one image is bad, and its pipeline is dead then. The pipeline is built again and the batch
  halved until the bad images are alone; for each of them Pillow has the last word. So an image's pixels never depend on
  its neighbours.
- DALI accepts JPEGs that end early. A JPEG without an end marker goes to Pillow, which says what is missing.

Pixels: DALI resizes exactly the region that the centre crop shows. It does not round and clip between the two passes of the
resize as Pillow does, and repeats the pixels at the image's edge where Pillow leaves them out. On the 169 JPEGs among 184
photographs the largest difference is 16 levels, at hard edges, the mean 0.12 (0.21 in the worst image); the features of an
EfficientNet-Lite0 trained on ImageNet have a cosine of at least 0.9992 (the decoder `fast`: 0.9993). Measured on the processor;
nvJPEG rounds otherwise, so every decoder checks itself on one image before its first batch.

Speed: on the processor DALI is slower than the decoder `fast`: more than 2 times at 640 x 480, 4.7 times at 12 megapixels
(measured). Use it there to try things out. On a GPU it takes the decoding off the processor.

Memory: DALI keeps the largest buffers that it ever needed: with chunks of `MAX_CHUNK_PIXELS` pixels 240 MB, 400 at the peak
(measured on the processor).
"""

import importlib.util
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, TypeAlias

import numpy as np
from PIL import Image

from beam_curate.cuda import device_count, problem, wait_for
from beam_curate.devices import device_failed, give_up_device, given_up_if_lost, out_of_memory
from beam_curate.images import exif
from beam_curate.images.dali_plans import MAX_BATCH, Plan, chunks, plan_image, region
from beam_curate.images.dali_tensors import stream_of_its_own, tensors
from beam_curate.images.decoding import DecodeOptions, ImageError, Pixels, decode_sizes
from beam_curate.images.resizing import Target
from beam_curate.records import ImageFacts
from beam_curate.threads import usable_cores

_SELF_TEST_LEVELS: Final = 2.0  # mean difference to Pillow on a smooth image: wrong colours or geometry give 10 or more

Pictures: TypeAlias = tuple[Pixels, ...]
"""An image for each model: those of its targets, in their order."""

Decoded: TypeAlias = "tuple[ImageFacts, Pictures] | ImageError"


@dataclass(frozen=True)
class DecodedBatch:
    """The results, one for each image in order, and how many of them DALI decoded."""

    images: list[Decoded]
    by_dali: int


def require_dali(device: str = "auto") -> None:
    """Checks, without importing DALI, that it is installed and that `device` is one of its devices.

    Raises:
        ValueError: It is not; the message names the remedy.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"dali_device is {device!r}: use auto, cpu, cuda or cuda:N")
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        raise ValueError(
            "decoder is 'dali', but NVIDIA DALI is not installed: pip install 'beam-curate[dali-cuda13]' (for CUDA 12: "
            "dali-cuda12), or use the decoder fast"
        )


class DaliDecoder:
    """Decodes batches of images.

    May be used from many threads: the batches are decoded one after another in a thread of its own. Not to be pickled.

    Args:
        options: Size, geometry and limits; their `decoder` is not looked at.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where there is one.
        threads: Threads of DALI and of Pillow; 0 takes one per processor core.
        targets: What the models want, all of it from one decoding; none means that of the options.
        as_tensors: Leave the pixels on the device, as torch's tensors; those that Pillow decodes are arrays all the same.

    Raises:
        ValueError: DALI is not installed, or `device` is none.
        RuntimeError: There is no such device, or DALI does not decode on it as it should.
    """

    def __init__(
        self,
        options: DecodeOptions,
        device: str = "auto",
        threads: int = 0,
        targets: Sequence[Target] = (),
        *,
        as_tensors: bool = False,
    ) -> None:
        require_dali(device)
        self._options = options
        self._targets = tuple(targets) or (options.target,)
        self._threads = threads or usable_cores()
        with given_up_if_lost():
            self._device = _device_id(device)
            self._stream = None if self._device is None else stream_of_its_own(self._device)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self._turn = ThreadPoolExecutor(1, thread_name_prefix="dali")
        self._as_tensors = as_tensors
        self._pipeline: Any = None
        self._turn.submit(self._self_test).result()

    def submit(self, batch: Sequence[bytes]) -> Future[DecodedBatch]:
        """Decodes a batch in the background."""
        return self._turn.submit(self._decode, batch)

    def decode(self, batch: Sequence[bytes]) -> DecodedBatch:
        """Decodes a batch of encoded images of any number and kind.

        Returns:
            For each image its facts and the pixels for each target, (S, S, 3) uint8 RGB, or the `ImageError` that says why
            there are none.
        """
        return self.submit(batch).result()

    def close(self) -> None:
        """Frees the threads and DALI's buffers."""
        self._turn.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)
        self._pipeline = None

    def _decode(self, batch: Sequence[bytes]) -> DecodedBatch:
        plans = list(self._pool.map(self._plan, batch))
        # Pillow's images are decoded while DALI decodes its own, DALI's failures after it.
        others = {i: self._pool.submit(self._alone, batch[i]) for i, plan in enumerate(plans) if plan is None}
        done: dict[int, Decoded] = {}
        for chunk in chunks(plans):
            for (index, plan), pictures in zip(chunk, self._run_or_halve(batch, chunk), strict=True):
                if pictures is None:
                    others[index] = self._pool.submit(self._alone, batch[index])
                else:
                    done[index] = plan.facts, pictures
        images = [done[i] if i in done else others[i].result() for i in range(len(batch))]
        return DecodedBatch(images, len(done))

    def _plan(self, data: bytes) -> Plan | None:
        return plan_image(data, self._options, self._targets)

    def _alone(self, data: bytes) -> Decoded:
        try:
            return decode_sizes(data, self._options, self._targets)
        except ImageError as error:
            return error

    def _run_or_halve(self, batch: Sequence[bytes], chunk: list[tuple[int, Plan]]) -> list[Pictures | None]:
        """Decodes a chunk with DALI; None for each image that it cannot decode."""
        try:
            return list(self._run([batch[index] for index, _ in chunk], [plan for _, plan in chunk]))
        except (
            RuntimeError,
            MemoryError,
        ) as error:  # the one for bad images and for errors of CUDA, the other when memory is short
            self._pipeline = None
            if device_failed(error):
                raise self._gives_up(error) from error  # no half of the batch would fare better
            if out_of_memory(error):
                import torch

                torch.cuda.empty_cache()  # what torch keeps for the model's next call; it does nothing on the processor
        if len(chunk) > 1:
            half = len(chunk) // 2
            return self._run_or_halve(batch, chunk[:half]) + self._run_or_halve(batch, chunk[half:])
        # Bad bytes, or a device that has failed? With the latter no image would ever be decoded by DALI again.
        self._self_test()
        return [None]

    def _run(self, batch: list[bytes], plans: list[Plan]) -> Iterator[Pictures]:
        if self._pipeline is None:
            self._pipeline = _build(self._targets, self._device, self._threads)
        self._pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8) for data in batch])
        for number, target in enumerate(self._targets):
            regions = [region(plan.facts, plan.orientation, target) for plan in plans]
            self._pipeline.feed_input(f"start{number}", [np.array(start, np.float32) for start, _ in regions])
            self._pipeline.feed_input(f"end{number}", [np.array(end, np.float32) for _, end in regions])
        # Without a stream DALI waits for the GPU itself, and by an event that keeps a core busy (dali/core/cuda_event_pool.h).
        resized = self._pipeline.run(self._stream)
        if self._as_tensors:
            yield from tensors(resized, plans, self._stream)
            return
        if self._stream is not None:
            wait_for(self._stream)
        arrays = [(each if self._device is None else each.as_cpu()).as_array() for each in resized]
        for pictures, plan in zip(zip(*arrays, strict=True), plans, strict=True):
            # A copy in any case: the next run overwrites DALI's buffer.
            yield tuple(np.array(exif.turn_upright(Image.fromarray(each), plan.orientation)) for each in pictures)

    @property
    def _where(self) -> str:
        return "the processor" if self._device is None else f"GPU {self._device}"

    def _gives_up(self, error: Exception) -> RuntimeError:
        """The error of a device that does not work; a worker process that has lost its GPU ends here."""
        give_up_device(error)
        return RuntimeError(
            f"NVIDIA DALI does not work on {self._where}: {error}; use `dali_device` cpu or `decoder` fast"
        )

    def _self_test(self) -> None:
        """Decodes one image with DALI and with Pillow."""
        size = max(target.size for target in self._targets)
        blue, red = np.meshgrid(np.linspace(16, 240, 2 * size), np.linspace(240, 16, size + size // 2))
        picture = Image.fromarray(np.stack([red, np.full_like(red, 96), blue], axis=2).astype(np.uint8))
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=95)
        options = DecodeOptions(decoder="pillow")
        plan = plan_image(buffer.getvalue(), options, self._targets)
        if plan is None:
            raise RuntimeError("the image of DALI's self-test cannot be decoded by DALI: this is a bug of beam_curate")
        _, references = decode_sizes(buffer.getvalue(), options, self._targets)
        try:
            (pictures,) = self._run([buffer.getvalue()], [plan])
        except (RuntimeError, MemoryError) as error:
            raise self._gives_up(error) from error
        if self._as_tensors:
            tensors: Any = pictures
            pictures = tuple(picture.cpu().numpy() for picture in tensors)
        pairs = zip(pictures, references, strict=True)
        difference = max(float(np.abs(pixels.astype(int) - reference).mean()) for pixels, reference in pairs)
        if difference > _SELF_TEST_LEVELS:
            raise RuntimeError(
                f"NVIDIA DALI decodes differently on {self._where} than Pillow: {difference:.1f} levels on average on a "
                f"smooth image, more than {_SELF_TEST_LEVELS:g}; use `dali_device` cpu or `decoder` fast"
            )


def _device_id(device: str) -> int | None:
    """Gives the number of the GPU, or None for the processor."""
    count = device_count()
    if device == "cpu" or (device == "auto" and not count):
        return None
    number = int(device.partition(":")[2] or 0)
    if number >= count:
        why = problem() or "there are no more"
        raise RuntimeError(f"dali_device is {device!r}, but CUDA sees {count} devices here: {why}; use cpu, or auto")
    return number


def _build(targets: Sequence[Target], device: int | None, threads: int) -> Any:
    from nvidia.dali import Pipeline, fn, types

    filters = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}
    pipeline = Pipeline(batch_size=MAX_BATCH, num_threads=threads, device_id=device, prefetch_queue_depth=1)
    with pipeline:
        decoded = fn.decoders.image(
            fn.external_source(name="encoded", dtype=types.UINT8, ndim=1),
            device="cpu" if device is None else "mixed",
            output_type=types.RGB,
            adjust_orientation=False,  # by DALI's own reading of EXIF; ours is applied to the result
            jpeg_fancy_upsampling=True,  # as libjpeg
            # All that the GPU's JPEG engine can decode, or none of it if it has none: a share would depend on the batch.
            hw_decoder_load=1.0,
        )
        resized = [
            fn.resize(
                decoded,
                size=[target.size, target.size],
                roi_start=fn.external_source(name=f"start{number}", dtype=types.FLOAT, ndim=1),
                roi_end=fn.external_source(name=f"end{number}", dtype=types.FLOAT, ndim=1),
                roi_relative=False,
                interp_type=filters[target.interpolation],
                antialias=True,
            )
            for number, target in enumerate(targets)
        ]
        pipeline.set_outputs(*resized)
    pipeline.build()
    return pipeline
