"""Writes the report of a finished run again, or one that compares it with another run over the same input.

beam-curate report --run best/ --against scored/ --report compared.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from beam_curate.commands.endings import fail, gives_back, printable
from beam_curate.commands.options import OptionError, option, required
from beam_curate.commands.parsing import parse

EPILOG = """Every option of Apache Beam passes through; the default runner is Beam's in-process one. The pictures are read from
the source shards; if these are gone, the report has no pictures."""


@dataclass(frozen=True)
class ReportOptions:
    """Which run, which other one, and where to write."""

    run: str = required("folder of a finished run: the --output of beam-curate curate, select or dedup")
    against: str = option(
        "",
        "folder of another finished run over the same input: which samples only one of the two keeps, and where on each score",
    )
    report: str = option("", "the file to write; without --against the default is report.html in --run", metavar="FILE")

    def __post_init__(self) -> None:
        if self.against and not self.report:
            raise OptionError("--report is missing; give a file for the comparison, such as compared.html")
        if self.report.endswith(("/", "\\")):
            raise OptionError(f"--report {self.report} is a folder; give the path of a file, such as compared.html")


@gives_back
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status.

    0: done. 2: a wrong option, before any work.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        options, rest, _ = parse(ReportOptions, argv, str(__doc__).splitlines()[0], EPILOG)
    except OptionError as error:
        return fail(error)
    import apache_beam as beam

    from beam_curate.commands.launch import build_pipeline, pipeline_options, run_and_wait, service_job
    from beam_curate.commands.source_run import finished_run, refuse_unwritable, refuse_written_over
    from beam_curate.report.writing import plan_of_run
    from beam_curate.runs.claims import claim, job_ended
    from beam_curate.runs.read_runs import unchanged
    from beam_curate.storage.files import absolute
    from beam_curate.storage.retrying import StorageError
    from beam_curate.transforms.collect_figures import CollectFigures
    from beam_curate.transforms.write_report import WriteReport

    try:
        beam_options = pipeline_options(rest, ReportOptions)
        run, _ = finished_run("run", options.run)
        against = finished_run("against", options.against)[0] if options.against else None
        if options.report:
            runs = [("run", run), *([("against", against)] if against else [])]
            read = [shard.path for _, each in runs for shard in each.input_shards]
            refuse_written_over(options.report, [(name, each.folder) for name, each in runs], read)
        else:
            refuse_unwritable("run", options.run, run.folder)
            claim(run.folder, service_job(beam_options))
        path = absolute(options.report) if options.report else ""
        other = against.folder if against else ""
        seen = {**run.seen, **(against.seen if against else {})}
        summary = run.summary
        shards = plan_of_run(summary, run.folder, other)[1]
        steps = WriteReport(run.folder, other, path, seen)
        root = build_pipeline(lambda root: root | beam.Create([summary]) | steps, beam_options)
    except (ValueError, StorageError) as error:
        return fail(error)
    with unchanged(seen):
        run_and_wait(root, "report", CollectFigures.LOOKS * len(shards))
    job_ended(run.folder)
    print(f"look at {printable(path or run.report_path)}")
    return 0
