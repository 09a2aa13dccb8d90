import contextlib
import dataclasses
import importlib.util
import pathlib
import re
import subprocess
import sys
import tarfile
import threading

import apache_beam as beam
import numpy as np
import pytest
import torch
from apache_beam.testing.util import assert_that
from PIL import Image, ImageOps

from beam_curate import devices, reasons
from beam_curate.clip.visual_tower import build_visual_tower
from beam_curate.clip.weights import find_weights
from beam_curate.commands import curate
from beam_curate.images import dali_decoding, dali_plans
from beam_curate.images.decoding import DecodeOptions, ImageError, decode_image, image_facts
from beam_curate.images.resizing import Target
from beam_curate.records import Failure, ImageFacts, Sample, SampleRef
from beam_curate.transforms.decode_images import DecodeImages, decode_sample
from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests.images.test_bmp_kinds import PALETTES, RLE4, bmp, repeated
from tests.support.fake_gpu import made_up_events
from tests.support.kinds import picture
from tests.support.tiffs import Tiff, write_tiff

INSTALLED = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
needs_dali = pytest.mark.skipif(
    not INSTALLED, reason="NVIDIA DALI is not installed (the extras dali-cuda12, dali-cuda13)"
)

SIZE = 32
OPTIONS = DecodeOptions(size=SIZE, decoder="dali")


@pytest.fixture(scope="module")
def decoder():
    found = dali_decoding.DaliDecoder(OPTIONS, "cpu", threads=2)
    yield found
    found.close()


def differences(batch: list[bytes], options: DecodeOptions, decoder: dali_decoding.DaliDecoder) -> list[np.ndarray]:
    """Level differences to Pillow, image by image; the facts must be the same, and DALI must have decoded all of them."""
    decoded = decoder.decode(batch)
    assert decoded.by_dali == len(batch)
    found = []
    for data, (facts, (pixels,)) in zip(batch, decoded.images, strict=True):
        reference_facts, reference = decode_image(data, options)
        assert facts == reference_facts
        assert (pixels.shape, pixels.dtype) == ((options.size, options.size, 3), np.uint8)
        found.append(np.abs(pixels.astype(int) - reference))
    return found


def outcome(data: bytes):
    """What the reference makes of an image."""
    try:
        return decode_image(data, OPTIONS)
    except ImageError as error:
        return error


