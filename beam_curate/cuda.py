"""How many GPUs CUDA can use here, why none, and waits for one that leave the processor to others.

torch is imported where these are called, and not with this module.
"""

from typing import Any


def device_count() -> int:
    """Counts the GPUs that CUDA can use in this process.

    `torch.cuda.device_count` asks the driver's management library (NVML) as long as CUDA is not initialised, and so counts those
    of a driver that is too old for torch's CUDA. Source: torch/cuda/__init__.py, device_count and is_available.
    """
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def problem() -> str:
    """Says in torch's words why CUDA cannot be used in this process; empty where it can."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # it has no types
    except (AssertionError, RuntimeError) as error:  # the one of a torch without CUDA, the other of what CUDA finds
        return str(error).partition("\n")[0]
    return ""


def wait_for(stream: Any) -> None:
    """Waits until a GPU has done all that it was given in a stream of torch's; the thread sleeps meanwhile.

    `stream.synchronize()`, `tensor.cpu()` and an event as `torch.cuda.Event()` makes it keep a core busy until then: one for each
    thread that has given the GPU a batch, where images could be decoded. Source: CUDA Runtime API, cudaEventSynchronize, and
    cudaSetDeviceFlags, cudaDeviceScheduleAuto, which is the default.

    Raises:
        RuntimeError: What was given to the GPU has failed.
    """
    import torch

    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # nor has this
    done.record(stream)
    done.synchronize()
