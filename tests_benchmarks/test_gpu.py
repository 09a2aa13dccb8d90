"""benchmarks/gpu.py runs on a CPU, keeps what it knows when something fails, and its checks can fail."""

import json
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from beam_curate import ClipModelHandler
from beam_curate.images.resizing import Target
from tests.conftest import ROOT

MODEL = "ViT-S-32-alt"
SMALL = (
    "--device",
    "cpu",
    "--models",
    MODEL,
    "--batch_sizes",
    "4",
    "--images",
    "16",
    "--compared",
    "2",
    "--seconds",
    "0",
)


@pytest.fixture
def gpu(monkeypatch):
    """gpu.py as a module, and those that it uses."""
    monkeypatch.syspath_prepend(f"{ROOT}/benchmarks")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    import gpu
    import gpu_copies
    import gpu_decoding
    import gpu_parts
    import gpu_peaks
    import gpu_report
    import gpu_runs
    import gpu_speeds

    names = {
        "copies": gpu_copies,
        "decoding": gpu_decoding,
        "parts": gpu_parts,
        "peaks": gpu_peaks,
        "report": gpu_report,
        "runs": gpu_runs,
        "speeds": gpu_speeds,
    }
    return SimpleNamespace(main=gpu.main, **names)


def test_it_runs_on_a_cpu_and_reports_what_it_checked(tmp_path):
    file = tmp_path / "result.json"
    options = (
        "--precisions",
        "fp32,fp16",
        "--threads",
        "2",
        "--copies",
        "1",
        "--peak_tflops",
        "2",
        "--json",
        str(file),
    )
    command = [sys.executable, f"{ROOT}/benchmarks/gpu.py", *SMALL, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "The whole pipeline, tar to tar" in done.stdout
    result = json.loads(file.read_text())
    assert (result["device"], result["pretrained"], result["complete"]) == ("cpu", "random", True)
    (embeddings,) = result["embeddings"]  # fp16 is not for a CPU
    assert (embeddings["precision"], embeddings["passed"]) == ("fp32", True)
    assert 0.9999 <= embeddings["cosine_min"] <= embeddings["cosine_mean"] <= 1.0001
    (neighbours,) = result["neighbours"]
    assert (neighbours["batch_size"], neighbours["moved"], neighbours["part"], neighbours["passed"]) == (4, 0, 0, True)
    (memory,) = result["memory"]
    assert (memory["real"], memory["calls"], memory["passed"]) == (False, [4, 2, 2], True)
    (model,) = result["model"]
    assert model["mfu"] == pytest.approx(model["images_per_s"] * 2.285248512e9 / 2e12)
    (pipeline,) = result["pipeline"]
    assert (pipeline["images"], pipeline["decoder"], pipeline["threads"]) == (16, "fast", 2)
    assert len(pipeline["seconds"]) == 2
    (copies,) = result["copies"]
    assert (copies["copies"], copies["same_bits"], copies["after_kill"], copies["after_loss"]) == (1, True, True, True)
    exact = [line for line in result["decode"] if line["decoder"] in ("pillow", "fast")]
    assert [line["max_levels"] for line in exact] == [0, 1, 0, 1]
    for line in result["decode"]:
        assert line.get("passed") is not False
        assert line.get("images_per_s", 1) > 0
        assert line.get("by_dali", 16) in (16, 31)  # of 16, or of 32 with a bad one
        assert line.get("nvjpeg", "no") == "no"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--only", "speed"), "--only has speed; choose from embeddings, neighbours, memory"),
        (("--precisions", "int8"), "--precisions has int8"),
        (("--precisions", "fp16"), "--precisions is fp16, which is slow on a CPU and refused there; give fp32 or bf16"),
        (("--batch_sizes", "0"), "--batch_sizes is 0; give whole numbers of at least 2"),
        (("--images", "1"), "--images is 1; give at least 16"),
        (("--images", "31", "--threads", "8"), "--images is 31; give at least 32"),
        (("--threads", "0"), "--threads is 0; give at least 1"),
        (("--json", "nowhere/gpu.json"), "--json is nowhere/gpu.json, in a folder that is not there; make it first"),
        (("--models", "ViT-L-41"), "--models ViT-L-41 with --pretrained random: "),
    ],
)
def test_it_refuses_wrong_options(gpu, capsys, options, words):
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--device", "cpu", *options])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


