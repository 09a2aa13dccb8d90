"""DecodeImages: Sample in, DecodedImage out, one to one and in order; a bad image becomes a failed one."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_curate import reasons
from beam_curate.images import DecodeOptions, ImageError, decode_image
from beam_curate.records import DecodedImage, Failure, Sample

# How far decoding may run ahead of the model: two batches of 32, unless the images are very large.
_AHEAD_SAMPLES = 64
_AHEAD_BYTES = 256 << 20


def decode_sample(sample: Sample, options: DecodeOptions) -> DecodedImage:
    """Decodes one sample; never raises on bad data."""
    if sample.failure is not None:
        return DecodedImage(sample.ref, failure=sample.failure)
    try:
        facts, pixels = decode_image(sample.data, options)
    except ImageError as error:
        return DecodedImage(sample.ref, error.facts, failure=Failure(reasons.DECODE, error.reason, error.message))
    return DecodedImage(sample.ref, facts, pixels.tobytes())


@dataclass(eq=False)
class DecodeImages(beam.PTransform):
    """Decodes, orients, resizes and crops images to what the model sees.

    In: PCollection[Sample]. Out: PCollection[DecodedImage] with (S, S, 3) uint8 RGB pixels, S the options' size. Each
    sample comes out once, in the order in which it came in, failed ones included.

    Attributes:
        options: Size, geometry and decoder, see `DecodeOptions`.
        threads: Decoding threads of a worker process; 0 takes one per processor core. The decoders release the GIL, and
            decoding runs ahead of the model in the background.

    Raises:
        ValueError: At construction, on a negative number of threads.
    """

    options: DecodeOptions = field(default_factory=DecodeOptions)
    threads: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; give 0 for one per processor core, or a number of threads")

    def expand(self, samples: beam.PCollection[Sample]) -> beam.PCollection[DecodedImage]:
        """Wires the decoding DoFn."""
        return samples | beam.ParDo(_Decode(self.options, self.threads)).with_output_types(DecodedImage)


class _Decode(beam.DoFn):
    """Keeps a window of samples decoding in a thread pool and emits them in order."""

    def __init__(self, options: DecodeOptions, threads: int) -> None:
        self._options = options
        self._threads = threads
        self._images = Metrics.counter("beam_curate.decode", "images")
        self._failures = Metrics.counter("beam_curate.decode", "failures")
        self._pixels = Metrics.distribution("beam_curate.decode", "original_pixels")

    def setup(self) -> None:
        self._pool = ThreadPoolExecutor(self._threads or os.cpu_count() or 1, thread_name_prefix="decode")

    def teardown(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def start_bundle(self) -> None:
        self._ahead: deque[tuple[int, Future[DecodedImage]]] = deque()
        self._ahead_bytes = 0

    def process(self, sample: Sample) -> Iterator[DecodedImage]:
        self._ahead.append((len(sample.data), self._pool.submit(decode_sample, sample, self._options)))
        self._ahead_bytes += len(sample.data)
        while len(self._ahead) > _AHEAD_SAMPLES or self._ahead_bytes > _AHEAD_BYTES:
            yield self._take()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._ahead:
            yield GlobalWindows.windowed_value(self._take())

    def _take(self) -> DecodedImage:
        size, future = self._ahead.popleft()
        self._ahead_bytes -= size
        image = future.result()
        if image.failure is None and image.facts is not None:
            self._images.inc()
            self._pixels.update(image.facts.width * image.facts.height)
        elif image.failure is not None and image.failure.step == reasons.DECODE:
            self._failures.inc()
        return image
