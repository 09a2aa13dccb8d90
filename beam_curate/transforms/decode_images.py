"""DecodeImages: Sample in, DecodedImage out, one to one and in order; a bad image becomes a failed one."""

import functools
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from beam_curate import reasons
from beam_curate.images.dali_decoding import DaliDecoder, Decoded, DecodedBatch, require_dali
from beam_curate.images.dali_plans import MAX_BATCH
from beam_curate.images.decoding import DALI, DecodeOptions, ImageError, decode_sizes
from beam_curate.images.resizing import Target
from beam_curate.records import DecodedImage, Failure, Sample
from beam_curate.scores.screening import Screening
from beam_curate.threads import usable_cores

LEAST_AHEAD: Final = 64
"""How many images are decoded ahead of the model at least: two batches of 32."""
# Unless the images are very large.
_AHEAD_BYTES: Final = 256 << 20

# What DALI is given at once: half of what may be ahead, in runs of at most MAX_BATCH, unless the files are large.
_BATCH_BYTES: Final = 64 << 20


def ahead_of(batch_size: int) -> int:
    """How far decoding should run ahead of a model that takes this many images at once.

    Images are decoded while the model works only if they were handed to the decoder before its batch was: with fewer than a
    batch ahead, the rest of the next batch is decoded while the model waits. The second batch is for images that differ in size.
    """
    return max(LEAST_AHEAD, 2 * batch_size)