class NoCopies:
    """Stands for copies: nothing to kill, and nothing that loses a GPU."""

    def __init__(self, *given):
        self.one = lambda: SimpleNamespace(embed=lambda items, places: np.zeros((len(items), 2)))


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_copies_must_give_the_bits_of_one_whatever_becomes_of_them(gpu, monkeypatch, wrong):
    found = [np.zeros(2), *(np.full(2, float(number == wrong)) for number in range(3))]
    numbers = iter([[1], [1], [2]])
    monkeypatch.setattr(gpu.copies, "TowerCopies", NoCopies)
    monkeypatch.setattr(gpu.copies, "embed", lambda *given: found.pop(0))
    monkeypatch.setattr(gpu.copies, "_processes", lambda: next(numbers))
    monkeypatch.setattr(gpu.copies.os, "kill", lambda *which: None)
    settings = gpu.runs.Settings("cpu", seconds=0)
    (line,) = gpu.copies.check_copies(settings, MODEL, "fp32", 2, 1)
    assert [line[name] for name in ("same_bits", "after_kill", "after_loss")] == [
        number != wrong for number in range(3)
    ]
    assert not line["passed"]


def test_without_a_gpu_it_says_so(gpu, monkeypatch):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040).\nMore.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(
        SystemExit, match=r"no GPU here: The NVIDIA driver .*12040\).; --device cpu shows that everything"
    ):
        gpu.main([])


ERRORS = {
    "OutOfMemoryError": torch.cuda.OutOfMemoryError("no room"),
    "AcceleratorError": torch.AcceleratorError("an illegal address"),
    "OSError": OSError("no space left"),
    "ImportError": ImportError("libcuda.so.1 is not there"),
}


def test_the_table_of_the_docs_has_the_slower_of_two_speeds(gpu):
    model = [{"model": "ViT-L-14", "images_per_s": speed} for speed in (200.0, None, 300.0)]
    decode = [
        {"decoder": "pillow", "size": "M", "images_per_s": 90.0},
        {"decoder": "fast", "size": "M", "images_per_s": 250.0},
    ]
    result = {"device": "NVIDIA L4", "cores": 8, "model": [*model, {"model": "ViT-B-32", "images_per_s": 9e3}]}
    assert gpu.report.table_of_docs(result, 1.24) is None
    lines = gpu.report.table_of_docs({**result, "decode": decode}, 1.24).splitlines()
    assert lines[2] == "| NVIDIA L4, 8 vCPUs, ViT-L-14 | 300 | 250 | 250 | 1.11 | 1.24 | 1.4 |"
    heading = gpu.report.table_of_docs({**result, "decode": decode}, None).splitlines()[0]
    assert f"{heading} 12 MP: worker, img/s |" in (ROOT / "docs" / "dataflow.md").read_text()


@pytest.mark.parametrize("name", ERRORS)
def test_what_fails_is_told_and_the_rest_goes_on(gpu, monkeypatch, tmp_path, capsys, name):
    def fail(*_):
        yield {"model": MODEL, "precision": "fp32", "batch_size": 4, "images_per_s": 7.0}
        raise ERRORS[name]

    monkeypatch.setattr(gpu.speeds, "model_speeds", fail)
    monkeypatch.setattr(gpu.speeds, "photo_tars", lambda *_: None)
    monkeypatch.setattr(gpu.speeds, "pipeline_speed", lambda *_: [{"model": MODEL, "images_per_s": 8.0}])
    file = tmp_path / "result.json"
    assert gpu.main([*SMALL, "--precisions", "fp32", "--only", "model,pipeline", "--json", str(file)]) == 1
    result = json.loads(file.read_text())
    speed, failed = result["model"]
    assert speed["images_per_s"] == 7
    assert failed == {"model": MODEL, "precision": "fp32", "failed": f"{name}: {ERRORS[name]}", "passed": False}
    assert result["pipeline"] == [{"model": MODEL, "images_per_s": 8.0}]
    assert result["complete"]
    said = capsys.readouterr()
    assert f"{MODEL} fp32: FAILED: {name}: {ERRORS[name]}" in said.out
    assert "1 checks or measurements FAILED" in said.err


