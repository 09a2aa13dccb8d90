"""DALI and the model on one device: what comes out is what the two transforms give behind each other."""

import contextlib
import importlib.util

import apache_beam as beam
import numpy as np
import pytest
import torch
from apache_beam.metrics import MetricsFilter
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.test_pipeline import TestPipeline as RealPipeline
from PIL import Image

from beam_curate.clip.handler import ClipModelHandler
from beam_curate.clip.visual_tower import VisualTower
from beam_curate.images import dali_tensors, exif
from beam_curate.images.dali_decoding import DaliDecoder
from beam_curate.images.dali_plans import Plan
from beam_curate.images.dali_tensors import upright_tensor
from beam_curate.images.options import DecodeOptions
from beam_curate.reasons import READ
from beam_curate.records import EmbeddedSample, Failure, ImageFacts, Sample, SampleRef
from beam_curate.transforms.decode_images import DecodeImages
from beam_curate.transforms.embed_encoded import EmbedEncoded, _DecodingHandler
from tests.conftest import encoded, photo
from tests.support.fake_gpu import Operations, made_up_events

INSTALLED = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
needs_dali = pytest.mark.skipif(
    not INSTALLED, reason="NVIDIA DALI is not installed (the extras dali-cuda12, dali-cuda13)"
)
MODEL = "ViT-S-32-alt"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tensor_is_turned_as_an_image_is(orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    want = np.asarray(exif.turn_upright(Image.fromarray(pixels), orientation))
    found = upright_tensor(torch.from_numpy(pixels), orientation)
    assert found.is_contiguous()
    assert np.array_equal(found.numpy(), want)


def turned(image, number):
    tags = Image.Exif()
    tags[0x0112] = number
    return encoded(image, exif=tags)


def samples():
    """JPEGs for DALI, some turned, one broken in its scan; a PNG and a GIF for Pillow; what is no image or was not read."""
    spoilt = encoded(photo(7, 300, 240))
    scan = spoilt.rfind(b"\xff\xda")
    files = [
        encoded(photo(1, 300, 240)), encoded(photo(2, 300, 240), "PNG"), turned(photo(3, 300, 240), 6), b"no image",
        spoilt[: scan + 6] + b"\x33" + spoilt[scan + 7 :], encoded(photo(4, 300, 240), "GIF"), turned(photo(5, 240, 300), 5),
        encoded(photo(6, 300, 240))[:-200],
    ]  # fmt: skip
    found = [Sample(SampleRef(0, "a.tar", number, f"k{number}", []), data) for number, data in enumerate(files)]
    return [*found, Sample(SampleRef(0, "a.tar", 8, "k8", []), b"", Failure(READ, "damaged_tar", "a hole"))]


def counters(pipeline):
    found = pipeline.result.metrics().query(MetricsFilter())["counters"]
    wanted = ("beam_curate.decode", "beam_curate.infer")
    return {
        (each.key.metric.namespace, each.key.metric.name): each.committed
        for each in found
        if each.key.metric.namespace in wanted and not each.key.metric.name.startswith("num_")
    }


OUT = []


def record(row):
    OUT.append(row)


@needs_dali
def test_it_gives_what_decoding_and_embedding_give():
    model = ClipModelHandler(MODEL, "random", device="cpu", precision="fp32", batch_size=4)
    options = model.decode_options(decoder="dali")
    outs, counted = [], []

    def apart(given):
        decoded = given | DecodeImages(options, 1, "cpu")
        return decoded | RunInference(model).with_output_types(EmbeddedSample)

    for step in (apart, lambda given: given | EmbedEncoded(model, options, "cpu", 1)):
        with RealPipeline(runner="FnApiRunner") as pipeline:
            _ = step(pipeline | beam.Create(samples(), reshuffle=False)) | beam.Map(record)
        outs.append(list(OUT))
        OUT.clear()
        counted.append(counters(pipeline))
    separate, together = outs
    assert [row.failure and row.failure.reason for row in together] == [
        row.failure and row.failure.reason for row in separate
    ]
    assert together == separate
    assert sum(row.failure is None for row in together) == 5
    assert counted[0] == counted[1]
    assert counted[1]["beam_curate.decode", "by_dali"] == 3


@needs_dali
def test_out_of_memory_in_the_model_loses_neither_dalis_images_nor_pillows(monkeypatch):
    model = ClipModelHandler(MODEL, "random", device="cpu", precision="fp32", batch_size=8)
    step = _DecodingHandler(model, model.decode_options(), "cpu", 1)
    both = step.load_model()
    expected = step.run_inference(samples(), both)
    embed, sizes, kinds = VisualTower.embed, [], set()

    def short_of_memory(tower, images, places=0):
        sizes.append(places)
        if places > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        kinds.update(type(image) for image in images)
        return embed(tower, images, places)

    monkeypatch.setattr(VisualTower, "embed", short_of_memory)
    found = step.run_inference(samples(), both)
    both.decoder.close()
    assert sizes[:3] == [8, 4, 2]
    assert kinds == {torch.Tensor, np.ndarray}
    assert [row.failure for row in found] == [row.failure for row in expected]
    for one, other in zip(found, expected, strict=True):
        vectors = [np.frombuffer(row.embedding, "<f2").astype(np.float32) for row in (one, other)]
        assert np.allclose(*vectors, atol=1e-3)


@needs_dali
def test_tensors_have_memory_of_their_own():
    decoder = DaliDecoder(DecodeOptions(size=32), "cpu", 1, as_tensors=True)
    try:
        (first,) = decoder.decode([encoded(photo(1, 90, 70))]).images
        before = first[1][0].clone()
        decoder.decode([encoded(photo(2, 90, 70))] * 3)
        assert isinstance(first[1][0], torch.Tensor)
        assert torch.equal(first[1][0], before)
    finally:
        decoder.close()


@needs_dali
def test_options_of_another_model_are_refused():
    model = ClipModelHandler(MODEL, "random", device="cpu", batch_size=2)
    step = EmbedEncoded(model, DecodeOptions(size=32), "cpu", 1)
    with (
        pytest.raises(ValueError, match="options prepare images with size=32"),
        RealPipeline("FnApiRunner") as pipeline,
    ):
        _ = pipeline | beam.Create(samples()[:1], reshuffle=False) | step


@needs_dali
@pytest.mark.parametrize("options", [{"model_copies": 2}, {"large_model": True}, {"embedding_name": "second"}])
def test_a_model_that_is_not_alone_in_the_process_is_refused(options):
    model = ClipModelHandler(MODEL, "random", device="cpu", batch_size=2, **options)
    with pytest.raises(ValueError, match="EmbedEncoded is for one model in its own process"):
        EmbedEncoded(model, DecodeOptions(size=32), "cpu", 1)


class Resized:
    """What DALI gives for two images."""

    def as_tensor(self):
        return torch.arange(24, dtype=torch.uint8).reshape(2, 2, 2, 3)


@pytest.fixture
def steps(monkeypatch):
    """What torch is asked to do, in order; `Stream` stands for one of its streams."""
    steps = Operations()

    class Stream:
        pass

    class Waits(list):
        def append(self, waited):
            steps.names.append(f"wait {waited[0]}")

    made_up_events(monkeypatch, Waits())

    @contextlib.contextmanager
    def within(stream):
        steps.names.append(f"in {type(stream).__name__}")
        try:
            yield
        finally:
            steps.names.append("out")

    monkeypatch.setattr(torch.cuda, "stream", within)
    steps.Stream = Stream
    return steps


def test_memory_that_runs_out_in_between_does_not_leave_a_copy_that_reads_what_dali_frees(steps):
    class Full(Resized):
        def as_tensor(self):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with steps, pytest.raises(torch.cuda.OutOfMemoryError):
        dali_tensors.tensors([Resized(), Full()], [], steps.Stream())
    assert [name for name in steps.names if name != "aten.arange.default"][-3:] == [
        "aten.clone.default",
        "wait sleeping",
        "out",
    ]


@needs_dali
@pytest.mark.parametrize("error", [MemoryError("std::bad_alloc"), torch.cuda.OutOfMemoryError("CUDA out of memory")])
def test_dali_gets_the_memory_that_torch_keeps_and_smaller_batches(monkeypatch, error):
    """A stand-in for a GPU without room for more than two images at a time; what Pillow decodes is not touched."""
    files = [sample.data for sample in samples() if sample.failure is None]
    decoder = DaliDecoder(DecodeOptions(size=32), "cpu", 1, as_tensors=True)
    whole = decoder.decode(files)
    run, given_back, sizes = decoder._run, [], []

    def short_of_memory(batch, plans):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise error
        return run(batch, plans)

    monkeypatch.setattr(decoder, "_run", short_of_memory)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(1))
    try:
        found = decoder.decode(files)
    finally:
        decoder.close()
    assert max(sizes) > 2
    assert len(given_back) == sum(size > 2 for size in sizes)
    assert found.by_dali == whole.by_dali == 3
    assert [type(each) for each in found.images] == [type(each) for each in whole.images]
    for one, other in zip(found.images, whole.images, strict=True):
        if isinstance(one, tuple):
            assert one[0] == other[0]
            assert torch.equal(torch.as_tensor(one[1][0]), torch.as_tensor(other[1][0]))


def test_what_dali_decoded_is_copied_in_a_stream_that_the_model_does_not_use(steps):
    """The order that keeps DALI's next run from writing over it, and from waiting for the model; on the processor."""
    facts = ImageFacts(2, 2, "JPEG", "00", 9)
    with steps:
        (plain,), (turned,) = dali_tensors.tensors([Resized()], [Plan(facts, 1), Plan(facts, 3)], steps.Stream())
    names = [name.removeprefix("aten.").removesuffix(".default") for name in steps.names]
    names = [name for name in names if name in ("in Stream", "clone", "flip", "wait sleeping", "out")]
    assert names == ["in Stream", "clone", "flip", "wait sleeping", "out"]
    assert plain.flatten().tolist() == list(range(12))
    assert turned.flatten().tolist() == [21, 22, 23, 18, 19, 20, 15, 16, 17, 12, 13, 14]