@dataclass(frozen=True)
class _Views:
    """What is made of each image: for whom it is decoded, and what is looked at."""

    options: DecodeOptions
    screening: Screening
    second: Mapping[str, Target]

    @functools.cached_property
    def _others(self) -> dict[str, Target]:
        """The second models that see other pixels than the first."""
        return {name: target for name, target in self.second.items() if target != self.options.target}

    @functools.cached_property
    def _prepared(self) -> str:
        return str(self.options.target)

    @functools.cached_property
    def _other_prepared(self) -> dict[str, str]:
        return {name: str(target) for name, target in self._others.items()}

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is wanted, each once; first what the model wants."""
        return tuple(dict.fromkeys([self.options.target, *self.second.values()]))

    def decode(self, sample: Sample) -> DecodedImage:
        """Decodes one sample and looks at it; never raises on bad data."""
        if sample.failure is not None:
            return DecodedImage(sample.ref, failure=sample.failure)
        try:
            return self.made(sample, decode_sizes(sample.data, self.options, self.targets))
        except ImageError as error:
            return self.made(sample, error)

    def made(self, sample: Sample, result: Decoded) -> DecodedImage:
        """What a sample becomes with what came of its image."""
        if isinstance(result, ImageError):
            return not_decoded(sample, result)
        facts, pictures = result
        scores, rejection = self.screening.look(sample.ref, facts, pictures[0])
        if rejection is not None:
            return DecodedImage(sample.ref, facts, failure=rejection, scores=scores)
        pixels = dict(zip(self.targets, (picture.tobytes() for picture in pictures), strict=True))
        others = {name: pixels[target] for name, target in self._others.items()}
        return DecodedImage(
            sample.ref,
            facts,
            pixels[self.options.target],
            scores=scores,
            other_pixels=others,
            prepared=self._prepared,
            other_prepared=self._other_prepared,
        )


def not_decoded(sample: Sample, error: ImageError) -> DecodedImage:
    """What a sample becomes whose image cannot be decoded."""
    return DecodedImage(sample.ref, error.facts, failure=Failure(reasons.DECODE, error.reason, error.message))


def decode_sample(
    sample: Sample,
    options: DecodeOptions,
    screening: Screening | None = None,
    second: Mapping[str, Target] | None = None,
) -> DecodedImage:
    """Decodes one sample and looks at it, see `DecodeImages`; never raises on bad data."""
    return _Views(options, screening or Screening(), second or {}).decode(sample)


@dataclass(eq=False)
class DecodeImages(beam.PTransform):
    """Decodes, orients, resizes and crops images to what the model sees.

    In: PCollection[Sample]. Out: PCollection[DecodedImage] with (S, S, 3) uint8 RGB pixels, S the options' size. Each
    sample comes out once, in the order in which it came in, failed ones included, in its own window and with its own timestamp.
    In several windows (sliding ones) it is decoded for each: where an element is in several, Beam multiplies the windows of what
    a DoFn gives with windows of its own.

    Attributes:
        options: Size, geometry and decoder, see `DecodeOptions`. Those of a model are what `ClipModelHandler.decode_options()`
            gives; a model refuses pixels that were prepared in another way.
        threads: Decoding threads of a worker process; 0 takes one per processor core. The decoders release the GIL, and
            decoding runs ahead of the model in the background.
        dali_device: Where the decoder `dali` decodes: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where there is one.
        screening: Quality scores to compute, and rules that reject a sample here, so that the model does not see it.
        second: What second models want, by the name of their embedding (`ClipModelHandler.embedding_name`). An image is decoded
            once for all models; those that want the same share the pixels.
        ahead: How many images may be decoded before the model asks for them: see `ahead_of`. They are held in memory, by each
            thread of a worker process.

    Raises:
        ValueError: At construction, on a negative number of threads, where nothing may be ahead, and where the decoder is
            `dali`, but DALI is not installed or `dali_device` is none.
        RuntimeError: At run time, where DALI does not work on the device.
    """

    options: DecodeOptions = field(default_factory=DecodeOptions)
    threads: int = 0
    dali_device: str = "auto"
    screening: Screening = field(default_factory=Screening)
    second: Mapping[str, Target] = field(default_factory=dict)
    ahead: int = LEAST_AHEAD

    def __post_init__(self) -> None:
        super().__init__()
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; give 0 for one per processor core, or a number of threads")
        if self.ahead < 1:
            raise ValueError(f"ahead is {self.ahead}; give at least 1, better twice the batch of the model")
        if self.options.decoder == DALI:
            require_dali(self.dali_device)

    def expand(self, samples: beam.PCollection[Sample]) -> beam.PCollection[DecodedImage]:
        """Wires the decoding DoFn."""
        views = _Views(self.options, self.screening, dict(self.second))
        if self.options.decoder == DALI:
            decode: beam.DoFn = _DecodeDali(views, self.threads, self.ahead, self.dali_device)
        else:
            decode = _Decode(views, self.threads, self.ahead)
        return samples | beam.ParDo(decode).with_output_types(DecodedImage)


class DecodeCounters:
    """Counts what comes out of decoding."""

    def __init__(self) -> None:
        self._images = Metrics.counter("beam_curate.decode", "images")
        self._failures = Metrics.counter("beam_curate.decode", "failures")
        self._screened = Metrics.counter("beam_curate.decode", "screened")
        self._pixels = Metrics.distribution("beam_curate.decode", "original_pixels")
        self.by_dali = Metrics.counter("beam_curate.decode", "by_dali")

    def count(self, image: DecodedImage) -> DecodedImage:
        """Counts an image, and gives it back."""
        if image.failure is None and image.facts is not None:
            self._images.inc()
            self._pixels.update(image.facts.width * image.facts.height)
        elif image.failure is not None and image.failure.step == reasons.DECODE:
            self._failures.inc()
        elif image.failure is not None and image.failure.step == reasons.SCREEN:
            self._screened.inc()
        return image


class _Decode(beam.DoFn):
    """Keeps a window of samples decoding in a thread pool and emits them in order."""

    def __init__(self, views: _Views, threads: int, ahead: int) -> None:
        self._counters = DecodeCounters()
        self._views = views
        self._threads = threads
        self._most = ahead

    def setup(self) -> None:
        self._pool = ThreadPoolExecutor(self._threads or usable_cores(), thread_name_prefix="decode")

    def teardown(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def start_bundle(self) -> None:
        self._ahead: deque[tuple[WindowedValue, int, Future[DecodedImage]]] = deque()
        self._ahead_bytes = 0

    def process(
        self,
        sample: Sample,
        whole: WindowedValue = beam.DoFn.WindowedValueParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[WindowedValue]:
        del window  # asked for, so that `whole` is in one: see DecodeImages
        future = self._pool.submit(self._views.decode, sample)
        self._ahead.append((whole.with_value(None), len(sample.data), future))
        self._ahead_bytes += len(sample.data)
        while len(self._ahead) > self._most or self._ahead_bytes > _AHEAD_BYTES:
            yield self._take()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._ahead:
            yield self._take()

    def _take(self) -> WindowedValue:
        place, size, future = self._ahead.popleft()
        self._ahead_bytes -= size
        return place.with_value(self._counters.count(future.result()))


class _DecodeDali(beam.DoFn):
    """Collects batches of samples, decodes them in the background, and emits them in order."""

    def __init__(self, views: _Views, threads: int, ahead: int, device: str) -> None:
        self._counters = DecodeCounters()
        self._views = views
        self._threads = threads
        self._size = max(1, min(MAX_BATCH, ahead // 2))
        self._most = max(1, ahead // self._size)
        self._device = device
        self._shared = Shared()

    def setup(self) -> None:
        # One for the process, like the model: a runner makes a DoFn for each of its threads, and a GPU has no room for so many.
        self._decoder = self._shared.acquire(
            lambda: DaliDecoder(self._views.options, self._device, self._threads, self._views.targets)
        )

    def start_bundle(self) -> None:
        self._batch: list[WindowedValue] = []
        self._batch_bytes = 0
        self._ahead: deque[tuple[list[WindowedValue], Future[DecodedBatch]]] = deque()

    def process(
        self,
        sample: Sample,
        whole: WindowedValue = beam.DoFn.WindowedValueParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[WindowedValue]:
        del window
        self._batch.append(whole)
        self._batch_bytes += len(sample.data)
        if len(self._batch) >= self._size or self._batch_bytes >= _BATCH_BYTES:
            self._submit()
        while len(self._ahead) > self._most:
            yield from self._take()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._submit()
        while self._ahead:
            yield from self._take()

    def _submit(self) -> None:
        samples = (whole.value for whole in self._batch)
        future = self._decoder.submit([sample.data for sample in samples if sample.failure is None])
        self._ahead.append((self._batch, future))
        self._batch, self._batch_bytes = [], 0

    def _take(self) -> Iterator[WindowedValue]:
        batch, future = self._ahead.popleft()
        decoded = future.result()
        self._counters.by_dali.inc(decoded.by_dali)
        results = iter(decoded.images)
        for whole in batch:
            sample: Sample = whole.value
            if sample.failure is None:
                yield whole.with_value(self._counters.count(self._views.made(sample, next(results))))
            else:
                yield whole.with_value(DecodedImage(sample.ref, failure=sample.failure))
