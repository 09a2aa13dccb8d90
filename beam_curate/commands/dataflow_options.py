"""GPUs on Dataflow: one table of accelerators, and what asking for one implies for a job.

    --runner=DataflowRunner --accelerator l4

The user says which GPU; its machine, disk, threads, batch size, precision and processes follow from the table, each
unless the user gave it. Combinations that Dataflow refuses, or takes and runs on the CPU, are refused here, before any
work. Only the standard library is imported with this module, so that `--help` answers at once.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from beam_curate.commands.gpus import GPUS, NONE
from beam_curate.commands.model_options import AUTO, DALI, NOWHERE, SCORING, WORKERS, ModelOptions
from beam_curate.commands.options import OptionError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# Dataflow's own default is 25 GB for a batch worker with its shuffle service; the unpacked image alone takes about 11.
# Source: Google Cloud, "Run a pipeline with GPUs" (docs.cloud.google.com/dataflow/docs/gpu/use-gpus), which asks for 50 GB
# or more where the image is large; model files, staged packages and logs come on top.
_DISK_GB: Final = 100
# 5xx: the newest driver that Dataflow offers; its default on older GPUs is a 4xx, and CUDA 12 needs 525 or later.
_DRIVER: Final = "install-nvidia-driver:5xx"
_ONE_PROCESS: Final = "no_use_multiple_sdk_containers"
# A GPU that hangs neither answers nor fails. Beam then ends the worker process, and Dataflow starts another one. No step of ours
# works on one element, or loads a model, for nearly as long. Source: Beam's WorkerOptions and runners/worker/worker_status.py.
_STILL_MINUTES: Final = 120

Options = TypeVar("Options", bound=ModelOptions)


def with_gpu_defaults(options: Options, given: frozenset[str], rest: Sequence[str]) -> Options:
    """Settles the placement and fills in what the accelerator implies; without one, the options as they are.

    Args:
        options: The command's options, a dataclass.
        given: The names of those that the user gave, which stay as they are.
        rest: Beam's part of the command line.

    Raises:
        OptionError: The combination cannot work; it names the options and the remedy.
    """
    if options.accelerator == NONE:
        if options.gpu_placement in (WORKERS, SCORING):
            raise OptionError(
                f"--gpu_placement {options.gpu_placement} needs a GPU: give --accelerator {', '.join(GPUS)}"
            )
        _check_own_gpu(options, _beam_options(rest))
        return dataclasses.replace(options, gpu_placement=NOWHERE)
    gpu = GPUS[options.accelerator]
    placement = WORKERS if options.gpu_placement == AUTO else options.gpu_placement
    _check(options, placement, _beam_options(rest))
    on_gpu = options.decoder == DALI and options.dali_device == AUTO
    alone = options.model_copies > 1 and not options.decode_threads
    return dataclasses.replace(
        options,
        gpu_placement=placement,
        device="cuda",
        dali_device="cuda"
        if on_gpu
        else options.dali_device,  # a worker whose GPU is missing fails, and does not use its CPU
        decode_threads=1 if alone else options.decode_threads,  # there is a process for each core
        precision=options.precision if "precision" in given else gpu.precision,
        batch_size=options.batch_size if "batch_size" in given else gpu.batch_size,
    )


def dataflow_arguments(options: ModelOptions, rest: Sequence[str]) -> list[str]:
    """Beam's whole command line: what the settled options imply, then the user's own words, which win.

    Args:
        options: What `with_gpu_defaults` returned.
        rest: Beam's part of the command line.
    """
    if options.accelerator == NONE:
        return list(rest)
    gpu = GPUS[options.accelerator]
    shared = options.model_copies > 1
    implied = [f"--disk_size_gb={_DISK_GB}", f"--element_processing_timeout_minutes={_STILL_MINUTES}"]
    if options.gpu_placement == WORKERS:
        implied.append(f"--machine_type={gpu.machine_type}")
        if not _own_accelerator(_beam_options(rest)):
            implied.append(f"--dataflow_service_options=worker_accelerator={_accelerator(options)}")
    # Several model copies live in processes of their own, which share the GPU through MPS; one worker process a core decodes
    # for them. Else one process with threads holds the one model; the decoders and the GPU work outside Python's global lock.
    implied.append(f"--number_of_worker_harness_threads={1 if shared else gpu.threads}")
    if not shared:
        implied.append(f"--experiments={_ONE_PROCESS}")
    if any(word.split("=", 1)[0] == "--sdk_container_image" for word in rest):
        implied.append("--sdk_location=container")  # the image has Beam: nothing to stage
    return [*implied, *rest]


def check_workers(options: "PipelineOptions") -> None:
    """Refuses a Dataflow job whose workers would have Beam's stock image: neither torch nor this package.

    Args:
        options: All of Beam's options.

    Raises:
        OptionError: There is no image, nor a package to stage; it names the remedy.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions, SetupOptions, StandardOptions, WorkerOptions

    if not is_dataflow(str(options.view_as(StandardOptions).runner)):
        return
    workers = options.view_as(WorkerOptions)
    if workers.sdk_container_image or workers.worker_harness_container_image:
        return
    lacking = (
        "--sdk_container_image is missing: the workers would have Beam's stock image, without torch and this package"
    )
    if options.view_as(GoogleCloudOptions).template_location:
        raise OptionError(f"{lacking}; give the template's own image, as the parameter sdk_container_image")
    if not options.view_as(SetupOptions).setup_file:
        raise OptionError(
            f"{lacking}; give the image of docs/dataflow.md or, in a checkout, --setup_file ./setup.py: then every worker "
            "installs the package and what it needs"
        )