def test_an_error_of_the_program_is_no_figure(gpu, monkeypatch):
    monkeypatch.setattr(gpu.speeds, "model_speeds", lambda *_: [{}["images"]])
    with pytest.raises(KeyError):
        gpu.main([*SMALL, "--precisions", "fp32", "--only", "model"])


def test_what_is_known_is_kept_when_it_is_killed(gpu, monkeypatch, tmp_path, capsys):
    def killed(*_):
        yield {"model": MODEL, "precision": "fp32"}
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu.runs, "compare_embeddings", lambda *_: [{"model": MODEL, "cosine_min": 0.99999}])
    monkeypatch.setattr(gpu.speeds, "model_speeds", killed)
    file = tmp_path / "result.json"
    with pytest.raises(KeyboardInterrupt):
        gpu.main([*SMALL, "--precisions", "fp32", "--only", "embeddings,model", "--json", str(file)])
    result = json.loads(file.read_text())
    assert result["embeddings"] == [{"model": MODEL, "cosine_min": 0.99999}]
    assert result["model"] == [{"model": MODEL, "precision": "fp32"}]
    assert not result["complete"]
    assert "0.99999" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("error", [ImportError("libcudart.so.12"), RuntimeError("CUDA driver version is insufficient")])
@pytest.mark.parametrize("asked", [True, False])
def test_a_dali_that_does_not_work_fails_only_if_asked_for(gpu, monkeypatch, tmp_path, capsys, asked, error):
    def unusable(*_):
        raise error

    monkeypatch.setattr(gpu.decoding, "require_dali", lambda _: None)
    monkeypatch.setattr(gpu.decoding, "DaliDecoder", unusable)
    monkeypatch.setattr(gpu.decoding, "host_speeds", lambda *_: [])
    monkeypatch.setattr(gpu.speeds, "photo_tars", lambda *_: None)
    monkeypatch.setattr(gpu.speeds, "pipeline_speed", lambda *call: [{"model": MODEL, "decoder": call[4]}])
    file = tmp_path / "result.json"
    options = ["--only", "pipeline,decode", "--decoders", "fast,dali" if asked else "fast", "--json", str(file)]
    assert gpu.main([*SMALL, *options]) == (1 if asked else 0)
    why = f"{type(error).__name__}: {error}"
    line = {"decoder": "dali", "not_run": why} | ({"passed": False} if asked else {})
    result = json.loads(file.read_text())
    assert result["decode"] == [line]
    assert result["pipeline"] == [line] * asked + [{"model": MODEL, "decoder": "fast"}]
    assert f"dali: {'FAILED' if asked else 'not run'}: {why}" in capsys.readouterr().out


def test_a_missing_dali_is_told_with_the_remedy(gpu, monkeypatch):
    def missing(_):
        raise ValueError("NVIDIA DALI is not installed: pip install it")

    monkeypatch.setattr(gpu.decoding, "require_dali", missing)
    assert gpu.decoding.dali_problem("cuda") == "NVIDIA DALI is not installed: pip install it"


def test_as_many_bundles_as_threads_run_at_the_same_time(gpu, monkeypatch, tmp_path):
    """Each call of the model waits for one of the other bundle: alone it would wait in vain."""
    both = threading.Barrier(2, timeout=60)
    images, loads = [], []
    infer, load = ClipModelHandler.run_inference, ClipModelHandler.load_model

    def together(self, batch, *rest):
        both.wait()
        images.append(len(batch))
        return infer(self, batch, *rest)

    monkeypatch.setattr(ClipModelHandler, "run_inference", together)
    monkeypatch.setattr(ClipModelHandler, "load_model", lambda self: loads.append(1) or load(self))
    shards = gpu.speeds.photo_tars(tmp_path, 16, 2)
    assert (len(shards.paths), shards.per_shard) == (8, 2)
    settings = gpu.runs.Settings("cpu", threads=2)
    (line,) = gpu.speeds.pipeline_speed(settings, MODEL, "fp32", 8, "fast", shards)
    assert sorted(images) == [2] * 4 + [8] * 2  # to warm up, short, long: two bundles each
    assert len(loads) == 3  # one model for both
    assert (line["threads"], line["images"], len(line["seconds"])) == (2, 16, 2)


