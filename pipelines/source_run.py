"""The finished run that another command starts from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.options import OptionError, printable

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_curate.records import Shard
    from beam_curate.runs.table_parts import TablePlace
    from pipelines.dedup_options import DedupOptions
    from pipelines.select_options import SelectOptions


def finished_run(option: str, folder: str) -> tuple[str, dict[str, Any]]:
    """The absolute folder of a finished run that has a score table, and its summary.

    Args:
        option: The option that names it.
        folder: As the user named it.

    Raises:
        OptionError: There is none, it is not finished or damaged, or a part of its table or of its verdicts is missing.
    """
    from beam_curate.runs.run_state import RUN
    from beam_curate.runs.score_table import ScoreTableError
    from beam_curate.runs.state_files import read_summary
    from beam_curate.runs.summary import SUMMARY
    from beam_curate.runs.whole_run import check_table
    from beam_curate.storage.files import absolute, exists, join
    from beam_curate.storage.json_files import DamagedFileError

    source = absolute(folder)
    if not exists(join(source, SUMMARY)):
        there = exists(join(source, RUN))
        remedy = (
            "is not finished; continue it with --resume first" if there else "is no run of curate.py; give its --output"
        )
        raise OptionError(f"--{option} {folder} {remedy}")
    try:
        summary = read_summary(source)
    except DamagedFileError as error:
        raise OptionError(f"--{option} {folder}: {error}") from error
    if "export" in summary:
        made_of = printable(summary.get("input", {}).get("run", "a folder of curate.py, select.py or dedup.py"))
        raise OptionError(
            f"--{option} {folder} is an export, without a score table; give the run it was made of: {made_of}"
        )
    if "model" not in scoring_configuration(summary.get("configuration", {})) or not exists(join(source, RUN)):
        raise OptionError(
            f"--{option} {folder} was not made by curate.py or select.py: its {RUN} or the configuration in its {SUMMARY} "
            "is missing; give the --output of one of these"
        )
    try:
        summary = read_summary(source, "funnel", "scores_meaningless", "random", "heads")
        check_table(source, summary)
    except (ScoreTableError, DamagedFileError) as error:
        raise OptionError(f"--{option} {folder}: {error}") from error
    return source, summary


def start_selection(
    options: DedupOptions | SelectOptions,
    output: str,
    configuration: Mapping[str, Any],
    shards: Sequence[Shard],
    table: TablePlace,
    others: Sequence[str],
    beam_options: PipelineOptions,
    reads: Sequence[str] = (),
) -> bool:
    """Makes the output folder ready for a run that judges another's score table; returns whether it is complete already.

    Args:
        options: The options.
        output: The absolute folder.
        configuration: What decides the result.
        shards: The input shards of the source's run.
        table: Its score table.
        others: Further folders of runs that are read: those of --duplicates or --against.
        beam_options: Beam's options.
        reads: Files and folders that are read beside these and the input shards.

    Raises:
        ValueError: The folder is one of the source's, or does not allow the run.
        StorageError: A file cannot be read or written.
    """
    from beam_curate.runs.claims import claim
    from beam_curate.runs.run_state import prepare_output
    from beam_curate.storage.files import absolute
    from beam_curate.storage.places import same_place
    from pipelines.launch import service_job
    from pipelines.outcome import finish_complete

    if any(same_place(output, folder) for folder in (absolute(options.scores), table.scores)):
        raise OptionError(
            f"--output {options.output} is the folder of --scores; give another one: the table there stays as it is"
        )
    claim(output, service_job(beam_options))
    complete = prepare_output(
        output,
        configuration,
        shards,
        resume=options.resume,
        overwrite=options.overwrite,
        scores=table.scores,
        reads=[absolute(path) for path in reads],
        runs=[absolute(folder) for folder in (options.scores, *others) if folder],
    )
    if complete:
        finish_complete(output, options.output, options.layouts, beam_options)
    return complete


def about_source(source: Mapping[str, Any], configuration: Mapping[str, Any], scores: str) -> dict[str, Any]:
    """What summary.json says of the run that was started from, and what decides the result.

    Args:
        source: The summary of that run.
        configuration: What decides the result.
        scores: Its folder as the user named it.
    """
    from importlib.metadata import version

    return {
        "scores_meaningless": source["scores_meaningless"],
        "random": source["random"],
        "heads": source["heads"],
        "configuration": configuration,
        "input": {**source.get("input", {}), "scores": scores},
        "versions": {**source.get("versions", {}), "beam_curate": version("beam-curate")},
    }


def scoring_configuration(configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the run that scored: a table may have been selected from more than once since."""
    while "source" in configuration:
        configuration = configuration["source"].get("configuration", {})
    return configuration


def refuse_written_over(report: str, folders: Iterable[tuple[str, str]], read: Iterable[str]) -> None:
    """Refuses a file for a report that would take the place of a folder, or of what is read.

    Args:
        report: The file, as the user named it.
        folders: Options, and the folder of each: they stay as they are.
        read: Files.

    Raises:
        OptionError: It names the option and the remedy.
    """
    from beam_curate.storage.files import absolute
    from beam_curate.storage.places import Folders, same_place

    path = absolute(report)
    for option, folder in folders:
        if Folders([folder]).hold(path):
            raise OptionError(
                f"--report {report} is in the folder of --{option}, which stays as it is; give another path"
            )
    taken = next((each for each in read if same_place(path, absolute(each))), None)
    if taken is not None:
        raise OptionError(f"--report {report} is the file {taken}, which is read; give another path")
    if os.path.isdir(path):
        raise OptionError(f"--report {report} is a folder; give the path of a file, such as preview.html")
