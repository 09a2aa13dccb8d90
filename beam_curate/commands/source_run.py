"""The finished run that another command starts from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from beam_curate.commands.options import OptionError, printable

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_curate.commands.dedup_options import DedupOptions
    from beam_curate.commands.select_options import SelectOptions
    from beam_curate.records import Shard
    from beam_curate.runs.configuration import Configuration
    from beam_curate.runs.run import Run
    from beam_curate.runs.summary import About, Summary
    from beam_curate.runs.table_parts import TablePlace


def finished_run(option: str, folder: str) -> tuple[Run, Summary]:
    """A finished run that has a score table, by its absolute folder, and its summary.

    Args:
        option: The option that names it.
        folder: As the user named it.

    Raises:
        OptionError: There is none, it is not finished or damaged, or a part of its table or of its verdicts is missing.
    """
    from beam_curate.runs.run import Run
    from beam_curate.runs.score_table import ScoreTableError
    from beam_curate.storage.files import absolute
    from beam_curate.storage.json_files import DamagedFileError

    run = Run(absolute(folder))
    if not run.is_finished:
        begun = run.is_begun
        remedy = (
            "is not finished; continue it with --resume first"
            if begun
            else "is no run of beam-curate curate; give its --output"
        )
        raise OptionError(f"--{option} {folder} {remedy}")
    try:
        if run.is_export:
            made_of = printable(run.export_summary.input.run or "a folder of beam-curate curate, select or dedup")
            raise OptionError(
                f"--{option} {folder} is an export, without a score table; give the run it was made of: {made_of}"
            )
        summary = run.summary
        if summary.configuration.scored.model is None or not run.is_begun:
            raise OptionError(
                f"--{option} {folder} was not made by beam-curate curate or select: its mark or the configuration in its "
                f"{run.summary_path} is missing; give the --output of one of these"
            )
        run.check_table()
    except (ScoreTableError, DamagedFileError) as error:
        raise OptionError(f"--{option} {folder}: {error}") from error
    return run, summary


def start_selection(
    options: DedupOptions | SelectOptions,
    output: str,
    configuration: Configuration,
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
    from beam_curate.commands.launch import service_job
    from beam_curate.commands.outcome import finish_complete
    from beam_curate.runs.claims import claim
    from beam_curate.runs.run import Run
    from beam_curate.storage.files import absolute
    from beam_curate.storage.places import same_place

    if any(same_place(output, folder) for folder in (absolute(options.scores), table.scores)):
        raise OptionError(
            f"--output {options.output} is the folder of --scores; give another one: the table there stays as it is"
        )
    claim(output, service_job(beam_options))
    complete = Run(output).begin(
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


def about_source(source: Summary, configuration: Configuration, scores: str, runner: str = "") -> About:
    """What summary.json says of the run that was started from, and what decides the result.

    Args:
        source: The summary of that run.
        configuration: What decides the result.
        scores: Its folder as the user named it.
        runner: Beam's name of it; empty for a preview, which is no run and has no time.
    """
    import datetime
    from dataclasses import replace
    from importlib.metadata import version

    from beam_curate.runs.summary import About

    now = datetime.datetime.now(datetime.timezone.utc)
    return About(
        scores_meaningless=source.scores_meaningless,
        random=source.random,
        heads=source.heads,
        configuration=configuration,
        input=replace(source.input, scores=scores),
        runner=runner,
        versions={**source.versions, "beam_curate": version("beam-curate")},
        started=now.isoformat(timespec="seconds") if runner else "",
    )


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
