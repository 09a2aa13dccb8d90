"""What a command says at its end."""

import operator
import sys
from collections.abc import Mapping, Sequence
from functools import reduce

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate.commands.endings import counted, printable
from beam_curate.commands.launch import build_pipeline, run_and_wait, run_pipeline
from beam_curate.duplicates.finding import check_whole, read_findings
from beam_curate.export.layouts import read_description
from beam_curate.runs.layout import DESCRIPTION
from beam_curate.runs.run import Run
from beam_curate.runs.summary import Packed, WrittenCounts
from beam_curate.storage.files import exists, join
from beam_curate.tars.skipped import KINDS, lost
from beam_curate.transforms.collect_figures import CollectFigures
from beam_curate.transforms.write_layouts import WriteLayouts
from beam_curate.transforms.write_report import WriteReport


def finish_complete(output: str, shown: str, layouts: Sequence[str], options: PipelineOptions) -> None:
    """Says that a run is complete, after a look for its files, and writes what it lacks.

    That is the report, if it was stopped just before, and new layouts.

    Args:
        output: The run's folder.
        shown: The folder as the user named it.
        layouts: The layouts that are asked for.
        options: Beam's options.

    Raises:
        ValueError: A file of the run is missing or damaged, or a layout cannot be written.
        StorageError: A file cannot be read or written.
    """
    run = Run(output)
    run.check_table()
    run.check_files()
    if not run.ended_kind and (rule := run.summary.configuration.duplicates) is not None and rule.found is None:
        check_whole(output)
    print(f"the run in {shown} is complete already; nothing to score")
    run.clean()
    reports = [] if run.has_report else [WriteReport(output)]
    lacking = [name for name in layouts if not _has_layout(run.layout_folder(name))]
    if reports or lacking:
        steps, summary = [*reports, WriteLayouts(output, lacking)], run.summary
        root = build_pipeline(lambda root: reduce(operator.or_, steps, root | beam.Create([summary])), options)
        run_and_wait(
            root, "report" if reports else "layouts", len(reports) * CollectFigures.LOOKS * summary.input_shards
        )


def _has_layout(folder: str) -> bool:
    return exists(join(folder, DESCRIPTION)) and bool(read_description(folder)["complete"])


def finish_run(root: beam.Pipeline, output: str, mark: str, *, name: str, new: bool) -> bool:
    """Runs the pipeline of a run; returns whether it ran to its end, or goes on without this command.

    Args:
        root: The pipeline.
        output: The run's folder.
        mark: The file that says that it is done.
        name: The command's.
        new: Whether this command has begun the run.
    """
    if not run_pipeline(root, output, name=name, new=new):
        print(f"the job goes on without this command; when it is done there is {mark}")
        return False
    Run(output).clean()
    return True


def report_duplicates(folder: str) -> None:
    """Prints what a search for duplicates found.

    Args:
        folder: The folder of the duplicates table.
    """
    found = read_findings(folder)
    methods = ", ".join(f"{name} {number:,}" for name, number in found.by_method.items())
    if not found.duplicates:
        print("duplicates: 0 samples")
        return
    print(f"duplicates: {counted(found.duplicates, 'sample')} ({methods}) in {counted(found.groups, 'group')}, "
          f"the largest of {found.largest_group:,}")  # fmt: skip


def skipped_lines(skipped: Mapping[str, int]) -> list[str]:
    """What of the input has no row of its own, a line for each kind; none if there is nothing."""
    counts = lost(skipped)
    lines = [f"  {kind}: {number:,} {KINDS.get(kind, '')}".rstrip() for kind, number in counts.items()]
    return ["members of the input without a row of their own:", *lines] if lines else []


def print_counts(counts: WrittenCounts | Packed, names: Sequence[str], unit: str) -> None:
    """Prints counts in a column, and those that failed by reason.

    Args:
        counts: Of an export or a packing.
        names: Which of them.
        unit: What is counted, one of it.
    """
    room, width = max(map(len, names)) + 1, len(f"{counts.input:,}")
    for name in names:
        number = getattr(counts, name)
        print(f"{name:{room}} {number:>{width},} {unit}{'' if number == 1 else 's'}")
    for reason, number in counts.reasons.items():
        print(f"  {reason}: {number:,}")


def report(folder: str, output: str, seconds: float) -> int:
    """Prints the funnel and where to look; returns the exit status.

    Args:
        folder: The run's folder.
        output: The folder as the user named it.
        seconds: How long it took.
    """
    run = Run(folder)
    summary = run.summary
    funnel = summary.funnel
    width = len(f"{funnel.input:,}")
    print(f"input     {counted(funnel.input, 'sample')} in {counted(summary.input_shards, 'shard')}")
    for name in ("failed", "rejected", "kept"):
        number = getattr(funnel, name)
        share = 100 * number / funnel.input if funnel.input else 0
        print(f"{name:9} {number:>{width},} ({share:.1f} %)")
    for reason, number in funnel.reasons.items():
        print(f"  {reason}: {number:,}")
    for line in skipped_lines(summary.skipped):
        print(line)
    if summary.table_only:
        print(
            f"the score table in {output}, {seconds:.1f} s; no shards yet: pack it with beam-curate select --scores {output}, "
            "or by the same command with --resume and without --table_only"
        )
    else:
        print(f"{counted(summary.output_shards, 'shard')} in {output}, {seconds:.1f} s")
    print(
        f"look at {Run(output.rstrip('/')).report_path}; all rows: beam_curate.read_score_table({output.rstrip('/')!r})"
    )
    if summary.scores_meaningless:
        print(f"The scores are MEANINGLESS: random {', '.join(summary.random or ())}.")
    files = summary.files
    if files and files.reencoded:
        print(f"{files.reencoded:,} images were encoded again, the others are byte for byte as they were")
    if files and files.failed:
        where = Run(output).failures_path
        who = f"{counted(files.failed, 'kept sample')} {'is' if files.failed == 1 else 'are'}"
        print(f"error: {who} in no shard; see {printable(where)}", file=sys.stderr)
        return 1
    if funnel.failed == funnel.input:
        who = "the only sample" if funnel.input == 1 else f"all {funnel.input:,} samples"
        print(f"error: {who} failed; the reasons are above", file=sys.stderr)
        return 1
    if funnel.failed + funnel.rejected + funnel.kept != funnel.input:
        print("error: input = kept + rejected + failed does not hold", file=sys.stderr)
        return 1
    if not funnel.kept:
        print(
            "warning: no sample passed the rules, so there is no shard; the notes above name the rule and the range of its score",
            file=sys.stderr,
        )
    return 0
