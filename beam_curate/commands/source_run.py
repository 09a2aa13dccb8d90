"""The finished run that another command starts from."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from beam_curate.commands.endings import printable
from beam_curate.commands.job import TableJob, now, versions
from beam_curate.commands.options import OptionError

if TYPE_CHECKING:
    from beam_curate.commands.dedup_options import DedupOptions
    from beam_curate.commands.select_options import SelectOptions
    from beam_curate.records import Shard
    from beam_curate.runs.run import Run
    from beam_curate.runs.summary import About, Summary
    from beam_curate.runs.table_parts import TablePlace
    from beam_curate.runs.wanted import WantedRun


_LOOKED_AT: Final = 8


def finished_run(option: str, folder: str) -> tuple[Run, Summary]:
    """A finished run that has a score table, by its absolute folder, and its summary.

    Args:
        option: The option that names it.
        folder: As the user named it.

    Raises:
        OptionError: There is none, it is not finished or damaged, or a part of its table or of its verdicts is missing.
    """
    from beam_curate.runs.configuration import EXPORT, PACK
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
            else "is not a run of beam-curate curate, select or dedup; give the --output of one of these"
        )
        raise OptionError(f"--{option} {folder} {remedy}")
    try:
        kind = run.ended_kind
        if kind == PACK:
            raise OptionError(
                f"--{option} {folder} holds packed images, without a score table; score them by beam-curate curate, and give "
                "the --output of that"
            )
        if kind == EXPORT:
            made_of = printable(run.export_summary.input.run or "a folder of beam-curate curate, select or dedup")
            raise OptionError(
                f"--{option} {folder} is an export, without a score table; give the run it was made of: {made_of}"
            )
        summary = run.summary
        if summary.configuration.scored.model is None or not run.is_begun:
            raise OptionError(
                f"--{option} {folder} was not made by beam-curate curate, select or dedup: its mark or the configuration in its "
                f"{run.summary_path} is missing; give the --output of one of these"
            )
        run.check_table()
    except (ScoreTableError, DamagedFileError) as error:
        raise OptionError(f"--{option} {folder}: {error}") from error
    return run, summary


@dataclass(frozen=True, kw_only=True)
class SourceJob(TableJob):
    """What the commands have in common that start from another run's score table.

    Attributes:
        options: Checked.
        shards: The input shards of the source's run.
        source: The summary of that run.
        seen: The state of what is read, see `runs.read_runs`.
    """

    options: DedupOptions | SelectOptions
    shards: Sequence[Shard]
    source: Summary
    seen: Mapping[str, str]

    @property
    @abstractmethod
    def table(self) -> TablePlace:
        """The score table that is judged."""

    @property
    @abstractmethod
    def runs(self) -> Sequence[str]:
        """Further folders of runs that are read; an empty name is none."""

    @property
    @abstractmethod
    def reads(self) -> Sequence[str]:
        """The files and folders that are read beside the runs and their shards, as far as options name them."""

    @property
    def wanted(self) -> WantedRun:
        """See Job."""
        from beam_curate.runs.wanted import WantedRun
        from beam_curate.storage.files import absolute

        options = self.options
        return WantedRun(
            self.configuration,
            self.shards,
            resume=options.resume,
            overwrite=options.overwrite,
            scores=self.table.scores,
            reads=[absolute(path) for path in self.reads],
            runs=[absolute(folder) for folder in (options.scores, *self.runs) if folder],
            seen=self.seen,
        )

    def about(self, runner: str) -> About:
        """See Job: the source's model and heads; without a runner, of a preview, which is not a run and has no time."""
        from beam_curate.runs.summary import About

        source = self.source
        return About(
            scores_meaningless=source.scores_meaningless,
            random=source.random,
            heads=source.heads,
            configuration=self.configuration,
            input=replace(source.input, scores=self.options.scores),
            runner=runner,
            versions={**source.versions, **versions()},
            started=now() if runner else "",
        )


def refuse_source(options: DedupOptions | SelectOptions, table: TablePlace, shards: Sequence[Shard]) -> None:
    """Refuses the folder of the source as the output, and a source whose input shards are elsewhere by now.

    Some shards may be gone whose samples nobody wants. So a few are looked at, evenly spread, and one that is there is enough.
    A run that goes on may need none of them any more.

    Args:
        options: They name the source and the output.
        table: The score table that is judged.
        shards: The source's input shards, if bytes of them are to be read.

    Raises:
        OptionError: It names the option and the remedy.
    """
    from beam_curate.storage.files import absolute, exists
    from beam_curate.storage.places import same_place
    from beam_curate.threads import in_threads

    output = absolute(options.output)
    if any(same_place(output, folder) for folder in (absolute(options.scores), table.scores)):
        raise OptionError(
            f"--output {options.output} is the folder of --scores; give another one: the table there stays as it is"
        )
    looked_at = [] if options.resume else [shard.path for shard in shards[:: len(shards) // _LOOKED_AT or 1]]
    if looked_at and not any(in_threads(exists, looked_at)):
        raise OptionError(
            f"--scores {options.scores}: {looked_at[0]} is missing, and the other input shards of this run are too: the samples' "
            "bytes are read from them. Put them back where they were"
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
    refuse_unwritable("report", report, os.path.dirname(path))


def refuse_unwritable(option: str, given: str, folder: str) -> None:
    """Refuses a folder for a report in which no file can be made, before any work.

    Args:
        option: The option that names it.
        given: Its value.
        folder: The folder.

    Raises:
        OptionError: It names the option and the remedy.
    """
    from beam_curate.storage.files import why_not_writable

    if why := why_not_writable(folder):
        raise OptionError(f"--{option} {given}: {why}; give a --report where a file can be written")