def scoring_hints(options: ModelOptions, runner: str) -> dict[str, str]:
    """The resource hints of all steps of the scoring stage; empty unless that is the placement and the runner uses them.

    A hint on some of these steps alone would break their fusion, and have the pixels written out between them.
    """
    if options.gpu_placement != SCORING or not is_dataflow(runner):
        return {}
    return {"accelerator": _accelerator(options, GPUS[options.accelerator].machine_type)}


def is_dataflow(runner: str) -> bool:
    """Whether a runner's name, as Beam takes it, is Dataflow's."""
    return runner.rsplit(".", 1)[-1].lower() in ("dataflow", "dataflowrunner", "testdataflowrunner")


def _accelerator(options: ModelOptions, machine_type: str = "") -> str:
    machine = [f"machine_type:{machine_type}"] if machine_type else []
    mps = ["use_nvidia_mps"] if options.model_copies > 1 else []
    return ";".join([f"type:{GPUS[options.accelerator].type}", "count:1", *machine, _DRIVER, *mps])


def _own_accelerator(beam: "PipelineOptions") -> dict[str, str]:
    """The parts of the user's own worker_accelerator: `type`, `count` and so on to their values; empty without one."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    services: list[str] = beam.view_as(GoogleCloudOptions).dataflow_service_options or []
    for service in services:
        if service.startswith("worker_accelerator="):
            return _parts(service.removeprefix("worker_accelerator="))
    return {}


def _parts(accelerator: str) -> dict[str, str]:
    parts = (part.partition(":") for part in accelerator.split(";"))
    return {name.strip(): value.strip() for name, _, value in parts}


def _check_own_gpu(options: ModelOptions, beam: "PipelineOptions") -> None:
    """Refuses a GPU that is asked for in Beam's own words alone: nothing would follow from it, and the model might miss it."""
    from apache_beam.options.pipeline_options import StandardOptions

    asked = {"--dataflow_service_options=worker_accelerator…": _own_accelerator(beam).get("type", "")}
    for hint in beam.view_as(StandardOptions).resource_hints or []:
        if hint.startswith("accelerator="):
            asked["--resource_hint accelerator=…"] = _parts(hint.removeprefix("accelerator=")).get("type", "")
    on_gpu = next((f"--{name} cuda" for name in ("device", "dali_device") if getattr(options, name) == "cuda"), "")
    if on_gpu and not any(asked.values()) and is_dataflow(str(beam.view_as(StandardOptions).runner)):
        raise OptionError(
            f"{on_gpu}, but the workers have no GPU; give --accelerator {', '.join(GPUS)}, or leave it out"
        )
    for words, kind in asked.items():
        names = [name for name, gpu in GPUS.items() if gpu.type == kind]
        if names:
            raise OptionError(
                f"{words} asks for {kind}, and machine, disk, processes, --device, --batch_size and --precision would not "
                f"follow from it; also give --accelerator {names[0]}"
                + ("" if "service" in words else ", in place of it")
            )
        if kind and options.device != "cuda":
            raise OptionError(
                f"{words} asks for {kind}, of which nothing is known here; give --device cuda, so that no worker uses its CPU, "
                f"and --batch_size, --machine_type, --disk_size_gb=100 and --experiments={_ONE_PROCESS}"
            )


