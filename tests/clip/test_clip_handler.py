import dataclasses
import json
import pickle
from typing import ClassVar

import apache_beam as beam
import numpy as np
import open_clip
import pytest
import torch
from apache_beam.metrics import MetricsFilter
from apache_beam.ml.inference.base import KeyedModelHandler, MaybeKeyedModelHandler, RunInference
from apache_beam.testing.test_pipeline import TestPipeline as RealPipeline
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_curate.clip.handler import NAMESPACE, ClipModelHandler
from beam_curate.clip.model_description import describe_model
from beam_curate.images.options import DecodeOptions
from beam_curate.images.resizing import Target
from beam_curate.reasons import DECODE, INFER, INFERENCE_ERROR, NON_FINITE_EMBEDDING, TRUNCATED_IMAGE
from beam_curate.records import DecodedImage, EmbeddedSample, Failure, ImageFacts, Sample, SampleRef
from beam_curate.transforms.decode_images import decode_sample
from tests.conftest import encoded, photo

SIZE = 32
PREPARED = str(Target(SIZE))
REF = SampleRef(0, "a.tar", 0, "k", [])
BROKEN = Failure(DECODE, TRUNCATED_IMAGE, "cut short")


@pytest.fixture(autouse=True, scope="module")
def _tiny_model(tmp_path_factory):
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 10, "width": 32, "heads": 1, "layers": 1},
    }
    folder = tmp_path_factory.mktemp("configs")
    (folder / "tiny-handled.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def handler(batch_size=4, **options):
    return ClipModelHandler("tiny-handled", "random", batch_size=batch_size, **{"device": "cpu", **options})


def image(number):
    """A sample whose first pixel byte is its number; multiples of a hundred failed to decode."""
    ref = SampleRef(0, "a.tar", number, f"k{number}", [])
    if number % 100 == 0:
        return DecodedImage(ref, failure=BROKEN)
    pixels = np.random.default_rng(number).integers(0, 256, SIZE * SIZE * 3, dtype=np.uint8)
    pixels[0] = number % 256
    return DecodedImage(ref, ImageFacts(SIZE, SIZE, "JPEG", "00", 9), pixels.tobytes(), prepared=PREPARED)


class Stub:
    """A model whose embedding is the image's first bytes, and which fails as it is told to."""

    def __init__(self, bad=(), nan=(), largest=10**9, broken=False):
        self.bad, self.nan, self.largest, self.broken = set(bad), set(nan), largest, broken
        self.calls, self.places = [], []

    def describe(self):
        return describe_model("tiny-handled", "random")

    def one(self):
        return self

    def recover(self, error):
        return False

    def embed(self, images, places):
        first = np.array([image[0] for image in images], np.uint8)
        self.calls.append(first.tolist())
        self.places.append(places)
        if places > self.largest:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        if self.broken or self.bad & set(first.tolist()):
            raise RuntimeError(f"cannot see {sorted(self.bad & set(first.tolist()))}")
        rows = np.repeat(first[:, None], 3, axis=1).astype(np.float16)
        rows[np.isin(first, list(self.nan)), 1] = np.nan
        return rows


def values(out):
    return [np.frombuffer(sample.embedding, "<f2").tolist()[:1] for sample in out]


def test_failed_samples_pass_through_in_order_and_take_no_slot():
    model = Stub()
    batch = [image(n) for n in (100, 1, 2, 200, 3, 4, 300)]
    out = handler().run_inference(batch, model)
    assert model.calls == [[1, 2, 3, 4]]
    assert [sample.ref for sample in out] == [sample.ref for sample in batch]
    assert [sample.failure for sample in out] == [BROKEN, None, None, BROKEN, None, None, BROKEN]
    assert values(out) == [[], [1.0], [2.0], [], [3.0], [4.0], []]
    assert out[1] == EmbeddedSample(batch[1].ref, batch[1].facts, np.full(3, 1, "<f2").tobytes())
    assert handler().run_inference([image(100)], None) == [EmbeddedSample(image(100).ref, failure=BROKEN)]
    assert handler().run_inference([], None) == []


def test_every_call_has_the_batch_shape():
    model = Stub()
    assert values(handler().run_inference([image(n) for n in range(1, 7)], model)) == [[float(n)] for n in range(1, 7)]
    assert model.calls == [[1, 2, 3, 4], [5, 6]]
    assert model.places == [4, 4]


def test_a_failing_batch_is_bisected_to_the_bad_sample():
    model = Stub(bad={3})
    out = handler(8).run_inference([image(n) for n in range(1, 9)], model)
    assert set(model.places) == {8}
    assert values(out) == [[1.0], [2.0], [], [4.0], [5.0], [6.0], [7.0], [8.0]]
    assert out[2].failure == Failure(INFER, INFERENCE_ERROR, "RuntimeError: cannot see [3]")
    assert out[2].facts is not None
    assert out[2].embedding == b""


@pytest.mark.parametrize("bad", [{1}, {8}, {1, 8}, {2, 3, 5}, set(range(1, 9))])
def test_any_bad_samples_are_found(bad):
    out = handler(8).run_inference([image(n) for n in range(1, 9)], Stub(bad=bad))
    assert {n for n, sample in enumerate(out, 1) if sample.failure} == bad


def test_a_broken_model_is_no_sample_failure():
    with pytest.raises(RuntimeError, match="cannot see"):
        handler().run_inference([image(1), image(2)], Stub(broken=True))


def test_bugs_are_not_caught():
    class Buggy(Stub):
        def embed(self, images, places):
            raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        handler().run_inference([image(1)], Buggy())


def test_rows_that_are_not_finite_fail():
    out = handler().run_inference([image(1), image(2)], Stub(nan={2}))
    assert out[1].failure == Failure(INFER, NON_FINITE_EMBEDDING, "1 of 3 values are not finite")
    assert values(out) == [[1.0], []]


def test_out_of_memory_halves_the_shape_and_is_remembered(caplog):
    model, used = Stub(largest=3), handler(8)
    samples = [image(n) for n in range(1, 9)]
    assert values(used.run_inference(samples, model)) == [[float(n)] for n in range(1, 9)]
    assert model.places == [8, 4, 2, 2, 2, 2]
    model.places.clear()
    used.run_inference(samples, model)
    assert model.places == [2, 2, 2, 2]
    assert [record.args for record in caplog.records if "Out of GPU memory" in record.msg] == [(8,), (4,)]
    with pytest.raises(torch.cuda.OutOfMemoryError):
        used.run_inference(samples, Stub(largest=0))


def test_out_of_memory_while_bisecting_loses_nothing():
    class Tight(Stub):
        def embed(self, images, places):
            if len(self.calls) == 2:
                self.largest = 2
            return super().embed(images, places)

    out = handler(8).run_inference([image(n) for n in range(1, 9)], Tight(bad={8}))
    assert values(out) == [[float(n)] for n in range(1, 8)] + [[]]


OTHERS = [Target(31), Target(SIZE, "squash"), Target(SIZE, interpolation="bilinear")]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_pixels_that_were_prepared_for_another_model_are_an_error_at_once(other):
    """Those of the same number of bytes too, which would give plausible but wrong embeddings."""
    model, good = Stub(), image(1)
    wrong = dataclasses.replace(image(2), prepared=str(other))
    with pytest.raises(ValueError, match="the pixels of 'k2' were prepared with size=") as caught:
        handler().run_inference([good, wrong], model)
    assert str(caught.value) == (
        f"the pixels of 'k2' were prepared with {other}, but tiny-handled sees {PREPARED}: use "
        f"DecodeImages(DecodeOptions({PREPARED})), or DecodeImages(handler.decode_options())"
    )
    assert eval(f"DecodeOptions({PREPARED})") == handler().decode_options()
    assert model.calls == []
    # What a second model sees is told apart from what the first one does.
    second = handler(embedding_name="b")
    both = dataclasses.replace(good, other_pixels={"b": good.pixels}, other_prepared={"b": str(other)})
    with pytest.raises(
        ValueError, match=r"use DecodeImages\(\.\.\., second={'b': Target\(size=32, resize_mode='shortest'"
    ):
        second.run_inference([both], model)
    right = dataclasses.replace(both, prepared=str(other), other_prepared={"b": PREPARED})
    (out,) = second.run_inference([right], model)
    assert (list(out.embeddings), out.prepared, out.other_prepared) == (["b"], str(other), {})
    with pytest.raises(ValueError, match="the pixels of 'k1' were prepared with"):
        handler().run_inference([out], model)


def test_pixels_that_do_not_say_how_they_were_prepared_are_an_error():
    silent = dataclasses.replace(image(1), prepared="")
    with pytest.raises(ValueError, match=r"pixels of 'k1' do not say how they were prepared \(DecodedImage.prepared\)"):
        handler().run_inference([silent], Stub())
    short = DecodedImage(image(1).ref, pixels=b"123", prepared=PREPARED)
    with pytest.raises(ValueError, match=r"pixels of 'k1' are 3 bytes, but tiny-handled sees size=32"):
        handler().run_inference([short], Stub())


@pytest.mark.parametrize(
    ("clip_model", "target"),
    [
        ("ViT-L-14", Target(224)),
        ("ViT-B-16-SigLIP", Target(224, "squash")),
        ("ViT-L-14-CLIPA-336", Target(336, "squash", "bilinear")),
    ],
)
def test_decode_options_are_those_of_the_model(clip_model, target):
    model = ClipModelHandler(clip_model, "random")
    assert model.decode_options().target == target
    assert model.decode_options(decoder="pillow") == DecodeOptions(
        target.size, target.resize_mode, target.interpolation, "pillow"
    )
    assert model.describe().target == target


def test_pixels_of_the_default_decoder_are_refused_by_a_model_that_squashes():
    data = encoded(photo(1, 60, 90))
    ref = SampleRef(0, "a.tar", 0, "k", [])
    model = ClipModelHandler("ViT-B-16-SigLIP", "random")

    class Squashing(Stub):
        def describe(self):
            return model.describe()

    plain = decode_sample(Sample(ref, data), DecodeOptions(), second={"b": Target(8)})
    assert (plain.prepared, plain.other_prepared) == (str(Target(224)), {"b": str(Target(8))})
    with pytest.raises(ValueError, match="but ViT-B-16-SigLIP sees size=224, resize_mode='squash'"):
        model.run_inference([plain], Squashing())
    fit = decode_sample(Sample(ref, data), model.decode_options())
    assert fit.pixels != plain.pixels
    assert model.run_inference([fit], Squashing())[0].failure is None


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_embedding_does_not_depend_on_its_neighbours(precision):
    used = handler(8, precision=precision)
    tower = used.load_model()
    samples = [image(n) for n in range(1, 20)]
    alone = {}
    for sample in samples:
        (alone[sample.ref.key],) = used.run_inference([sample], tower)
    order = np.random.default_rng(0).permutation(len(samples))
    for chosen in (samples, samples[::-1], [samples[n] for n in order], samples[3:16], [*samples[:8], image(100)]):
        for out in used.run_inference(chosen, tower):
            assert out.failure or out == alone[out.ref.key]
    assert len({out.embedding for out in alone.values()}) == len(samples)


def batches(failed, batch_size):
    from apache_beam.transforms.util import _BatchSizeEstimator, _GlobalWindowsBatchingDoFn

    options = dict(handler(batch_size).batch_elements_kwargs())
    assert (options["min_batch_size"], options["max_batch_size"]) == (batch_size, batch_size)
    size = options.pop("element_size_fn")
    do_fn = _GlobalWindowsBatchingDoFn(_BatchSizeEstimator(**options, record_metrics=False), size)
    do_fn.start_bundle()
    found = []
    for sample in failed:
        found += [batch.value for batch in do_fn.process(sample)]
    return found, [batch.value for batch in do_fn.finish_bundle()]


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=240), st.sampled_from([1, 2, 3, 8, 32]))
def test_beams_batches_hold_exactly_batch_size_images(failed, batch_size):
    samples = [DecodedImage(REF, failure=BROKEN if bad else None) for bad in failed]
    full, last = batches(samples, batch_size)
    assert [sample for batch in [*full, *last] for sample in batch] == samples
    images = [sum(sample.failure is None for sample in batch) for batch in full]
    if batch_size > 1:
        # The second one of a bundle may lack one for the sake of its failed samples: see element_size.
        if len(images) > 1 and len(full[1]) > images[1]:
            assert images.pop(1) >= batch_size - 1
        assert set(images) <= {batch_size}
    assert all([*full, *last])
    assert len(last) <= 1


