"""The one shape of the commands that run a job: options, a look at the input, a folder made ready, a pipeline, a report."""

from __future__ import annotations

import datetime
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, TypeVar

from beam_curate.commands.endings import fail, gives_back
from beam_curate.commands.parsing import check_places, parse
from beam_curate.commands.run_options import RunOptions, ShardOptions

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_curate.runs.configuration import Configuration
    from beam_curate.runs.summary import About
    from beam_curate.runs.wanted import WantedRun

Options = TypeVar("Options", bound=RunOptions)

_OF_BEAM: Final = (
    "Every option of Apache Beam passes through, such as --runner=DataflowRunner; the default runner is Beam's in-process "
    "one."
)


class Job(ABC):
    """All that a command knows before any work starts, and what it does with it.

    Each command has a frozen dataclass of this kind, whose first field is its options.
    """

    options: RunOptions

    @property
    def output(self) -> str:
        """The absolute folder that is written to."""
        from beam_curate.storage.files import absolute

        return absolute(self.options.output)

    @property
    @abstractmethod
    def configuration(self) -> Configuration:
        """What decides the result: a run is continued only with the same."""

    @property
    @abstractmethod
    def wanted(self) -> WantedRun:
        """The run, and what may become of one that is there."""

    @abstractmethod
    def about(self, runner: str) -> About:
        """What summary.json says beside the counts.

        Args:
            runner: Beam's name of it.
        """

    @abstractmethod
    def build(self, root: beam.Pipeline, about: Mapping[str, object]) -> object:
        """Applies the transforms, for what is left of the run.

        Args:
            root: The pipeline.
            about: What `about` says, as JSON.
        """

    @abstractmethod
    def report(self, seconds: float) -> int:
        """Prints what came out; returns the exit status.

        Args:
            seconds: How long it took.
        """

    def without_run(self, beam_options: PipelineOptions) -> bool:
        """Does what needs no folder to write to; returns whether that was all."""
        del beam_options
        return False

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do in a folder whose run is not complete."""
        return False

    @abstractmethod
    def finish_complete(self, beam_options: PipelineOptions) -> None:
        """Says that the run is complete already, and does what it lacks.

        Raises:
            ValueError: A file of it is missing or damaged.
        """

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know before the work starts, for standard error."""
        return ()

    @property
    def mark(self) -> str:
        """The file that says that the work is done, as the user named its folder."""
        from beam_curate.runs.run import Run

        return Run(self.options.output).summary_path


class TableJob(Job):
    """A job whose run has a score table, its own or another's, and packs the kept rows."""

    options: ShardOptions

    def finish_complete(self, beam_options: PipelineOptions) -> None:
        """See Job."""
        from beam_curate.commands.outcome import finish_complete

        finish_complete(self.output, self.options.output, self.options.layouts, beam_options)

    def report(self, seconds: float) -> int:
        """See Job: the funnel and where to look; 1 if samples were lost or none could be processed."""
        from beam_curate.commands.outcome import report

        return report(self.output, self.options.output, seconds)


def as_they_are(options: Options, given: frozenset[str], rest: list[str]) -> tuple[Options, list[str]]:
    """Nothing to settle before a command looks at its input."""
    del given
    return options, rest


def command(
    kind: type[Options],
    about: str | None,
    epilog: str,
    prepare: Callable[[Options, frozenset[str], PipelineOptions], Job],
    settled: Callable[[Options, frozenset[str], list[str]], tuple[Options, list[str]]] = as_they_are,
) -> Callable[[Sequence[str] | None], int]:
    """The `main` of a command.

    It returns the exit status. 0: done. 1: samples were lost or could not be written, or none could be processed. 2: a wrong
    option, before any work.

    Args:
        kind: Its options class.
        about: The docstring of its module, whose first line tells what it does.
        epilog: What `--help` says at its end, beside what holds of all commands.
        prepare: Looks at the input, with the names of the options that the user gave and with Beam's; writes nothing. It raises
            ValueError, one line that names what does not fit and the remedy.
        settled: The options, and what is left of the command line for Beam, as they are when one has decided the other; before
            Beam is loaded.
    """
    name = kind.__name__.removesuffix("Options").lower()

    @gives_back
    def main(argv: Sequence[str] | None = None) -> int:
        argv = sys.argv[1:] if argv is None else argv
        try:
            options, rest, given = parse(kind, argv, str(about).splitlines()[0], f"{_OF_BEAM} {epilog}")
            options, rest = settled(options, given, rest)
        except ValueError as error:
            return fail(error)
        from beam_curate.commands.beam_parts import load_beam

        load_beam()
        from beam_curate.commands.launch import build_pipeline, pipeline_options, runner_name, service_job
        from beam_curate.commands.outcome import finish_run
        from beam_curate.runs.claims import claim
        from beam_curate.runs.run import Run
        from beam_curate.storage.retrying import StorageError

        started = time.monotonic()
        try:
            beam_options = pipeline_options(rest, kind)
            check_places(options)
            job = prepare(options, given, beam_options)
            if job.without_run(beam_options):
                return 0
            said = job.about(runner_name(beam_options)).to_json()
            build: Callable[[beam.Pipeline], object] = lambda root: job.build(root, said)  # noqa: E731
            root = build_pipeline(build, beam_options)
            claim(job.output, service_job(beam_options))
            wanted = job.wanted
            complete = Run(job.output).begin(wanted) or job.is_done
            if complete:
                job.finish_complete(beam_options)
            elif wanted.overwrite or wanted.retry:  # what the first one was built on may be deleted by now
                root = build_pipeline(build, beam_options)
        except (ValueError, StorageError) as error:
            return fail(error)
        if not complete:
            for note in job.notes:
                print(note, file=sys.stderr)
            if not finish_run(root, job.output, job.mark, name=name, new=not wanted.goes_on):
                return 0
        return job.report(time.monotonic() - started)

    return main


def versions(*packages: str) -> dict[str, str]:
    """The versions of this package, and of others."""
    return {"beam_curate": version("beam-curate"), **{package: version(package) for package in packages}}


def now() -> str:
    """The time, as ISO 8601 has it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
