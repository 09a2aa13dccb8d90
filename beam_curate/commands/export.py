"""Exports a finished run for training: WebDataset, TFRecord or MDS files, smaller images, shuffled by a seed.

beam-curate export --input best/ --output train/ --format webdataset --resize_shortest 256 --shuffle_seed 7
beam-curate export --input best/ --output records/ --format tfrecord
"""

from __future__ import annotations

import datetime
import functools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_curate.commands.export_options import ExportOptions
from beam_curate.commands.options import OptionError, fail, gives_back, parse, printable

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_curate.export.end import Export
    from beam_curate.runs.configuration import Configuration
    from beam_curate.runs.finished_run import FinishedRun

EPILOG = """Every option of Apache Beam passes through, such as --runner=DataflowRunner; the default runner is Beam's
in-process one. Images are encoded again only where --resize_shortest or --image_format asks for it."""


@dataclass(frozen=True)
class Job:
    """All that is known before any work starts: checked options, the run, and what is exported of it."""

    options: ExportOptions
    run: FinishedRun
    export: Export

    @property
    def configuration(self) -> Configuration:
        """What decides the files: an export is continued only with the same."""
        from beam_curate.runs.configuration import EXPORT, Configuration
        from beam_curate.runs.run import Run

        options = self.options
        files = self.export.format.files(options.samples_per_file, options.shuffle_seed)
        return Configuration(EXPORT, files=files, source=Run(self.run.folder).source)


def prepare(options: ExportOptions) -> Job:
    """Looks at the run and checks the fields; nothing is written.

    Raises:
        ValueError: Something does not fit; one line that names it and the remedy.
    """
    from beam_curate.export.end import Export
    from beam_curate.runs.finished_run import RunNotUsableError, read_samples_table
    from beam_curate.runs.run import Run
    from beam_curate.storage.files import absolute
    from beam_curate.storage.places import same_place

    source, output = absolute(options.input), absolute(options.output)
    if same_place(output, source):
        raise OptionError(
            f"--output {options.output} is the folder of --input; give another one: the run stays as it is"
        )
    try:
        run = Run(source).packed
        first = read_samples_table(source, run.shards[0], ["key", "members"])
    except RunNotUsableError as error:
        raise OptionError(f"--input {options.input}: {error}") from error
    suffixes = {member["suffix"] for sample in first.column("members").to_pylist() for member in sample}
    scored = run.summary.configuration.scored  # what could be scored can be encoded
    format = options.chosen_format(run.schema, suffixes, scored.max_pixels)
    size = sum(shard.size for shard in run.shards)
    options.check_file_size(format, "samples_per_file", options.samples_per_file, run.total, size)
    export = Export(
        source,
        output,
        format,
        run.total,
        options.samples_per_file,
        options.shuffle_seed,
        options.dataset_name or output.rstrip("/").rpartition("/")[2],
        options.license,
        options.card == "yes",
        options.croissant == "yes",
    )
    return Job(options, run, export)


def build(root: beam.Pipeline, job: Job, about: dict[str, Any]) -> beam.PCollection[dict[str, Any]]:
    """The export on a pipeline."""
    from dataclasses import replace

    from beam_curate.transforms.export_files import ExportFiles

    return root | ExportFiles(replace(job.export, about=about))


def about_run(job: Job, runner: str) -> dict[str, Any]:
    """What summary.json says beside the counts."""
    from importlib.metadata import version

    from beam_curate.runs.summary import About, Input

    packages = ("beam_curate", "apache-beam", "pillow", "pyarrow", "tfrecord")
    names = {"beam_curate": "beam-curate"}
    return About(
        configuration=job.configuration,
        input=Input(run=job.options.input, shards=len(job.run.shards)),
        runner=runner,
        versions={package: version(names.get(package, package)) for package in packages},
        started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    ).to_json()


def report(folder: str, output: str, seconds: float) -> int:
    """Prints the counts; returns the exit status, 1 if a sample could not be exported."""
    from beam_curate.runs.run import Run

    summary = Run(folder).export_summary
    counts = summary.export
    width = len(f"{counts.input:,}")
    for name in ("input", "failed", "exported"):
        print(f"{name:9} {getattr(counts, name):>{width},} samples")
    for reason, number in counts.reasons.items():
        print(f"  {reason}: {number:,}")
    if counts.reencoded:
        print(f"{counts.reencoded:,} images were encoded again, the others are byte for byte as they were")
    print(f"{summary.output_files:,} files, {summary.output_bytes:,} bytes in {output}, {seconds:.1f} s")
    if counts.failed:
        where = Run(output).failures_path
        print(f"error: {counts.failed:,} samples are not in the export; see {printable(where)}", file=sys.stderr)
        return 1
    return 0


@gives_back
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status.

    0: done. 1: samples could not be exported. 2: a wrong option, before any work.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        options, rest, _ = parse(ExportOptions, argv, str(__doc__).splitlines()[0], EPILOG)
    except OptionError as error:
        return fail(error)
    from beam_curate.commands.launch import build_pipeline, pipeline_options, runner_name, service_job
    from beam_curate.commands.outcome import finish_run
    from beam_curate.runs.claims import claim
    from beam_curate.runs.run import Run
    from beam_curate.storage.files import absolute
    from beam_curate.storage.retrying import StorageError

    started = time.monotonic()
    try:
        beam_options = pipeline_options(rest, ExportOptions)
        job = prepare(options)
        output = job.export.output
        about = about_run(job, runner_name(beam_options))
        steps = functools.partial(build, job=job, about=about)
        root = build_pipeline(steps, beam_options)
        claim(output, service_job(beam_options))
        complete = Run(output).begin(
            job.configuration,
            job.run.shards,
            resume=options.resume,
            overwrite=options.overwrite,
            export=True,
            runs=[absolute(options.input)],
        )
        if complete:
            Run(output).check_files()
    except (ValueError, StorageError) as error:
        return fail(error)
    if job.export.format.note:
        print(f"note: {job.export.format.note}", file=sys.stderr)
    if complete:
        print(f"the export in {options.output} is complete already")
    elif not finish_run(root, output, options.output, new=not options.resume):
        return 0
    return report(output, options.output, time.monotonic() - started)