def with_orientation(image: Image.Image, number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return encoded(image, exif=exif, quality=95)


def corrupt(data: bytes) -> bytes:
    """A JPEG whose scan names a Huffman table that does not exist: the header is good, no decoder reads it."""
    scan = data.rfind(b"\xff\xda")
    assert data[scan + 4] == 3  # components
    return data[: scan + 6] + b"\x33" + data[scan + 7 :]


# --- what DALI is given


def jpegs() -> dict[str, bytes]:
    image = photo(1, 90, 70)
    return {
        "baseline": encoded(image),
        "progressive": encoded(image, progressive=True),
        "4:4:4": encoded(image, subsampling=0),
        "4:2:2": encoded(image, subsampling=1),
        "grey": encoded(image.convert("L")),
        "restarts": encoded(image, restart_marker_rows=1),
        "with EXIF": with_orientation(image, 6),
        "trailing bytes": encoded(image) + b"trailer",
        "MPO": encoded(image, "MPO", save_all=True, append_images=[photo(2, 90, 70)]),
    }


def others() -> dict[str, bytes]:
    image = photo(1, 90, 70)
    plain = encoded(image)
    frame = plain.index(b"\xff\xc0")
    return {
        "PNG": encoded(image, "PNG"),
        "GIF": encoded(image, "GIF"),
        "WebP": encoded(image, "WEBP"),
        "CMYK": encoded(image.convert("CMYK")),
        "RGB": encoded(image, keep_rgb=True),
        "too small": encoded(photo(1, 90, SIZE - 1)),
        "no end marker": plain[:-2],
        "truncated": plain[: len(plain) // 2],
        "truncated thumbnail holder": plain[:2] + b"\xff\xe1\x00\x08\xff\xd8\xff\xd9ab" + plain[2 : len(plain) // 2],
        "arithmetic": plain[:frame] + b"\xff\xc9" + plain[frame + 2 :],
        "lossless": plain[:frame] + b"\xff\xc3" + plain[frame + 2 :],
        "12 bits": plain[: frame + 4] + b"\x0c" + plain[frame + 5 :],
        "odd sampling": plain[: frame + 11] + b"\x31" + plain[frame + 12 :],
        "empty": b"",
        "no image": b"\xff\xd8\xff" + b"x" * 50,
        "text": b"hello",
        "TIFF in planes of 16 bits": write_tiff(np.asarray(image).astype(int) * 257, Tiff(bits=16, planes=True)),
        "BMP with runs": bmp(
            repeated(picture(1, 3)[..., 0], True), 4, compression=RLE4, palette=PALETTES["colours"](4)
        ),
    }


@pytest.mark.parametrize("name", jpegs())
def test_plain_jpegs_are_for_dali(name):
    data = jpegs()[name]
    plan = dali_plans.plan_image(data, OPTIONS)
    assert plan.facts == image_facts(data, OPTIONS)


@pytest.mark.parametrize("name", others())
def test_everything_else_is_for_pillow(name):
    assert dali_plans.plan_image(others()[name], OPTIONS) is None


def test_images_beyond_the_limits_are_for_pillow(monkeypatch):
    data = encoded(photo(1, 90, 70))
    assert dali_plans.plan_image(data, DecodeOptions(size=SIZE, max_pixels=90 * 70)) is not None
    assert dali_plans.plan_image(data, DecodeOptions(size=SIZE, max_pixels=90 * 70 - 1)) is None
    monkeypatch.setattr(dali_plans, "MAX_CHUNK_PIXELS", 90 * 70 - 1)
    assert dali_plans.plan_image(data, OPTIONS) is None


def test_a_header_cut_anywhere_is_no_plain_jpeg():
    data = encoded(photo(1, 40, 40))
    assert dali_plans.is_plain_jpeg(data)
    assert not any(dali_plans.is_plain_jpeg(data[:length]) for length in range(2, data.index(b"\xff\xda") + 12))


def test_chunks_keep_the_order_and_the_limits(monkeypatch):
    monkeypatch.setattr(dali_plans, "MAX_BATCH", 3)
    monkeypatch.setattr(dali_plans, "MAX_CHUNK_PIXELS", 100)
    sides = [5, 5, None, 5, 5, 9, 5, 10, 1]
    plans = [s and dali_plans.Plan(ImageFacts(s, s, "JPEG", "", 0), 1) for s in sides]
    found = list(dali_plans.chunks(plans))
    assert [[index for index, _ in chunk] for chunk in found] == [[0, 1, 3], [4], [5], [6], [7], [8]]
    assert all(plan is plans[index] for chunk in found for index, plan in chunk)
    assert list(dali_plans.chunks([None, None])) == []


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("width", "height"), [(110, 64), (64, 110)]
)  # resized to 12 x 7: no crop of 7 is in the middle
def test_the_region_is_that_of_the_crop(orientation, mode, width, height):
    """Painted with its own coordinates, the stored image shows in the region's corners what the upright crop begins with."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    stored = [Image.fromarray(values) for values in (y, x)]
    turned = [ImageOps.exif_transpose(_marked(image, orientation)) for image in stored]
    facts = ImageFacts(*turned[0].size, "JPEG", "", 0)
    target = Target(7, mode)
    start, end = dali_plans.region(facts, orientation, target)
    new_width, new_height = (7, 7) if mode == "squash" else (12, 7) if facts.width > facts.height else (7, 12)
    left, top = (0, 0) if mode == "squash" else (2, 0) if new_width > 7 else (0, 2)
    box = (left * facts.width / new_width, top * facts.height / new_height,
           (left + 7) * facts.width / new_width, (top + 7) * facts.height / new_height)  # fmt: skip
    middle_x, middle_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    for axis in (0, 1):
        ramp = np.asarray(turned[axis])  # linear: two steps tell its value anywhere
        steps = ramp[1, 0] - ramp[0, 0], ramp[0, 1] - ramp[0, 0]
        middle = ramp[0, 0] + steps[0] * (middle_y - 0.5) + steps[1] * (middle_x - 0.5)
        assert middle == pytest.approx((start[axis] + end[axis]) / 2, abs=1e-3)
    lengths = (end[0] - start[0], end[1] - start[1])
    assert lengths[:: -1 if orientation >= 5 else 1] == pytest.approx((box[3] - box[1], box[2] - box[0]))


def _marked(image, orientation):
    image.getexif()[0x0112] = orientation
    return image


# --- what comes back


@needs_dali
@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_smooth_images_are_those_of_the_reference(mode, interpolation):
    options = DecodeOptions(SIZE, mode, interpolation, decoder="dali")
    decoder = dali_decoding.DaliDecoder(options, "cpu", threads=2)
    sizes = [(96, 64), (64, 97), (33, 120), (32, 32), (800, 600), (400, 3000), (35, 35)]
    batch = [encoded(photo(i, *size), quality=92) for i, size in enumerate(sizes)] + list(jpegs().values())
    for found in differences(batch, options, decoder):
        assert (found.max() <= 3, found.mean() < 0.3) == (True, True)
    decoder.close()


@needs_dali
def test_images_sharp_to_the_pixel_stay_near_the_reference(decoder):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    checks = Image.fromarray(np.kron(np.indices((40, 50)).sum(0) % 2, np.ones((6, 6))).astype(np.uint8) * 255)
    for found in differences([encoded(noise, quality=95), encoded(checks, quality=95)], OPTIONS, decoder):
        assert found.mean() < 1
        # Pillow clips between the passes and cuts the kernel at the edges: there the two differ most.
        assert found[2:-2, 2:-2].max() <= 24


@needs_dali
@pytest.mark.parametrize("apply", [True, False])
def test_orientation_is_that_of_the_reference(apply):
    options = DecodeOptions(SIZE, decoder="dali", apply_exif_orientation=apply)
    decoder = dali_decoding.DaliDecoder(options, "cpu", threads=2)
    batch = [with_orientation(photo(3, 121, 80), number) for number in (*range(1, 9), 0, 9)]
    for found in differences(batch, options, decoder):
        assert found.max() <= 3
    decoder.close()


@needs_dali
def test_each_image_has_its_own_result_and_reason(decoder):
    """Everything in one batch: what DALI decodes, what Pillow decodes, and what nobody does, in order."""
    batch = [data for pair in zip(list(jpegs().values()) * 2, others().values(), strict=False) for data in pair]
    bad = [corrupt(encoded(photo(i, 80, 60))) for i in range(2)]
    batch = [*batch[:7], bad[0], *batch[7:], bad[1]]
    decoded = decoder.decode(batch)
    plans = [dali_plans.plan_image(data, OPTIONS) for data in batch]
    assert decoded.by_dali == sum(plan is not None for plan in plans) - len(bad)
    for data, plan, result in zip(batch, plans, decoded.images, strict=True):
        reference = outcome(data)
        if isinstance(reference, ImageError):
            assert str(result) == str(reference)
            assert result.facts == reference.facts
        else:
            assert result[0] == reference[0]
            difference = np.abs(result[1][0].astype(int) - reference[1])
            assert difference.max() <= (3 if plan is not None and data not in bad else 0)


@needs_dali
def test_pixels_do_not_depend_on_the_neighbours(decoder, monkeypatch):
    good = [encoded(photo(i, 90 + i, 70)) for i in range(9)]
    alone = [decoder.decode([data]).images[0][1][0].tobytes() for data in good]
    mixed = [*good[:4], corrupt(good[0]), *good[4:], corrupt(good[1])]
    builds = []
    build = dali_decoding._build
    monkeypatch.setattr(dali_decoding, "_build", lambda *arguments: builds.append(1) or build(*arguments))
    decoded = decoder.decode(mixed)
    assert decoded.by_dali == len(good)
    assert len(builds) == 9  # one after each failed run: 0-10, then 0-4, 2-4, 3-4, 4 and 5-10, 8-10, 9-10, 10
    assert [decoded.images[i][1][0].tobytes() for i in range(len(mixed)) if i not in (4, 10)] == alone
    assert decoder.decode([]).images == []


@needs_dali
def test_a_device_that_fails_is_loud_and_not_a_slow_pillow(monkeypatch):
    decoder = dali_decoding.DaliDecoder(OPTIONS, "cpu", threads=1)

    told, runs = [], []
    monkeypatch.setattr(dali_decoding, "give_up_device", told.append)
    for text, most in (("CUDA runtime API error cudaErrorIllegalAddress (700)", 1), ("no decoder", 3)):

        def broken(*_, text=text):
            runs.append(text)
            raise RuntimeError(text)

        monkeypatch.setattr(decoder, "_run", broken)
        with pytest.raises(
            RuntimeError, match=f"does not work on the processor: {re.escape(text)}; use `dali_device` cpu"
        ):
            decoder.decode([encoded(photo(1))] * 2)
        assert runs.count(text) == most  # what has lost the GPU is not halved; the other is, down to the self-test
    assert [str(error) for error in told] == list(dict.fromkeys(runs))
    decoder.close()


@needs_dali
@pytest.mark.parametrize("as_tensors", [False, True])
def test_the_thread_sleeps_while_the_gpu_decodes(monkeypatch, as_tensors):
    """DALI's results come in a stream, which is waited for before they are read; DALI's own wait keeps a core busy."""
    decoder = dali_decoding.DaliDecoder(OPTIONS, "cpu", 1, as_tensors=as_tensors)
    waits, streams, run = [], [], decoder._pipeline.run

    def in_stream(*stream):
        streams.append((*stream, list(waits)))
        return run()

    made_up_events(monkeypatch, waits)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(decoder, "_stream", "its own")
    monkeypatch.setattr(decoder._pipeline, "run", in_stream)
    (found,) = decoder.decode([encoded(photo(1))]).images
    assert isinstance(found, tuple)
    assert streams == [("its own", [])]
    assert waits == [("sleeping", "its own")]
    decoder.close()


@needs_dali
def test_a_device_with_other_pixels_is_refused(monkeypatch):
    def swapped(self, batch, plans, run=dali_decoding.DaliDecoder._run):
        return ((pixels[..., ::-1],) for (pixels,) in run(self, batch, plans))

    monkeypatch.setattr(dali_decoding.DaliDecoder, "_run", swapped)
    with pytest.raises(RuntimeError, match="decodes differently on the processor than Pillow"):
        dali_decoding.DaliDecoder(OPTIONS, "cpu", threads=1)


@needs_dali
def test_several_models_are_served_from_one_decoding():
    targets = [Target(SIZE), Target(SIZE + 9, "squash", "bilinear")]
    several = dali_decoding.DaliDecoder(OPTIONS, "cpu", 2, targets)
    batch = [
        encoded(photo(1, 120, 90)),
        encoded(photo(2, 120, SIZE + 4)),
        encoded(photo(3, 80, 70), "PNG"),
        b"no image",
    ]
    decoded = several.decode(batch)
    assert decoded.by_dali == 1  # the second is too small for the second model, which is no reason to fail
    assert isinstance(decoded.images[3], ImageError)
    for place, target in enumerate(targets):
        options = DecodeOptions(target.size, target.resize_mode, target.interpolation)
        alone = dali_decoding.DaliDecoder(options, "cpu", 2)
        (_, (pixels,)) = alone.decode(batch[:1]).images[0]
        assert np.array_equal(decoded.images[0][1][place], pixels)
        for index in (1, 2):
            facts, expected = decode_image(batch[index], dataclasses.replace(options, decoder="pillow"))
            assert decoded.images[index][0] == facts
            assert np.abs(decoded.images[index][1][place].astype(int) - expected).max() <= 1
        alone.close()
    several.close()


@needs_dali
def test_a_device_that_is_absent_is_an_error():
    with pytest.raises(RuntimeError, match="'cuda:99', but CUDA sees"):
        dali_decoding.DaliDecoder(OPTIONS, "cuda:99")


@needs_dali
def test_a_gpu_that_cuda_cannot_use_is_none(monkeypatch):
    """As on a machine whose driver is too old for torch's CUDA, where the driver's library still counts it."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dali_decoding._device_id("auto") is None
    with pytest.raises(RuntimeError, match="'cuda', but CUDA sees 0 devices here"):
        dali_decoding.DaliDecoder(OPTIONS, "cuda")


@needs_dali
@pytest.mark.parametrize(
    "lost", ["CUDA unknown error - this may be due to …", "CUDA error: uncorrectable ECC error", ""]
)
def test_a_worker_ends_when_its_gpu_is_lost_before_dali_uses_it(monkeypatch, lost):
    """With what torch says of the first use of CUDA, and of the first stream; a driver that is too old stays so."""
    ended = []

    def fail(*_):
        raise RuntimeError(lost or "The NVIDIA driver on your system is too old (found version 12040).")

    first_use = not lost.startswith("CUDA error")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not first_use)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.setattr(torch.cuda, "Stream", fail)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "apache_beam.runners.worker.sdk_worker_main"])
    monkeypatch.setattr(devices, "_end", lambda error: ended.append(str(error)))
    with pytest.raises(RuntimeError, match=re.escape(lost) or "too old"):
        dali_decoding.DaliDecoder(OPTIONS, "cuda")
    assert len(ended) == bool(lost)


