"""How far DecodeImages runs ahead of the model."""

import threading
from typing import ClassVar

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import GlobalWindows, SlidingWindows, TimestampedValue

from beam_curate import DecodeImages, DecodeOptions
from beam_curate.images.decoding import DALI
from beam_curate.records import Sample, SampleRef
from beam_curate.transforms import decode_images
from beam_curate.transforms.decode_images import ahead_of
from tests.conftest import encoded, photo

BATCH = 100
SAMPLES = 5 * BATCH


class Decoded:
    """Counts decoded images, and lets somebody wait for a number of them."""

    def __init__(self):
        self.count = 0
        self.changed = threading.Condition()

    def one_more(self, number=1):
        with self.changed:
            self.count += number
            self.changed.notify_all()

    def reaches(self, number):
        with self.changed:
            return self.changed.wait_for(lambda: self.count >= number, timeout=30)


class Model(beam.DoFn):
    """Works on a batch until all images of the next one are decoded, as a slow model would."""

    decoded = Decoded()
    waited: ClassVar[list] = []
    seen: ClassVar[list] = []

    def start_bundle(self):
        self.batch = 0

    def process(self, image):
        self.batch += 1
        if self.batch % BATCH == 0:
            self.waited.append(self.decoded.reaches(min(SAMPLES, self.batch + BATCH)))
        self.seen.append(image.ref.index)


@pytest.mark.parametrize("decoder", ["fast", DALI])
def test_the_next_batch_is_decoded_while_the_model_works(decoder, monkeypatch):
    if decoder == DALI:
        pytest.importorskip("nvidia.dali")
    Model.decoded, Model.waited, Model.seen = Decoded(), [], []
    made = decode_images._Views.made

    def counting(views, sample, result):
        Model.decoded.one_more()
        return made(views, sample, result)

    submit = decode_images.DaliDecoder.submit

    def submitting(dali, images):
        future = submit(dali, images)
        future.add_done_callback(lambda _: Model.decoded.one_more(len(images)))
        return future

    if decoder == DALI:
        monkeypatch.setattr(decode_images.DaliDecoder, "submit", submitting)
    else:
        monkeypatch.setattr(decode_images._Views, "made", counting)
    data = encoded(photo(1, 40, 40), "JPEG")
    samples = [Sample(SampleRef(0, "a.tar", number, f"k{number}", []), data) for number in range(SAMPLES)]
    with beam.Pipeline(runner="FnApiRunner") as root:
        (
            root
            | beam.Create(samples, reshuffle=False)
            | DecodeImages(DecodeOptions(size=32, decoder=decoder), 2, "cpu", ahead=ahead_of(BATCH))
            | beam.ParDo(Model())
        )
    assert Model.seen == list(range(SAMPLES))
    assert Model.waited == [True] * (SAMPLES // BATCH)


def test_how_far():
    assert [ahead_of(batch) for batch in (1, 32, 33, 256)] == [64, 64, 66, 512]
    with pytest.raises(ValueError, match="ahead is 0; give at least 1"):
        DecodeImages(ahead=0)


@pytest.mark.parametrize("held", [5, 3])
def test_what_is_ahead_is_bounded_by_number_and_by_bytes(held, monkeypatch):
    data = encoded(photo(1))
    if held < 5:
        monkeypatch.setattr(decode_images, "_AHEAD_BYTES", held * len(data))
    decode = decode_images._Decode(decode_images._Views(DecodeOptions(size=32), decode_images.Screening(), {}), 1, 5)
    decode.setup()
    decode.start_bundle()
    given = 0
    for number in range(20):
        sample = Sample(SampleRef(0, "a.tar", number, str(number)), data)
        given += len(list(decode.process(sample, GlobalWindows.windowed_value(sample))))
        assert number + 1 - given == min(number + 1, held)
    assert len(list(decode.finish_bundle())) == held
    decode.teardown()


class InWindows(beam.DoFn):
    """Gives what it finds of each element: the key, whether it failed, window and timestamp."""

    def process(self, image, window=beam.DoFn.WindowParam, timestamp=beam.DoFn.TimestampParam):
        span = (window.start.micros // 1_000_000, window.end.micros // 1_000_000)
        yield image.ref.key, image.failure is not None, span, timestamp.micros // 1_000_000


@pytest.mark.parametrize("decoder", ["fast", DALI])
@pytest.mark.parametrize("ahead", [1, 64])
def test_windows_and_timestamps_stay(decoder, ahead):
    if decoder == DALI:
        pytest.importorskip("nvidia.dali")
    data = [b"no image" if number == 2 else encoded(photo(number), "JPEG") for number in range(6)]
    samples = [Sample(SampleRef(0, "a.tar", number, f"k{number}", []), data[number]) for number in range(6)]

    def spans(number):
        time = 10 * number + 1
        return [(start, start + 40) for start in range(-40, 60, 20) if start <= time < start + 40]

    wanted = [(f"k{n}", n == 2, span, 10 * n + 1) for n in range(6) for span in spans(n)]
    with TestPipeline(runner="FnApiRunner") as pipeline:
        images = (
            pipeline
            | beam.Create(samples, reshuffle=False)
            | beam.Map(lambda sample: TimestampedValue(sample, 10 * sample.ref.index + 1))
            | beam.WindowInto(SlidingWindows(40, 20))
            | DecodeImages(DecodeOptions(decoder=decoder), ahead=ahead)
        )
        assert images.windowing.windowfn == SlidingWindows(40, 20)
        found = images | beam.ParDo(InWindows()) | "Together" >> beam.WindowInto(GlobalWindows())
        assert_that(found, equal_to(wanted))
    counted = pipeline.result.metrics().query(beam.metrics.MetricsFilter().with_namespace("beam_curate.decode"))
    counters = {counter.key.metric.name: counter.committed for counter in counted["counters"]}
    assert (counters["images"], counters["failures"]) == (2 * 5, 2 * 1)  # each in two windows
