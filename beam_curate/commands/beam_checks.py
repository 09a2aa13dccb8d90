"""Beam's own options, checked before a run is begun: what Beam itself finds only when a job starts, or never."""

import difflib

from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import PipelineRunner, create_runner

from beam_curate.commands.dataflow_options import is_dataflow
from beam_curate.commands.options import OptionError


def runner_of(name: str) -> PipelineRunner:
    """The runner of a name, as Beam finds it.

    Raises:
        OptionError: There is none, or a package that it needs is not installed.
    """
    known = StandardOptions.KNOWN_RUNNER_NAMES
    try:
        runner = create_runner(name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        reason = "is not known" if isinstance(error, ValueError) else f"cannot be loaded ({error})"
        raise OptionError(f"--runner {name} {reason}; {hint}there are: {', '.join(known)}") from error
    if not isinstance(runner, PipelineRunner):
        raise OptionError(f"--runner {name} is not a runner of Beam; there are: {', '.join(known)}")
    return runner


def check_beam_options(options: PipelineOptions) -> None:
    """Checks the values of Beam's options that making a pipeline does not check.

    Raises:
        OptionError: It names the option and the remedy.
    """
    name = str(options.view_as(StandardOptions).runner)
    direct = options.view_as(DirectOptions)
    for option in ("direct_num_workers", "direct_runner_bundle_repeat"):
        value = getattr(direct, option)
        if value is not None and int(value) < 0:
            raise OptionError(f"--{option} is {value}; give at least 0")
    environment = options.view_as(PortableOptions).environment_type
    environments = tuple(PipelineOptionsValidator.REQUIRED_ENVIRONMENT_OPTIONS)
    if environment and environment not in environments and not environment.startswith("beam:env:"):
        raise OptionError(f"--environment_type {environment} is not known; give one of {', '.join(environments)}")
    if is_dataflow(name):
        _check_places(options.view_as(GoogleCloudOptions))


def _check_places(google: GoogleCloudOptions) -> None:
    """Refuses places that Dataflow cannot reach; Beam would look for a bucket of its own instead."""
    for option in ("temp_location", "staging_location"):
        place = getattr(google, option)
        if place and not place.startswith("gs://"):
            raise OptionError(f"--{option} {place}: Dataflow needs a place in a bucket, such as gs://my-bucket/tmp")