@needs_dali
def test_many_threads_share_a_decoder(decoder):
    batches = [[encoded(photo(10 * i + j, 64, 50)) for j in range(5)] for i in range(4)]
    found = {}

    def decode(index):
        found[index] = [pixels.tobytes() for _, (pixels,) in decoder.decode(batches[index]).images]

    threads = [threading.Thread(target=decode, args=[i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, batch in enumerate(batches):
        assert found[index] == [pixels.tobytes() for _, (pixels,) in decoder.decode(batch).images]


# --- on real and on broken images


@needs_dali
def test_photographs_stay_within_the_stated_bound(assets):
    options = DecodeOptions(decoder="dali")
    decoder = dali_decoding.DaliDecoder(options, "cpu")
    photographs = [path.read_bytes() for path in sorted((assets / "photos").iterdir()) if path.suffix != ".json"][::6]
    plans = [dali_plans.plan_image(data, options) for data in photographs]
    batch = [data for data, plan in zip(photographs, plans, strict=True) if plan is not None]
    assert len(batch) > 20
    found = differences(batch, options, decoder)
    assert max(each.max() for each in found) <= 16
    assert max(each.mean() for each in found) <= 0.21
    # What a model makes of them; its weights are random, as no real ones are shipped with the tests.
    tower = build_visual_tower(find_weights("ViT-S-32-alt", "random"), precision="fp32", device="cpu")
    ours = tower.embed(np.stack([pixels for _, (pixels,) in decoder.decode(batch).images]))
    want = tower.embed(np.stack([decode_image(data, DecodeOptions(decoder="pillow"))[1] for data in batch]))
    assert np.einsum("nd,nd->n", ours.astype(np.float64), want.astype(np.float64)).min() > 0.999
    decoder.close()


@needs_dali
def test_broken_images_fail_for_the_reason_of_the_reference(assets):
    paths = sorted((assets / "torture_images").glob("*.jp*g"))
    batch = [path.read_bytes() for path in paths]
    decoder = dali_decoding.DaliDecoder(OPTIONS, "cpu")
    for path, data, result in zip(paths, batch, decoder.decode(batch).images, strict=True):
        reference = outcome(data)
        if isinstance(reference, ImageError):
            assert isinstance(result, ImageError), path.name
            assert (result.reason, result.facts) == (reference.reason, reference.facts), path.name
        else:
            assert not isinstance(result, ImageError), path.name
            assert result[0] == reference[0], path.name
            assert np.abs(result[1][0].astype(int) - reference[1]).mean() < 1, path.name
    decoder.close()


# --- in a pipeline


def ref(index: int) -> SampleRef:
    return SampleRef(0, "a.tar", index, f"{index:04d}")


@needs_dali
def test_decode_images_keeps_order_failures_and_facts():
    bad = Failure(reasons.READ, reasons.NO_IMAGE, "no image")
    datas = [encoded(photo(i, 60 + i % 5, 50), "PNG" if i % 7 == 3 else "JPEG") for i in range(150)]
    datas[5] = corrupt(encoded(photo(5, 60, 50)))
    samples = [
        Sample(ref(i), b"" if i % 50 == 9 else data, bad if i % 50 == 9 else None) for i, data in enumerate(datas)
    ]
    samples += [Sample(ref(150 + i), encoded(photo(i, 60, 50))[:400]) for i in range(3)]
    expected = [decode_sample(sample, OPTIONS) for sample in samples]

    def check(outputs):
        assert [image.ref.key for image in outputs] == [sample.ref.key for sample in samples]
        for image, reference in zip(outputs, expected, strict=True):
            assert (image.facts, image.failure) == (reference.facts, reference.failure)
            levels = [np.frombuffer(found.pixels, np.uint8).astype(int) for found in (image, reference)]
            assert np.abs(levels[0] - levels[1]).max(initial=0) <= 3

    with beam.Pipeline("FnApiRunner") as root:
        images = root | beam.Create(samples, reshuffle=False) | DecodeImages(OPTIONS, threads=2, dali_device="cpu")
        assert_that(images, check)
    counters = root.result.metrics().query(beam.metrics.MetricsFilter().with_namespace("beam_curate.decode"))[
        "counters"
    ]
    counts = {counter.key.metric.name: counter.committed for counter in counters}
    failed = sum(image.failure is not None and image.failure.step == reasons.DECODE for image in expected)
    assert failed >= 3
    assert counts["images"] == 153 - failed - 3
    assert counts["failures"] == failed
    assert counts["by_dali"] == sum(dali_plans.plan_image(sample.data, OPTIONS) is not None for sample in samples) - 1


def test_a_missing_dali_names_the_extra(monkeypatch, tmp_path, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "nvidia" in name else find(name, *rest)
    )
    with pytest.raises(ValueError, match=r"not installed: pip install 'beam-curate\[dali-cuda13\]'"):
        DecodeImages(OPTIONS)
    DecodeImages(DecodeOptions())  # the other decoders do not need it
    (tmp_path / "a.tar").write_bytes(tar_bytes([("1.jpg", encoded(photo(1)))]))
    arguments = [
        "--input",
        f"{tmp_path}/a.tar",
        "--output",
        f"{tmp_path}/out",
        "--clip_model=ViT-B-32",
        "--pretrained=random",
    ]
    assert curate.main([*arguments, "--decoder=dali"]) == 2
    assert "beam-curate[dali-cuda13]" in capsys.readouterr().err
    assert not pathlib.Path(f"{tmp_path}/out").exists()


def test_dali_is_imported_only_when_it_decodes():
    code = (
        "import sys; sys.modules['nvidia'] = sys.modules['nvidia.dali'] = None; "  # an import of them fails
        "from beam_curate.transforms.decode_images import DecodeImages; DecodeImages()"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@needs_dali
def test_wrong_devices_are_named():
    with pytest.raises(ValueError, match="dali_device is 'gpu': use auto, cpu, cuda or cuda:N"):
        DecodeImages(OPTIONS, dali_device="gpu")


def test_a_dali_device_without_dali_is_a_mistake(tmp_path, capsys):
    (tmp_path / "a.tar").write_bytes(tar_bytes([("1.jpg", encoded(photo(1)))]))
    arguments = ["--input", f"{tmp_path}/a.tar", "--output", f"{tmp_path}/out", "--dali_device=cpu"]
    assert curate.main(arguments) == 2
    assert "--dali_device cpu is for --decoder dali, not fast" in capsys.readouterr().err


@needs_dali
def test_curate_decodes_with_dali_and_says_so_of_an_absent_device(tmp_path, capsys):
    members = [(f"{i}.jpg", encoded(photo(i, 300, 240))) for i in range(3)]
    (tmp_path / "a.tar").write_bytes(tar_bytes([*members, ("3.jpg", members[0][1][:900])]))
    base = ["--input", f"{tmp_path}/a.tar", "--decoder=dali", "--clip_model=ViT-S-32-alt", "--pretrained=random",
            "--aesthetic_head=none", "--nsfw_head=none"]  # fmt: skip
    assert curate.main([*base, "--output", f"{tmp_path}/none", "--dali_device=cuda"]) == 2
    assert "--dali_device cuda: " in capsys.readouterr().err
    assert curate.main([*base, "--output", f"{tmp_path}/out", "--dali_device=cpu"]) == 0
    assert "truncated_image: 1" in capsys.readouterr().out
    with tarfile.open(tmp_path / "out" / "00000.tar") as written:
        assert [member.name for member in written.getmembers() if member.name.endswith(".jpg")] == [
            "0.jpg",
            "1.jpg",
            "2.jpg",
        ]
