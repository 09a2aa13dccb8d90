"""Running a pipeline from a command: Beam's options, the default runner, the progress line."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions, TestOptions

from beam_curate.progress import progress_line
from beam_curate.runs.claims import job_ended
from beam_curate.runs.run_state import input_shards, part_paths
from pipelines.dataflow_options import check_workers
from pipelines.options import OptionError, refuse_stray, refuse_unknown
from pipelines.worker_deaths import ends_with_its_workers

# Beam's DirectRunner looks for the Prism binary on the network first (without a time limit) and then changes to this engine
# by itself, depending on the transforms. Asking for the engine by its name keeps a run offline and the same every time.
LOCAL_RUNNER = "FnApiRunner"


def pipeline_options(rest: Sequence[str], own: type[Any]) -> PipelineOptions:
    """Beam's options from what is left of a command line.

    Raises:
        OptionError: A word is neither this command's option nor Beam's, or a Dataflow job's workers would lack this package.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for cls in [PipelineOptions, *_subclasses(PipelineOptions)]:
        add = cls.__dict__.get("_add_argparse_args")
        if add is not None:
            add.__get__(None, cls)(parser)
    flags = [name[2:] for action in parser._actions for name in action.option_strings if name.startswith("--")]
    # A template's launcher adds options of its own, which may be newer than this Beam; it has checked the user's.
    if not any(word.split("=", 1)[0] == "--template_location" for word in rest):
        refuse_unknown(rest, [field.name for field in dataclasses.fields(own)], flags)
        refuse_stray(parser.parse_known_args(list(rest))[1])
    options = PipelineOptions(list(rest))
    check_workers(options)
    standard = options.view_as(StandardOptions)
    if standard.runner in (None, "DirectRunner"):
        standard.runner = LOCAL_RUNNER
    FileSystems.set_options(options)  # the input is listed before there is a pipeline
    return options


def _subclasses(cls: type[Any]) -> list[type[Any]]:
    return [found for child in cls.__subclasses__() for found in (child, *_subclasses(child))]


def runner_name(options: PipelineOptions) -> str:
    """The runner's name as given to Beam."""
    return str(options.view_as(StandardOptions).runner)


def service_job(options: PipelineOptions) -> dict[str, str] | None:
    """What tells a Dataflow job, which goes on when the command ends; None for what ends with it, or does not start.

    A job without a name is given one.
    """
    cloud = options.view_as(GoogleCloudOptions)
    if runner_name(options) != "DataflowRunner" or options.view_as(TestOptions).dry_run:
        return None
    if not cloud.job_name:
        from apache_beam.runners.dataflow.internal.apiclient import Job

        cloud.job_name = Job.default_job_name(None)
    said = {"name": cloud.job_name, "project": cloud.project, "region": cloud.region}
    said |= {"endpoint": cloud.dataflow_endpoint, "template": cloud.template_location}
    return {name: str(value) for name, value in said.items() if value}


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


def run_pipeline(build: Callable[[beam.Pipeline], Any], options: PipelineOptions, output: str) -> bool:
    """Builds and runs a pipeline and waits for its end; shows the progress of a local run on a terminal.

    Returns whether it ran to its end. It did not with --no_wait_until_finish, and with Dataflow's --template_location or
    --dry_run only the job's description was made (this is how the launcher of a Flex Template calls a command).

    Args:
        build: Applies the transforms.
        options: Beam's options.
        output: Folder of the run; its shards without a part give the size of the work.
    """
    local = runner_name(options) == LOCAL_RUNNER
    done = part_paths(output) if local else {}
    total = sum(shard.size for shard in input_shards(output) if shard.index not in done) if local else 0
    root = beam.Pipeline(options=options)
    build(root)
    try:
        with ends_with_its_workers(), progress_line(total, enabled=None if local else False):
            result = root.run()
            if options.view_as(StandardOptions).no_wait_until_finish:
                return False
            result.wait_until_finish()
    except BaseException:
        print(f"the run stopped; what is finished in {output} is kept: go on with --resume", file=sys.stderr)
        raise
    ended = bool(getattr(result, "has_job", not options.view_as(TestOptions).dry_run))
    if ended:
        job_ended(output)
    return ended
