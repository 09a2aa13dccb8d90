"""What `select --dry_run` says, and the page that it writes."""

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions

from beam_curate.commands.endings import printable
from beam_curate.commands.launch import LOCAL_RUNNER, build_pipeline, run_and_wait, runner_name
from beam_curate.commands.options import OptionError
from beam_curate.commands.outcome import skipped_lines
from beam_curate.duplicates.removal import Duplicates
from beam_curate.report.preview import Preview, Tally
from beam_curate.report.remarks import in_words
from beam_curate.report.writing import write_page
from beam_curate.runs.division import Division
from beam_curate.runs.read_runs import unchanged
from beam_curate.runs.whole_run import check_parts
from beam_curate.selection.rejudging import Selection
from beam_curate.storage import scratch
from beam_curate.storage.files import absolute, clean_temporary, delete, files_under, join
from beam_curate.transforms.preview_selection import PreviewSelection, read_preview, read_preview_page


def check_dry_run(options: PipelineOptions) -> None:
    """Refuses a runner whose workers have no place for the result, and not to wait for it.

    Raises:
        OptionError: It names the option and the remedy.
    """
    if options.view_as(StandardOptions).no_wait_until_finish:
        raise OptionError("--no_wait_until_finish and --dry_run exclude each other: there would be nothing to show")
    name = runner_name(options)
    if name != LOCAL_RUNNER and not options.view_as(GoogleCloudOptions).temp_location:
        raise OptionError(
            f"--dry_run with --runner {name} needs --temp_location: a folder that the workers and this command reach"
        )


@contextlib.contextmanager
def _result_folder(options: PipelineOptions) -> Iterator[str]:
    """A folder of its own, in which the job leaves its result; it is deleted at the end."""
    if runner_name(options) == LOCAL_RUNNER:
        with scratch.made() as folder:
            yield folder
        return
    folder = join(absolute(options.view_as(GoogleCloudOptions).temp_location), f"dry_run-{uuid.uuid4().hex}")
    try:
        yield folder
    finally:
        clean_temporary(folder)
        if found := list(files_under(folder, "*")):
            delete(found)


def dry_run(
    selection: Selection,
    duplicates: Duplicates | None,
    division: Division,
    report: str,
    about: Mapping[str, Any],
    options: PipelineOptions,
    seen: Mapping[str, str],
) -> str:
    """Tries the rules on the runner, writes the page of --report, and says what each rule keeps.

    Args:
        selection: The table and the rules.
        duplicates: The duplicates to reject.
        division: Of the output.
        report: Where to write the page; empty for none.
        about: What the summary of the selection would say beside its counts.
        options: Beam's options.
        seen: The state of what is read, see `runs.read_runs`.

    Raises:
        OptionError: They leave no place for the result.
        RunChangedError: What is read was changed meanwhile.
        StorageError: A file cannot be read or written.
    """
    check_dry_run(options)
    with _result_folder(options) as folder:
        steps = PreviewSelection(selection, folder, duplicates, bool(report), division, about)
        root = build_pipeline(lambda root: root | steps, options)
        with unchanged(seen):
            run_and_wait(root, "dry run", steps.looks * len(check_parts(selection.table)))
        found = read_preview(folder)
        if report:
            write_page(absolute(report), read_preview_page(folder))
    end = f"nothing was written but {printable(report)}" if report else "nothing was written"
    return "\n".join([rules_table(found, division), *skipped_lines(about.get("skipped", {})), end])


def rules_table(found: Preview, division: Division) -> str:
    """What each rule keeps: alone, and after the rules before it.

    Args:
        found: What the rules keep.
        division: Of the output.
    """

    def cells(tally: Tally) -> str:
        share = 100 * tally.samples / found.everything.samples if found.everything.samples else 0.0
        shards = division.files(tally.samples)
        return f"{tally.samples:>14,} {share:>6.1f} % {tally.size / 1e9:>10,.3f} GB {shards:>8,}"

    head = f"{'samples':>14} {'share':>8} {'bytes':>13} {'shards':>8}"
    lines = [
        f"{'':>{len(head)}}   rule",
        f"{head}   (each alone)",
        f"{cells(found.everything)}   all that did not fail",
    ]
    lines += [f"{cells(line.alone)}   {printable(line.rule)}" for line in found.lines]
    lines += [f"{head}   (one after the other)"]
    lines += [f"{cells(line.together)}   {printable(line.rule)}" for line in found.lines]
    notes = []
    for line in found.lines:
        if line.ranges and line.alone.samples in (0, found.everything.samples):
            does = "rejects no sample" if line.alone.samples else "rejects every sample"
            ranges = ", ".join(in_words(column, ends) for column, ends in line.ranges.items())
            notes.append(f"note: {printable(line.rule)} {does}: {ranges}")
    left_out = (
        f"{found.failed:,} samples failed, {found.screened:,} were rejected before inference: these are not selected"
    )
    return "\n".join([*lines[1:], left_out, *notes])
