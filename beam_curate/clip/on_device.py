"""What both towers do where their device is a GPU: rows come back to the host, and memory that is full is one error."""

import torch

from beam_curate.cuda import wait_for


def on_host(rows: torch.Tensor) -> torch.Tensor:
    """Gives rows in the host's memory, once they are computed; the thread sleeps until then.

    The copy stands in the stream right behind what computes the rows: other threads give their batches to the same stream.

    Args:
        rows: Of any shape; those on a CPU are given back as they are.

    Raises:
        RuntimeError: The GPU has failed, now or before.
    """
    if rows.device.type != "cuda":
        return rows
    here = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    here.copy_(rows, non_blocking=True)
    wait_for(torch.cuda.current_stream(rows.device))
    return here.clone()  # memory that is not pinned, for whoever keeps it


def memory_error(message: str, device: torch.device) -> torch.cuda.OutOfMemoryError:
    """The error to raise where a device's memory does not do; gives back what torch only keeps.

    To be called when nobody holds the error before, whose frames hold what was allocated.

    Args:
        message: Of the error before.
        device: Whose memory it is.

    Raises:
        RuntimeError: The GPU is lost. Some libraries say of it what they say where memory is full, such as
            CUBLAS_STATUS_NOT_INITIALIZED.
    """
    torch.cuda.empty_cache()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return torch.cuda.OutOfMemoryError(message)