@pytest.mark.parametrize("batch_size", [1, 32, 1000])
def test_batches_of_failures_are_bounded(batch_size):
    full, last = batches([image(100)] * 20000 + [image(1)] * 3, batch_size)
    assert all([*full, *last])
    assert max(len(batch) for batch in full + last) <= 8192


def test_through_run_inference_on_a_runner():
    samples = [image(n) for n in [1, 2, 3, 100, 4, 5, 6, 200, 7]]
    used = handler()
    tower = used.load_model()
    want = sorted(used.run_inference(samples, tower), key=lambda sample: sample.ref.index)

    def check(out):
        assert sorted(out, key=lambda sample: sample.ref.index) == want

    with RealPipeline(runner="FnApiRunner") as pipeline:
        out = (
            pipeline | beam.Create(samples, reshuffle=False) | RunInference(handler()).with_output_types(EmbeddedSample)
        )
        assert out.element_type is EmbeddedSample
        assert_that(out, check)
    found = pipeline.result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    counters = {counter.key.metric.name: counter.committed for counter in found["counters"]}
    assert (counters["images"], counters["failures"], counters["num_inferences"]) == (7, 0, 9)
    assert {d.key.metric.name for d in found["distributions"]} >= {
        "inference_request_batch_byte_size",
        "model_byte_size",
    }


