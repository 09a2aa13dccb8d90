"""The finished run that another command starts from."""

from collections.abc import Mapping
from typing import Any

from pipelines.options import OptionError


def finished_run(option: str, folder: str) -> tuple[str, dict[str, Any]]:
    """The absolute folder of a finished run that has a score table, and its summary.

    Args:
        option: The option that names it.
        folder: As the user named it.

    Raises:
        OptionError: There is none, or it is not finished.
    """
    from beam_curate.run_state import RUN
    from beam_curate.storage import absolute, exists, join, read_json
    from beam_curate.summary import SUMMARY

    source = absolute(folder)
    if not exists(join(source, SUMMARY)):
        there = exists(join(source, RUN))
        remedy = (
            "is not finished; continue it with --resume first" if there else "is no run of curate.py; give its --output"
        )
        raise OptionError(f"--{option} {folder} {remedy}")
    summary: dict[str, Any] = read_json(join(source, SUMMARY))
    if "model" not in scoring_configuration(summary.get("configuration", {})) or not exists(join(source, RUN)):
        raise OptionError(
            f"--{option} {folder} was not made by curate.py or select.py: its {RUN} or the configuration in its {SUMMARY} "
            "is missing; give the --output of one of these"
        )
    return source, summary


def scoring_configuration(configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the run that scored: a table may have been selected from more than once since."""
    while "source" in configuration:
        configuration = configuration["source"]["configuration"]
    return configuration