def check_precision(options: ModelOptions, runner: str) -> None:
    """Refuses fp16 on Dataflow's workers without a GPU, before one of them does when it loads the model.

    Raises:
        OptionError: It names the remedy.
    """
    if is_dataflow(runner) and options.device != "cuda" and options.precision == "fp16":
        raise OptionError(
            "--precision fp16, but the workers have no GPU, and a CPU is five times slower in fp16 than in fp32; "
            f"give --accelerator {', '.join(GPUS)}, or bf16, fp32 or auto"
        )


def _check(options: ModelOptions, placement: str, beam: "PipelineOptions") -> None:
    """Refuses what cannot work; `beam` holds the user's own Beam options."""
    from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, StandardOptions, WorkerOptions

    asked = f"--accelerator {options.accelerator}"
    gpu = GPUS[options.accelerator]
    own = _own_accelerator(beam)
    machine = beam.view_as(WorkerOptions).machine_type or ""
    copies = f"--model_copies {options.model_copies}"
    google = beam.view_as(GoogleCloudOptions)
    runner = str(beam.view_as(StandardOptions).runner or "the in-process runner")
    services: list[str] = google.dataflow_service_options or []
    experiments: list[str] = beam.view_as(DebugOptions).experiments or []
    hints: list[str] = beam.view_as(StandardOptions).resource_hints or []
    prime = {"enable_prime"} & {*services, *experiments}
    cases = (
        (not is_dataflow(runner),
         f"{asked} is for --runner=DataflowRunner, not for {runner}; on a machine with a GPU give --device cuda"),
        (placement == NOWHERE, f"{asked} with --gpu_placement none asks for a GPU and for no GPU; leave one of them out"),
        (options.device == "cpu", f"{asked} with --device cpu would leave the GPU idle; leave one of them out"),
        (options.model_copies > 1 and options.decoder == DALI,
         f"{copies} with --decoder dali: each worker process, one a core, would have a DALI of its own on the GPU; give "
         "--decoder fast, or --model_copies 1"),
        (options.accelerator == "t4" and options.precision == "bf16",
         "--precision bf16: a T4 has no bf16 and would emulate it; give fp16 or fp32"),
        (bool(own) and placement == SCORING,
         f"{asked} with --gpu_placement scoring and --dataflow_service_options=worker_accelerator… both ask for GPUs; leave one "
         "of them out"),
        (bool(own) and (own.get("type"), own.get("count")) != (gpu.type, "1"),
         f"{asked} is one {gpu.type} a worker, and --dataflow_service_options=worker_accelerator… has type:{own.get('type')}, "
         f"count:{own.get('count')}; give type:{gpu.type};count:1 there, or leave it out"),
        (bool(own) and options.model_copies > 1 and "use_nvidia_mps" not in own,
         f"{copies} shares the GPU through MPS; add use_nvidia_mps to --dataflow_service_options=worker_accelerator…"),
        (not gpu.on_demand and "provisioning_model" not in own,
         f"{asked}: {gpu.machine_type} is available only as Spot or flex-start; give --dataflow_service_options="
         f"'worker_accelerator={_accelerator(options)};provisioning_model:FLEX_START' as docs/dataflow.md says, with "
         "--gpu_placement workers"),
        (placement == WORKERS and bool(machine) and not re.fullmatch(gpu.machines, machine),
         f"--machine_type {machine} has no {gpu.type}, or more than one; give {gpu.machine_type} or leave it out"),
        (placement == SCORING and bool(re.match(r"(g2|a2|a3)-", machine)),
         f"--machine_type {machine} has a GPU, but with --gpu_placement scoring it is for the workers without one; give one "
         "such as n2-standard-8"),
        (any(hint.startswith("accelerator=") for hint in hints),
         f"{asked} and --resource_hint accelerator=… both ask for GPUs; leave one of them out"),
        (placement == SCORING and google.flexrs_goal is not None,
         "--gpu_placement scoring uses resource hints, which FlexRS refuses; leave out --flexrs_goal, or give "
         "--gpu_placement workers"),
        (placement == WORKERS and prime,
         "--gpu_placement workers is not for Dataflow Prime; give --gpu_placement scoring, or leave out enable_prime"),
        (options.model_copies > 1 and prime,
         f"{copies} shares the GPU through MPS, which Dataflow Prime does not have; give 1"),
        (options.model_copies > 1 and _ONE_PROCESS in experiments,
         f"{copies} needs several processes, which --experiments={_ONE_PROCESS} forbids; leave "
         "one of them out"),
    )  # fmt: skip
    for wrong, message in cases:
        if wrong:
            raise OptionError(message)


def _beam_options(rest: Sequence[str]) -> "PipelineOptions":
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(list(rest))
