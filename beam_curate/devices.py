"""Errors of a GPU: which of them mean that its memory is full, which that the process has lost it, and what then becomes of it.

After most errors of CUDA every later call of the process fails at once ("sticky" errors: CUDA Runtime API, Error Handling), so a
worker that lived on would fail one bundle after another in milliseconds, and use up a job's attempts. The error's kind is read
off its text and the name of its class: torch is not imported for it.
"""

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Final, NoReturn

_LOG = logging.getLogger(__name__)
# torch's allocator has an error of its own for it. The libraries that allocate past it say it in these words: CUDA's driver
# (as an AcceleratorError, a plain RuntimeError before torch 2.8), cuBLAS for a handle, cuDNN and DALI.
#
# NOT_INITIALIZED is what cuBLAS and cuDNN say where there is no memory for the handle that each thread makes with its first
# product; they say the same of a GPU that is lost, see clip.on_device.memory_error. And where there is no workspace for a
# convolution, torch goes on to the next engine of cuDNN, and at the end says that there is none. Source: ATen/native/cudnn/
# Conv_v8.cpp, try_configs, which catches c10::OutOfMemoryError.
_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|CU(BLAS|DNN)_STATUS_NOT_INITIALIZED|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_\w*ALLOC\w*_FAILED|"
    r"unable to find an engine to execute this computation|CUDA allocation failed|Can't allocate \d+ bytes"
)
# The last three are of CUDA's first use in a process, which then finds none for as long as it lives. Source: c10/cuda/
# CUDAFunctions.cpp, device_count_impl. A driver that is missing or too old is another thing: no new process would find it.
_FAILED: Final = re.compile(
    r"CUDA (driver |runtime )?(API )?error|device-side assert|CUBLAS_STATUS_\w+|CUDNN_STATUS_\w+|cuDNN error|CUDA_ERROR_|"
    r"CUDA unknown error|CUDA driver initialization failed|Unexpected error from cudaGetDeviceCount"
)
# What a library says of a call that it does not take, on a sound device.
_OF_THE_CALL: Final = re.compile(r"_STATUS_(NOT_SUPPORTED|INVALID_VALUE|BAD_PARAM|ARCH_MISMATCH)")
# The module of Beam that every worker process of a runner is started with, by Dataflow's boot program, by the worker pool of
# Flink and Prism and by the local runner with several processes: its name stands in their command lines.
_WORKER: Final = "apache_beam.runners.worker.sdk_worker"
EXIT_STATUS: Final = 70
"""With which a worker process ends that has lost its GPU: EX_SOFTWARE of sysexits.h."""
_SECONDS_TO_LOG: Final = 10


class DeviceFailedError(RuntimeError):
    """The GPU's error of a process that has lost it, told by another process."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory, or the host's, does not do."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def device_failed(error: BaseException) -> bool:
    """Whether an error means that the process, or the copy of a model, cannot use its GPU any more."""
    if isinstance(error, DeviceFailedError):
        return True
    if not isinstance(error, RuntimeError) or out_of_memory(error):
        return False
    if type(error).__name__ == "AcceleratorError":
        return True
    return bool(_FAILED.search(str(error))) and not _OF_THE_CALL.search(str(error))


def give_up_device(error: BaseException) -> None:
    """Ends the process after an error of its GPU, where a runner starts another one; elsewhere it does nothing.

    To be called with any error before it is raised. The command itself, which has the pipeline in its own process, ends by the
    error that is raised: nobody would start it again.
    """
    if device_failed(error) and any(_WORKER in word for word in sys.orig_argv):
        _end(error)


@contextlib.contextmanager
def given_up_if_lost() -> Iterator[None]:
    """Around the load of a model: ends the process as `give_up_device` does, or raises the block's error."""
    try:
        yield
    except RuntimeError as error:
        give_up_device(error)
        raise


def _end(error: BaseException) -> NoReturn:
    _LOG.critical(
        "This worker process has lost its GPU and ends, so that the runner starts another one: %s: %s",
        type(error).__name__, error,
    )  # fmt: skip
    # What is logged is sent by a thread, which may be stuck.
    late = threading.Timer(_SECONDS_TO_LOG, os._exit, (EXIT_STATUS,))
    late.daemon = True
    late.start()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(EXIT_STATUS)