class Recording(ClipModelHandler):
    """Remembers how many images its batches have, and what came out of the pipeline."""

    sizes: ClassVar[list] = []
    out: ClassVar[list] = []

    def load_model(self):
        return Stub()

    def run_inference(self, batch, model, inference_args=None):
        self.sizes.append(sum(sample.failure is None for sample in batch))
        return super().run_inference(batch, model)


def record(sample):
    Recording.out.append(sample)


def through(samples, used):
    """What comes out of RunInference, and the sizes of its batches."""
    Recording.sizes.clear()
    Recording.out.clear()
    with RealPipeline(runner="FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create([None], reshuffle=False)
            | beam.FlatMap(lambda _: samples)
            | RunInference(used(Recording("tiny-handled", "random", batch_size=4)))
            | beam.Map(record)
        )
    return list(Recording.out), list(Recording.sizes)


@pytest.mark.parametrize("keyed", [KeyedModelHandler, MaybeKeyedModelHandler])
def test_beams_keyed_handlers_batch_as_this_one_does(keyed):
    numbers = [1, 2, 100, 3, 4, 5, 6, 7, 8, 200, 9]
    pairs, sizes = through([(f"key {n}", image(n)) for n in numbers], keyed)
    plain, wanted = through([image(n) for n in numbers], lambda handler: handler)
    assert sizes == wanted
    assert sum(sizes) == 9
    assert pairs == [(f"key {n}", sample) for n, sample in zip(numbers, plain, strict=True)]


