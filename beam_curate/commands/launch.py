"""Running a pipeline from a command: Beam's options, the default runner, the progress line."""

import atexit
import functools
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import apache_beam as beam
import grpc
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
    TestOptions,
)
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError

from beam_curate.commands.beam_checks import check_beam_options, runner_of
from beam_curate.commands.dataflow_options import check_workers, is_dataflow
from beam_curate.commands.garbage import look_as_usual
from beam_curate.commands.interruption import end_children, own_children, saying, sparing_children
from beam_curate.commands.job_counters import counters_seen
from beam_curate.commands.options import OptionError, option_fields
from beam_curate.commands.parsing import OneLineParser, refuse_stray, refuse_unknown
from beam_curate.commands.viewed_options import ViewedOptions
from beam_curate.commands.worker_deaths import WorkerDiedError, ends_with_its_workers
from beam_curate.progress import BYTES, MODES, PARTS, PROGRESS, parts_seen, samples_seen, shown
from beam_curate.runs.claims import job_ended
from beam_curate.runs.read_runs import RunChangedError
from beam_curate.runs.run import Run
from beam_curate.storage.json_files import DamagedFileError
from beam_curate.storage.retrying import StorageError

# Beam's DirectRunner looks for the Prism binary on the network first (without a time limit) and then changes to this engine
# by itself, depending on the transforms. Asking for the engine by its name keeps a run offline and the same every time.
LOCAL_RUNNER: Final = "FnApiRunner"
_DIRECT: Final = ("DirectRunner", "SwitchingDirectRunner", LOCAL_RUNNER)

# The commands whose input is read from its first byte to its last one: the share that is read tells how long it takes.
_READS_ALL: Final = ("curate", "export")

# What the clients of job services raise when they do not get an answer, or a refusal.
_SUBMISSION_ERRORS: Final = (
    OSError,
    RuntimeError,
    ValueError,
    ImportError,
    grpc.RpcError,
    grpc.FutureTimeoutError,
    GoogleAPIError,
    GoogleAuthError,
)


class ProgressOptions(PipelineOptions):
    """--progress, for all commands: how a job is run, and not what it makes."""

    @classmethod
    def _add_argparse_args(cls, parser: Any) -> None:
        parser.add_argument(
            "--progress", choices=MODES, default=None, help="how far a job is, on standard error: see parsing.PROGRESS"
        )


class NotStartedError(RuntimeError):
    """A runner did not take the job."""


def pipeline_options(rest: Sequence[str], own: type[Any]) -> PipelineOptions:
    """Beam's options from what is left of a command line, checked as far as they can be without a job.

    Raises:
        OptionError: A word is neither this command's option nor Beam's, a value is wrong, the runner is not known or lacks
            an option that it needs, or a Dataflow job's workers would lack this package.
    """
    parser = _parser((PipelineOptions, *_subclasses(PipelineOptions)))
    flags = [name[2:] for action in parser._actions for name in action.option_strings if name.startswith("--")]
    _, left = parser.parse_known_args(list(rest))
    # A template's launcher adds options of its own, which may be newer than this Beam; it has checked the user's.
    if not any(word.split("=", 1)[0] == "--template_location" for word in rest):
        refuse_unknown(left, [field.name for field in option_fields(own)], flags)
        refuse_stray(left)
    options = ViewedOptions(list(rest))
    check_workers(options)
    standard = options.view_as(StandardOptions)
    if standard.runner is None or type(runner_of(standard.runner)).__name__ in _DIRECT:
        standard.runner = LOCAL_RUNNER
    check_beam_options(options)
    FileSystems.set_options(options)  # the input is listed before there is a pipeline
    return options


@functools.cache  # a process may run many commands
def _parser(groups: tuple[type[Any], ...]) -> OneLineParser:
    parser = OneLineParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for cls in groups:
        add = cls.__dict__.get("_add_argparse_args")
        if add is not None:
            add.__get__(None, cls)(parser)
    return parser


def _subclasses(cls: type[Any]) -> list[type[Any]]:
    return [found for child in cls.__subclasses__() for found in (child, *_subclasses(child))]


def runner_name(options: PipelineOptions) -> str:
    """The runner's name as given to Beam."""
    return str(options.view_as(StandardOptions).runner)


def in_process(options: PipelineOptions) -> bool:
    """Whether the workers are threads of this process."""
    return (
        runner_name(options) == LOCAL_RUNNER
        and options.view_as(DirectOptions).direct_running_mode != "multi_processing"
    )


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


def build_pipeline(build: Callable[[beam.Pipeline], Any], options: PipelineOptions) -> beam.Pipeline:
    """Builds a pipeline, before a run is begun: what cannot be built, or not be pickled, is found then.

    Args:
        build: Applies the transforms.
        options: Beam's options.

    Raises:
        OptionError: The runner lacks an option that it needs, or Beam refuses a value.
    """
    try:
        root = beam.Pipeline(options=options)
    except ValueError as error:
        raise OptionError(f"--runner {runner_name(options)}: {error}") from error
    atexit.register(shutil.rmtree, root.local_tempdir, ignore_errors=True)  # Beam itself removes it only after a run
    build(root)
    return root


