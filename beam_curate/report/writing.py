"""The report of a run, finished or only tried: one HTML file without script that shows whether the thresholds are right."""

import os
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Final

from apache_beam.io.filesystems import FileSystems

from beam_curate.images.decoding import MAX_PIXELS
from beam_curate.records import KEPT
from beam_curate.report import page
from beam_curate.report.data import ReportData, ReportPlan, collect, plan_report
from beam_curate.report.duplicates import ShownDuplicates, find_duplicates
from beam_curate.report.figures import Images
from beam_curate.report.samples import Place, Row
from beam_curate.report.thumbnails import Thumbnail, make_thumbnails
from beam_curate.runs.run import Run
from beam_curate.runs.score_table import FOLDER
from beam_curate.runs.summary import Summary, summary_of
from beam_curate.runs.table_parts import TablePlace
from beam_curate.scores.rules_in_force import thresholds, top_column
from beam_curate.selection.rejudging import Selection
from beam_curate.storage.files import atomic_output, remove_empty_temporary

MAX_BYTES: Final = 2_000_000
"""Of the file."""


class ReportError(ValueError):
    """There is nothing to report on; the message says what is missing and what to do."""


def write_report(output: str, *, scores: str | None = None) -> str:
    """Writes `report.html` beside the summary of a finished run, atomically; returns its path.

    The file needs nothing else, is below 2 MB (of duplicates so many pictures are shown as fit), and depends on the run alone:
    the same run gives the same bytes. Sources that are gone cost the pictures, no more, and so does another dataset that the
    run was compared with. Memory is bounded whatever the size of the score table.

    Args:
        output: The run's folder, on any file system that Beam reads.
        scores: The folder of the score table's parts, or of the run that made them; None: the table of `output`.

    Raises:
        ReportError: There is no summary or no score table.
        DamagedFileError: The summary is damaged.
        ScoreTableError: The score table is of another version, or none.
        StorageError: A file of the run cannot be read, or the report not be written.
    """
    run = Run(output)
    if not run.is_finished:
        raise ReportError(
            f"{output} holds no finished run: {run.summary_path} is missing; finish the run with `resume` first"
        )
    summary = run.summary
    plan, shards = plan_of_run(summary, scores or output)
    _, data = collect(plan, shards)
    return write_run_page(output, summary, plan.selection.table, data)


def plan_of_run(summary: Summary, folder: str) -> tuple[ReportPlan, list[int]]:
    """What a run's report looks at, and the indexes of the parts of its table.

    Args:
        summary: Its summary.
        folder: The folder of the score table's parts, or of the run that made them.

    Raises:
        ReportError: There is no score table.
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
    return plan_report(selection, shards[0], thresholds(configuration), top_column(configuration)), shards


def write_run_page(output: str, summary: Summary, table: TablePlace, data: ReportData) -> str:
    """Writes the report of a finished run when all figures are there; reads the pictures.

    Args:
        output: The run's folder.
        summary: Its summary.
        table: Its score table.
        data: What was found there.
    """
    shown = find_duplicates(output, table)
    images = _images(data, summary.configuration.max_pixels, shown.rows.values() if shown else ())
    document = page.render(summary, data, images, _duplicates(shown, images, 0))
    if shown:
        document = page.render(summary, data, images, _duplicates(shown, images, MAX_BYTES - len(document)))
    return Run(output).write_report(document)


def preview_page(selection: Selection, data: ReportData, about: Mapping[str, Any], samples_per_shard: int) -> bytes:
    """The report that a selection would have; reads the pictures.

    Args:
        selection: What decides.
        data: What was found, with the verdicts of the selection.
        about: What the summary of the selection would say beside its counts.
        samples_per_shard: Of its output.
    """
    funnel = {"input": sum(data.statuses.values()), **data.statuses, "reasons": data.reasons}
    shard_counts = {"input_shards": data.parts, "output_shards": -(-data.statuses[KEPT] // samples_per_shard)}
    summary = summary_of({"funnel": funnel, **shard_counts, **about})
    source = selection.table.verdicts or selection.table.scores
    return page.render(summary, data, _images(data, None), preview_of=source)


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


def _duplicates(shown: ShownDuplicates | None, images: Images, room: int) -> page.DuplicatesShown | None:
    return page.DuplicatesShown(shown, shown.pictures(images, room)) if shown else None


def _images(data: ReportData, max_pixels: object, others: Iterable[Row] = ()) -> dict[Place, Thumbnail]:
    rows = chain((row for gallery in data.galleries for row in gallery.rows), others)
    return make_thumbnails(rows, max_pixels if isinstance(max_pixels, int) else MAX_PIXELS)