def test_a_handler_with_a_function_before_it_batches():
    out, sizes = through(list(range(1, 10)), lambda handler: handler.with_preprocess_fn(image))
    assert values(out) == [[float(n)] for n in range(1, 10)]
    assert sum(sizes) == 9
    assert max(sizes) == 4


def test_metrics_count_failures_and_backoffs():
    class Failing(ClipModelHandler):
        def load_model(self):
            return Stub(bad={3}, largest=2)

    with RealPipeline(runner="FnApiRunner") as pipeline:
        model = Failing("tiny-handled", "random", batch_size=4)
        _ = pipeline | beam.Create([image(n) for n in range(1, 6)], reshuffle=False) | RunInference(model)
    found = pipeline.result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
    counters = {counter.key.metric.name: counter.committed for counter in found}
    assert (counters["images"], counters["failures"], counters["oom_backoffs"]) == (4, 1, 1)


def test_a_handler_pickles_small_even_after_it_loaded():
    used = handler()
    used.run_inference([image(1)], used.load_model())
    assert len(pickle.dumps(used)) < 4000
    assert used.get_num_bytes([image(1), image(100), image(2)]) == 2 * SIZE * SIZE * 3
    assert used.get_metrics_namespace() == "beam_curate.infer"
    assert used.get_resource_hints() == {}


def test_describe_is_the_towers_description():
    used = ClipModelHandler("tiny-handled", "random", seed=3, device="cpu", quick_gelu=True)
    assert used.describe() == used.load_model().describe()
    assert (used.describe().weights, used.describe().quick_gelu) == ("random:3", True)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 0}, "batch_size=0: give a whole number"),
        ({"batch_size": 2.0}, r"batch_size=2\.0"),
        ({"batch_size": 9000}, "at most 8192"),
        ({"model_copies": 0}, "model_copies=0"),
        ({"device": "gpu"}, "device='gpu': give auto, cpu"),
        ({"precision": "int8"}, "precision='int8': give auto"),
        ({"precision": "fp16", "device": "cpu"}, "fp16.*give bf16"),
        ({"quick_gelu": "yes"}, "quick_gelu='yes'"),
    ],
)
def test_wrong_options_fail_on_construction(options, match):
    with pytest.raises(ValueError, match=match):
        handler(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_absent_is_an_error_on_load():
    with pytest.raises(RuntimeError, match="device='cuda'"):
        handler(device="cuda").load_model()