def run_pipeline(root: beam.Pipeline, output: str, *, name: str = "curate", new: bool) -> bool:
    """Runs a pipeline and waits for its end; says on standard error how far it is (--progress).

    Returns whether it ran to its end. It did not with --no_wait_until_finish, and with Dataflow's --template_location or
    --dry_run only the job's description was made (this is how the launcher of a Flex Template calls a command).

    A new run that never started is undone, so that its folder holds no run: the runner did not take the job, or the model or a
    scorer could not be set up. Where anything is finished or scored, and after an interruption, the death of a worker or a
    failure of storage, it stays and can be continued.

    Args:
        root: The pipeline, of `build_pipeline`.
        output: Folder of the run; its shards without a part give the size of the work.
        name: The command, as the progress line begins.
        new: Whether this command has begun the run.

    Raises:
        NotStartedError: The runner did not take the job.
        RunChangedError: It failed, and a run that it reads was changed meanwhile.
    """
    options = root.options
    runner = runner_name(options)
    local = runner == LOCAL_RUNNER
    run = Run(output)
    total = _to_read(run) if local and name in _READS_ALL else 0
    kept = f"what is finished in {output} is kept: go on with --resume"
    scored = PROGRESS.snapshot().samples
    before = own_children()
    try:
        mode = options.view_as(ProgressOptions).progress
        look, unit = samples_seen(PROGRESS.snapshot()), BYTES if total else ""
        here = shown(look, total, name, mode if local else "none", unit=unit)
        with saying(kept), ends_with_its_workers(), here:
            result = _submitted(root)
            if options.view_as(StandardOptions).no_wait_until_finish:
                return False
            there = shown(counters_seen(result), 0, "the job", "none" if local or mode == "none" else "line")
            with saying(kept if local else _on_its_own(runner, output)), there:
                result.wait_until_finish()
    except BaseException as error:
        fruitless = isinstance(error, NotStartedError) or (
            # Elsewhere the job may go on, whatever has become of the connection to it.
            local and isinstance(error, Exception) and not isinstance(error, (StorageError, WorkerDiedError))
        )
        changed = _changed_meanwhile(run)
        if new and fruitless and PROGRESS.snapshot().samples == scored and _undone(output, before):
            kept = (
                f"the run did not start, and {output} holds no run: correct the cause and give the same command again"
            )
        if changed is not None and isinstance(error, Exception):
            raise changed from error  # it says what to do, whatever was found wrong first
        print(f"the run stopped; {kept}" if kept.startswith("what") else kept, file=sys.stderr)
        raise
    ended = bool(getattr(result, "has_job", not options.view_as(TestOptions).dry_run))
    if ended:
        job_ended(output)
    return ended


def _changed_meanwhile(run: Run) -> RunChangedError | None:
    """What has become of the other runs that a job has read; None if nothing, or if that cannot be told."""
    try:
        run.check_read()
    except RunChangedError as error:
        return error
    except (StorageError, DamagedFileError):
        pass
    return None


def run_and_wait(root: beam.Pipeline, name: str, reads: int) -> None:
    """Runs a pipeline that reads a score table, and waits for its end; says on standard error how far it is (--progress).

    Args:
        root: The pipeline, of `build_pipeline`.
        name: What it does, to begin a line with.
        reads: How many times it reads a part of the table; 0 if that is not known.

    Raises:
        NotStartedError: The runner did not take the job.
    """
    mode = root.options.view_as(ProgressOptions).progress
    local = runner_name(root.options) == LOCAL_RUNNER
    with ends_with_its_workers():
        with shown(parts_seen(), reads, name, mode if local else "none", unit=PARTS):
            result = _submitted(root)
        with shown(counters_seen(result), 0, name, "none" if local or mode == "none" else "line"):
            result.wait_until_finish()


def _to_read(run: Run) -> int:
    """The bytes of the input without a part of the table."""
    done = run.parts
    return sum(shard.size for shard in run.input_shards if shard.index not in done)


def _submitted(root: beam.Pipeline) -> Any:
    """Runs the pipeline, as far as the runner does so before it returns."""
    runner = runner_name(root.options)
    look_as_usual()  # all is loaded
    if runner == LOCAL_RUNNER:
        with sparing_children():
            return root.run()
    try:
        return root.run()
    except _SUBMISSION_ERRORS as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        endpoint = root.options.view_as(PortableOptions).job_endpoint
        where = f" at --job_endpoint {endpoint}" if endpoint else ""
        raise NotStartedError(f"--runner {runner}{where} did not take the job: {said}") from error


def _on_its_own(runner: str, output: str) -> str:
    """What an interrupted command says of a job that runs elsewhere."""
    if is_dataflow(runner):
        return f"the job goes on without this command and writes to {output}; cancel it where it runs"
    return f"check whether {runner} goes on with the job; when it has ended, go on with --resume"


def _undone(output: str, others: Collection[int]) -> bool:
    """Takes back the beginning of a run, unless something of it is finished."""
    end_children(others)  # a worker that is left would write there again
    try:
        return Run(output).forget_unstarted()
    except StorageError:
        return False