@pytest.mark.parametrize(
    ("capability", "usual", "chosen"),
    [((8, 9), ["fp32", "bf16", "fp16"], "bf16"), ((7, 5), ["fp32", "fp16"], "fp16")],
)
def test_bf16_is_for_gpus_that_compute_it(gpu, monkeypatch, capability, usual, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert gpu.runs.usual_precisions("cuda") == usual
    assert gpu.runs.fastest("cuda", ["fp32", "bf16", "fp16"]) == chosen
    assert gpu.runs.fastest("cuda", ["fp32"]) == "fp32"
    assert gpu.runs.usual_precisions("cpu") == ["fp32", "bf16"]


class Leaking:
    """A tower in which what is `leaked` from an image reaches the other images or depends on its place."""

    def __init__(self, leaked):
        self._leaked = leaked

    def describe(self):
        return SimpleNamespace(target=Target(224), clip_model=MODEL)

    def one(self):
        return self

    def recover(self, error):
        return False

    def embed(self, images, places):
        pixels = np.zeros((places, 224 * 224 * 3), np.uint8)
        for row, image in zip(pixels, images, strict=False):
            row[:] = np.frombuffer(image, np.uint8)
        rows = pixels[:, :4].astype(np.float64) / 256 + 1
        return (rows + self._leaked(pixels)).astype(np.float16)[: len(images)]


@pytest.mark.parametrize(
    ("leaked", "moved", "part"),
    [
        (lambda pixels: 0, False, False),
        (lambda pixels: pixels.mean() / 256, False, True),
        (lambda pixels: np.arange(len(pixels))[:, None] / 64, True, True),
    ],
)
def test_an_image_that_depends_on_others_or_on_its_place_fails(gpu, monkeypatch, leaked, moved, part):
    monkeypatch.setattr(ClipModelHandler, "load_model", lambda _: Leaking(leaked))
    (line,) = gpu.runs.compare_neighbours(gpu.runs.Settings("cpu"), MODEL, "fp32", [8])
    assert (line["moved"] > 0, line["part"] > 0, line["passed"]) == (moved, part, not (moved or part))


def test_the_need_of_a_batch_is_what_it_has_allocated(gpu, monkeypatch):
    """The first call of a shape allocates what stays; the peak of the one before must not count."""
    here = {"now": 1000, "peak": 1000, "shapes": set()}

    def embed(pixels):
        here["now"] += 0 if len(pixels) in here["shapes"] else 500
        here["shapes"].add(len(pixels))
        here["peak"] = max(here["peak"], here["now"] + 10 * len(pixels))

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: here.update(peak=here["now"]))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: here["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: here["peak"])
    photos = [SimpleNamespace(pixels=bytes(3 * 4 * 4))] * 8
    assert gpu.runs._needs("cuda", SimpleNamespace(embed=embed), photos) == (80, 40)


def test_nvjpeg_is_known_by_its_kernels(gpu):
    kernels = ["Memcpy HtoD (Pinned -> Device)", "void dali::kernels::resample_horz<float>()"]
    nvjpeg = "void nvjpeg::ycbcr_to_format_kernel_roi<(nvjpegChromaSubsampling_t)2>(nvjpegImage_t)"
    found = [gpu.decoding.uses_nvjpeg(names) for names in ([], kernels, [*kernels, nvjpeg])]
    assert found == ["unknown", "no", "yes"]


def test_what_models_cost_and_gpus_can_do(gpu):
    found = [round(gpu.peaks.image_gflops(name), 2) for name in ("ViT-B-32", "ViT-L-14")]
    assert found == [8.82, 162.03]  # open_clip's docs/model_profile.csv
    for name, precision, peak in (
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA A100-SXM4-40GB", "fp16", 312.0),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA L40S", "bf16", 362.0),
        ("Tesla T4", "fp16", 65.0),
        ("Tesla T4", "bf16", None),
        ("NVIDIA A10G", "bf16", None),
        ("cpu", "fp32", None),
    ):
        assert gpu.peaks.peak_tflops(name, precision) == peak
