"""The report of a run, finished or only tried: one HTML file that shows whether the thresholds are right, and to try others."""

import os
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from apache_beam.io.filesystems import FileSystems

from beam_curate.records import KEPT
from beam_curate.report import page
from beam_curate.report.changes import check_same_input
from beam_curate.report.data import ReportData, collect
from beam_curate.report.duplicates import find_duplicates
from beam_curate.report.plan import ReportPlan, plan_report
from beam_curate.report.thumbnails import make_thumbnails
from beam_curate.runs.division import Division
from beam_curate.runs.read_runs import check_seen
from beam_curate.runs.run import Run
from beam_curate.runs.score_table import FOLDER
from beam_curate.runs.summary import Summary, summary_of
from beam_curate.scores.rules_in_force import beside_thresholds, thresholds, top_column
from beam_curate.selection.rejudging import Selection
from beam_curate.storage.files import atomic_output, remove_empty_temporary

MAX_BYTES: Final = 10_000_000
"""Of the file: where it is larger without them, no pictures of duplicates are shown."""


class ReportError(ValueError):
    """There is nothing to report on; the message says what is missing and what to do."""


def write_report(output: str, *, scores: str | None = None, against: str = "", path: str = "") -> str:
    """Writes `report.html` beside the summary of a finished run, atomically; returns its path.

    The file needs nothing else, is a few MB large, 12 at most (of duplicates as many pictures are shown as fit), and depends on
    the run alone: the same run gives the same bytes. Sources that are gone cost the pictures, no more, and so does another
    dataset that the run was compared with. Memory is bounded whatever the size of the score table.

    Args:
        output: The run's folder, on any file system that Beam reads.
        scores: The folder of the score table's parts, or of the run that made them; None: the table of `output`.
        against: The folder of another finished run over the same input, to compare with.
        path: The file to write; empty: `report.html` in the folder.

    Raises:
        OtherInputError: The other run is over other shards or samples.
        ReportError: There is no summary or no score table.
        DamagedFileError: The summary is damaged.
        ScoreTableError: The score table is of another version, or none.
        StorageError: A file of the run cannot be read, or the report not be written.
    """
    summary = finished(output).summary
    plan, shards = plan_of_run(summary, scores or output, against)
    return write_run_page(output, summary, collect(plan, shards), path)


def finished(folder: str) -> Run:
    """A run that has come to its end.

    Raises:
        ReportError: It has not.
    """
    run = Run(folder)
    if not run.is_finished:
        raise ReportError(
            f"{folder} holds no finished run: {run.summary_path} is missing; finish the run with `resume` first"
        )
    return run


def plan_of_run(summary: Summary, folder: str, against: str = "") -> tuple[ReportPlan, list[int]]:
    """What a run's report looks at, and the indexes of the parts of its table.

    Args:
        summary: Its summary.
        folder: The folder of the score table's parts, or of the run that made them.
        against: The folder of the run to compare with; empty for none.

    Raises:
        ReportError: There is no score table, or no finished run to compare with.
        OtherInputError: That run is over other shards.
        ScoreTableError: It is of another version, or none.
        StorageError: It cannot be read.
    """
    run = Run(folder)
    if not run.judged_parts and os.path.basename(folder.rstrip("/")) == FOLDER:
        run = Run(folder.rstrip("/")[: -len(FOLDER)])
    table, shards = run.table, sorted(run.judged_parts)
    if not shards:
        raise ReportError(f"there is no score table in {folder}: scores/part-*.parquet are missing; restore them")
    configuration = summary.configuration
    selection = Selection(table, rules=None)
    asked = thresholds(configuration), top_column(configuration), beside_thresholds(configuration)
    plan = plan_report(selection, shards[0], *asked, configuration.max_pixels)
    if not against:
        return plan, shards
    other = finished(against)
    here, there = ([shard.path for shard in each.input_shards] for each in (run, other))
    check_same_input(here, there, against)
    return replace(plan, against=other.table), shards


def write_run_page(
    output: str, summary: Summary, data: ReportData, path: str = "", seen: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Writes the report of a finished run when all figures are there; of duplicates it reads the pictures.

    Args:
        output: The run's folder.
        summary: Its summary.
        data: What was found in its score table.
        path: The file to write; empty: `report.html` in the folder.
        seen: The state in which the runs were found that it shows, see `runs.read_runs`.

    Raises:
        RunChangedError: One was changed since; nothing is written.
    """
    found = find_duplicates(output, data.plan.selection.table)
    document = page.render(summary, data, folder=output)
    if found:
        images = make_thumbnails(found.rows.values(), data.plan.max_pixels)
        for room in (0, MAX_BYTES):  # what the page has without them tells how much room is left
            left = room and room - len(document)
            document = page.render(
                summary, data, page.DuplicatesShown(found, found.pictures(images, left)), folder=output
            )
    check_seen(seen)
    if not path:
        return Run(output).write_report(document)
    write_page(path, document)
    return path


def preview_page(data: ReportData, about: Mapping[str, object], division: Division) -> bytes:
    """The report that a selection would have.

    Args:
        data: What was found, with the verdicts of the selection.
        about: What the summary of the selection would say beside its counts.
        division: Of its output.
    """
    funnel = {"input": sum(data.statuses.values()), **data.statuses, "reasons": data.reasons}
    shard_counts = {"input_shards": data.parts, "output_shards": division.files(data.statuses[KEPT])}
    summary = summary_of({"funnel": funnel, **shard_counts, **about})
    table = data.plan.selection.table
    return page.render(summary, data, folder=table.verdicts or table.scores, preview=True)


def write_page(path: str, document: bytes) -> None:
    """Writes a page to a path of the user's, atomically.

    Args:
        path: The file, on any file system that Beam writes.
        document: The page.

    Raises:
        StorageError: The file cannot be written.
    """
    folder, name = FileSystems.split(path)
    with atomic_output(folder, name) as stream:
        stream.write(document)
    remove_empty_temporary(folder)
