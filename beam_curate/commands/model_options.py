"""The options of `curate` that say where the model and the decoders run, and how."""

from dataclasses import dataclass
from typing import Final

from beam_curate.commands.gpus import ACCELERATORS
from beam_curate.commands.options import CheckedOptions, OptionError, dependent, option

AUTO: Final = "auto"
WORKERS: Final = "workers"
SCORING: Final = "scoring"
NOWHERE: Final = "none"
PLACEMENTS: Final = (AUTO, NOWHERE, WORKERS, SCORING)
DALI: Final = "dali"
_MOST_IMAGES: Final = 8192
"""That of ClipModelHandler, which `--help` should not wait for."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(CheckedOptions):
    """Where the model and the decoders run, and how."""

    batch_size: int = dependent(
        32,
        "images in one batch of the model; default: 32, and where the command itself runs on a GPU 64, 128 or 256 by its memory",
        least=1,
        most=_MOST_IMAGES,
    )
    device: str = option("auto", "where the model runs; auto: cuda if there is one", choices=("auto", "cpu", "cuda"))
    precision: str = dependent("auto", "precision of the model's weights", choices=("auto", "bf16", "fp16", "fp32"))
    model_copies: int = option(1, "copies of the model on a worker, in processes of their own", least=1)
    decoder: str = option(
        "fast",
        "pillow: the reference; fast: within 2 levels of it; scaled: faster, large JPEGs at a fraction of their size, "
        "within 4 levels on camera photographs; dali: JPEGs in batches with NVIDIA DALI, for workers with a GPU",
        choices=("fast", "pillow", "scaled", "dali"),
    )
    dali_device: str = option(
        "auto",
        "where --decoder dali decodes; auto: cuda if there is one, and with --accelerator always",
        choices=("auto", "cpu", "cuda"),
    )
    decode_threads: int = option(0, "decoding threads of a worker process; 0: one per core", least=0)
    accelerator: str = option(
        "none",
        "GPU of the Dataflow workers; chooses their machine, disk, threads and processes, --device and --dali_device, and "
        "--batch_size and --precision if you do not give them. h100: the machine with one GPU is available only as Spot or "
        "flex-start: also give a provisioning_model in --dataflow_service_options, see docs/dataflow.md",
        choices=ACCELERATORS,
    )
    gpu_placement: str = option(
        "auto",
        "workers: a GPU on every worker; scoring: on the workers that read, decode, embed, score and write the score table, by "
        "resource hints, and none on those that pack shards or look for duplicates; auto: workers if there is an --accelerator",
        choices=PLACEMENTS,
    )


def check_device(device: str, option: str = "device", precision: str = "auto") -> None:
    """Refuses a device that this machine does not have, and a precision that it is not for, before a local run starts.

    Raises:
        OptionError: CUDA was asked for and is not there, or fp16 for a CPU.
    """
    from beam_curate.clip.model_description import choose_device, choose_precision

    try:
        chosen = choose_device(device)
    except RuntimeError as error:
        raise OptionError(f"--{option} {device}: {error}") from error
    try:
        choose_precision(precision, chosen)
    except ValueError as error:
        raise OptionError(f"--precision {precision} with --{option} {device}: {error}") from error


def usual_batch_size(device: str) -> int:
    """The batch size for a device of this machine, where the user gives none.

    Raises:
        OptionError: CUDA was asked for and is not there.
    """
    from beam_curate.clip.model_description import choose_batch_size, choose_device

    try:
        return choose_batch_size(choose_device(device))
    except RuntimeError as error:
        raise OptionError(f"--device {device}: {error}") from error
