"""Which errors mean that a GPU is lost, and that a worker process then ends while a command does not."""

import os
import subprocess
import sys

import pytest
import torch

from beam_curate import devices
from beam_curate.clip import caption_handler, handler
from beam_curate.clip.caption_handler import CaptionHandler
from beam_curate.clip.careful_calls import CarefulCalls
from beam_curate.clip.handler import ClipModelHandler
from beam_curate.clip.text_tower import build_text_tower
from beam_curate.clip.visual_tower import build_visual_tower
from beam_curate.clip.weights import find_weights
from beam_curate.devices import DeviceFailedError, device_failed, give_up_device, out_of_memory
from tests.conftest import ROOT

LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA runtime API error cudaErrorIllegalAddress (700):\nan illegal memory access was encountered"),
    # Of CUDA's first use in a process, in torch's words.
    RuntimeError(
        "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable"
    ),
    RuntimeError("CUDA driver initialization failed, you might not have a CUDA gpu."),
    RuntimeError("Unexpected error from cudaGetDeviceCount(). Did you run … Error 802: system not yet initialized"),
    DeviceFailedError("told by a copy"),
]
FULL = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("Error in MIXED operator: CUDA allocation failed\nCan't allocate 9437184 bytes on device 0."),  # DALI
    MemoryError("std::bad_alloc"),
]
OTHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`"),
    RuntimeError("nvJPEG error (4): The JPEG is not supported"),  # DALI, of a bad image
    RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."),
    ValueError("CUDA error"),
]


@pytest.mark.parametrize("error", [*LOST, *FULL, *OTHER], ids=lambda error: str(error)[:40])
def test_what_an_error_means(error):
    assert (device_failed(error), out_of_memory(error)) == (error in LOST, error in FULL)


WORKERS = [
    [sys.executable, "-m", "apache_beam.runners.worker.sdk_worker_main"],
    [sys.executable, "-c", "from apache_beam.runners.worker.sdk_worker import SdkHarness; SdkHarness('localhost:1')"],
]


@pytest.mark.parametrize(
    ("command", "error", "ends"),
    [
        *((command, LOST[0], True) for command in WORKERS),
        (WORKERS[0], OTHER[0], False),
        (WORKERS[0], FULL[0], False),
        ([sys.executable, "pipelines/curate.py", "--input=a"], LOST[0], False),
    ],
)
def test_a_worker_ends_with_its_gpu_and_a_command_does_not(monkeypatch, command, error, ends):
    ended = []
    monkeypatch.setattr(sys, "orig_argv", command)
    monkeypatch.setattr(devices, "_end", ended.append)
    give_up_device(error)
    assert ended == [error] * ends


def test_the_process_really_ends_and_says_why():
    code = (
        "import sys, logging, threading; logging.basicConfig(); from beam_curate import devices; "
        "sys.orig_argv = ['apache_beam.runners.worker.sdk_worker_main']; "
        "threading.Thread(target=devices.give_up_device, args=(devices.DeviceFailedError('an illegal access'),)).start(); "
        "threading.Event().wait()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == devices.EXIT_STATUS
    assert "has lost its GPU and ends, so that the runner starts another one" in done.stderr
    assert "an illegal access" in done.stderr


@pytest.mark.parametrize("error", [LOST[0], LOST[5], FULL[0], OTHER[0]], ids=str)
@pytest.mark.parametrize("module", [handler, caption_handler])
def test_a_worker_ends_when_its_gpu_is_lost_before_the_model_is_loaded(monkeypatch, module, error):
    """It would fail bundle after bundle, each at once: a new process may find the GPU."""
    ended = []

    def fail(*given, **how):
        raise error

    monkeypatch.setattr(module, "_load_tower", fail)
    monkeypatch.setattr(sys, "orig_argv", WORKERS[0])
    monkeypatch.setattr(devices, "_end", ended.append)
    model = {handler: ClipModelHandler, caption_handler: CaptionHandler}[module]("ViT-S-32-alt", "random")
    with pytest.raises(type(error)):
        model.load_model()
    assert ended == [error] * (error in LOST)


@pytest.mark.parametrize("build", [build_visual_tower, build_text_tower])
def test_words_of_full_memory_may_be_those_of_a_lost_gpu(monkeypatch, build):
    """A lost one says so when it is asked; halving batches would not bring it back."""
    tower = build(find_weights("ViT-S-32-alt", "random"), precision="fp32", device="cpu")
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
    answers = [None, LOST[0]]

    def fail(*given):
        raise error

    def synchronize(device):
        if answer := answers.pop(0):
            raise answer

    monkeypatch.setattr(tower, "_call" if build is build_text_tower else "_embed", fail)
    monkeypatch.setattr(tower, "_device", torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    for expected in (torch.cuda.OutOfMemoryError, torch.AcceleratorError):
        with pytest.raises(expected) as raised:
            tower.embed([], 2)
        assert raised.value.__context__ is None


@pytest.mark.parametrize("build", [build_visual_tower, build_text_tower])
def test_a_worker_ends_when_its_model_tells_that_the_gpu_is_lost(monkeypatch, build):
    """From the error in the model's own layers, by the calls that the handlers make; and it is asked once."""
    tower = build(find_weights("ViT-S-32-alt", "random"), precision="fp32", device="cpu")
    asked, ended = [], []

    def fail(*given):
        asked.append(given)
        raise LOST[0]

    monkeypatch.setattr(tower, "_features", fail)
    monkeypatch.setattr(sys, "orig_argv", WORKERS[0])
    monkeypatch.setattr(devices, "_end", ended.append)
    items = ["a", "b"] if build is build_text_tower else [bytes(3 * 224 * 224)] * 2
    with pytest.raises(torch.AcceleratorError):
        CarefulCalls(2, "test").embed(items, tower)
    assert (len(asked), ended) == (1, [LOST[0]])
