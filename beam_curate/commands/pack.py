"""Packs images into WebDataset shards: folders of files, tables of paths, and Parquet with image bytes.

beam-curate pack --input photos/ --output packed/
beam-curate pack --input 'train-*.parquet' --output packed/
"""

from __future__ import annotations

import datetime
import functools
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from beam_curate.commands.options import OptionError, fail, gives_back, parse, printable
from beam_curate.commands.pack_options import PackOptions

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_curate.intake.columns import Columns
    from beam_curate.intake.request import Request
    from beam_curate.runs.configuration import Configuration

EPILOG = """Every option of Apache Beam passes through, such as --runner=DataflowRunner; the default runner is Beam's
in-process one. Bytes are never changed. A row that cannot be packed is in rows/*.parquet with the reason. Lists of web
addresses are for img2dataset, whose shards need no packing."""


@dataclass(frozen=True)
class Job:
    """All that is known before any work starts: checked options, what the input is, and what its columns are for."""

    options: PackOptions
    request: Request
    columns: Columns

    @property
    def configuration(self) -> Configuration:
        """What decides the shards: a packing is continued only with the same."""
        from beam_curate.runs.configuration import PACK, Configuration, Files

        names = ("input", "class_folders", "beside", "base", "max_member_bytes")
        more = {name: getattr(self.options, name) for name in names}
        files = Files(self.options.samples_per_shard)
        return Configuration(PACK, files=files, more={**more, "columns": asdict(self.columns)})


def prepare(options: PackOptions) -> Job:
    """Looks at the input and checks the columns; nothing is written.

    Raises:
        ValueError: Something does not fit; one line that names it and the remedy.
    """
    from beam_curate.intake.columns import Columns, find_columns
    from beam_curate.intake.request import read_request
    from beam_curate.storage.files import absolute
    from beam_curate.storage.places import Folders

    request = read_request(options.input)
    of_tables = ("path_column", "image_column", "key_column", "caption_column", "base")
    if not request.tables:
        _refuse(options, of_tables, "for a table, and --input is a folder or glob of images")
        columns = Columns()
        output = absolute(options.output)
        inside = next((place.folder for place in request.places if Folders([place.folder]).hold(output)), "")
        if inside:
            raise OptionError(
                f"--output {options.output} lies in {inside}, which is packed; give a folder outside of it"
            )
        if options.class_folders and (len(request.places) != 1 or request.places[0].pattern):
            raise OptionError("--class_folders needs one folder as --input, the one that the class folders lie in")
    else:
        _refuse(options, ("class_folders",), "for a folder of images, and --input is a table")
        table = request.tables[0].path
        named = (options.path_column, options.image_column, options.key_column, options.caption_column)
        columns = find_columns(table, *named)
        if columns.image:
            _refuse(options, ("base",), "for a table of paths, and this one holds the bytes of its images")
    return Job(options, request, columns)


def _refuse(options: PackOptions, names: Sequence[str], why: str) -> None:
    for name in names:
        if getattr(options, name):
            raise OptionError(f"--{name} is {why}; leave it out")


def build(root: beam.Pipeline, job: Job, output: str, about: dict[str, Any]) -> beam.PCollection[dict[str, Any]]:
    """The packing on a pipeline."""
    from beam_curate.intake.shards import ShardWriting
    from beam_curate.intake.tables import TableReading
    from beam_curate.storage.files import absolute
    from beam_curate.transforms.list_images import ListImages, ReadTables
    from beam_curate.transforms.pack_images import PackImages

    options, request = job.options, job.request
    source: beam.PTransform
    if request.tables:
        base = absolute(options.base) if options.base else ""
        reading = TableReading(job.columns, base, len(request.tables) > 1)
        source = ReadTables([table.path for table in request.tables], reading)
    else:
        source = ListImages(request.places, options.extensions, options.class_folders)
    writing = ShardWriting(output, options.samples_per_shard, job.columns.image, options.max_member_bytes)
    entries = root | source
    return entries | PackImages(writing, about, by_row_group=bool(job.columns.image))


def about_run(job: Job, runner: str) -> dict[str, Any]:
    """What summary.json says beside the counts."""
    from importlib.metadata import version

    from beam_curate.runs.summary import About, Input

    packages = {"beam_curate": "beam-curate", "apache-beam": "apache-beam", "pyarrow": "pyarrow"}
    return About(
        configuration=job.configuration,
        input=Input(pattern=job.options.input, shards=len(job.request.tables) or None),
        runner=runner,
        versions={name: version(package) for name, package in packages.items()},
        started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    ).to_json()


def report(folder: str, output: str, seconds: float) -> int:
    """Prints the counts and what comes next; returns the exit status, 1 if nothing could be packed."""
    from beam_curate.intake.ending import read_packing
    from beam_curate.runs.run import Run
    from beam_curate.storage.files import join

    summary = read_packing(folder)
    counts = summary["pack"]
    width = len(f"{counts['input']:,}")
    for name in ("input", "failed", "packed"):
        print(f"{name:7} {counts[name]:>{width},} rows")
    for reason, number in counts["reasons"].items():
        print(f"  {reason}: {number:,}")
    for kind, number in summary["skipped"].items():
        print(f"passed over: {number:,} {kind}")
    print(f"{summary['output_shards']:,} shards, {summary['output_bytes']:,} bytes in {output}, {seconds:.1f} s")
    if counts["failed"]:
        print(f"which rows failed, and why: {printable(join(output, Run.packed_rows))}/*.parquet")
    if not counts["packed"]:
        print("error: no row could be packed; the reasons are above", file=sys.stderr)
        return 1
    print(
        f"next: beam-curate curate --input '{printable(join(output, '*.tar'))}' --output curated/ --model_dir models/"
    )
    return 0


@gives_back
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status.

    0: done. 1: no row could be packed. 2: a wrong option, before any work.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        options, rest, _ = parse(PackOptions, argv, str(__doc__).splitlines()[0], EPILOG)
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
        beam_options = pipeline_options(rest, PackOptions)
        job = prepare(options)
        output = absolute(options.output)
        about = about_run(job, runner_name(beam_options))
        root = build_pipeline(functools.partial(build, job=job, output=output, about=about), beam_options)
        claim(output, service_job(beam_options))
        complete = Run(output).begin(
            job.configuration,
            job.request.tables,
            resume=options.resume,
            overwrite=options.overwrite,
            pack=True,
            reads=[place.folder for place in job.request.places],
        )
    except (ValueError, StorageError) as error:
        return fail(error)
    if complete:
        print(f"the packing in {options.output} is complete already")
    elif not finish_run(root, output, options.output, new=not options.resume):
        return 0
    return report(output, options.output, time.monotonic() - started)
