"""Packs images into WebDataset shards: folders of files, tables of paths, and Parquet with image bytes.

beam-curate pack --input photos/ --output packed/
beam-curate pack --input 'train-*.parquet' --output packed/
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from beam_curate.commands.endings import counted, printable
from beam_curate.commands.job import Job, command, now, versions
from beam_curate.commands.options import OptionError
from beam_curate.commands.pack_options import PackOptions

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_curate.intake.columns import Columns
    from beam_curate.intake.request import Request
    from beam_curate.runs.configuration import Configuration
    from beam_curate.runs.summary import About, Packed
    from beam_curate.runs.wanted import WantedRun

EPILOG = """Bytes are never changed. A row that cannot be packed is in rows/*.parquet with the reason. Lists of web
addresses are for img2dataset, whose shards need no packing."""

_CLASSES_SHOWN = 10


@dataclass(frozen=True)
class PackJob(Job):
    """All that is known before any work starts: checked options, what the input is, and what its columns are for."""

    options: PackOptions
    request: Request
    columns: Columns

    @property
    def configuration(self) -> Configuration:
        """What decides the shards: a packing is continued only with the same."""
        from beam_curate.runs.configuration import PACK, Configuration, Files

        options = self.options
        more = {
            "input": options.input,
            "class_folders": options.class_folders,
            "beside": options.beside,
            "base": options.base,
            "max_member_bytes": options.max_member_bytes,
            "columns": asdict(self.columns),
        }
        return Configuration(PACK, files=Files(options.samples_per_shard), more=more)

    @property
    def notes(self) -> Sequence[str]:
        """See Job: where the images of a table come from."""
        if self.columns.image:
            return [printable(f"images: the bytes in the column {self.columns.image}")]
        if self.columns.path:
            base = self.options.base or "the folder of the table"
            return [printable(f"images: the paths in the column {self.columns.path}, relative to {base}")]
        return []

    @property
    def wanted(self) -> WantedRun:
        """See Job."""
        from beam_curate.runs.wanted import WantedRun

        options, request = self.options, self.request
        return WantedRun(
            self.configuration,
            request.tables,
            resume=options.resume,
            overwrite=options.overwrite,
            reads=[place.folder for place in request.places],
        )

    def about(self, runner: str) -> About:
        """See Job."""
        from beam_curate.runs.summary import About, Input

        return About(
            configuration=self.configuration,
            input=Input(pattern=self.options.input, shards=len(self.request.tables) or None),
            runner=runner,
            versions=versions("apache-beam", "pyarrow"),
            started=now(),
        )

    def build(self, root: beam.Pipeline, about: Mapping[str, object]) -> object:
        """See Job."""
        from beam_curate.intake.shards import ShardWriting
        from beam_curate.intake.tables import TableReading
        from beam_curate.storage.files import absolute
        from beam_curate.transforms.list_images import ListImages, ReadTables
        from beam_curate.transforms.pack_images import PackImages

        options, request = self.options, self.request
        source: beam.PTransform
        if request.tables:
            base = absolute(options.base) if options.base else ""
            reading = TableReading(self.columns, base, len(request.tables) > 1)
            source = ReadTables([table.path for table in request.tables], reading)
        else:
            source = ListImages(request.places, options.extensions, options.class_folders)
        image = self.columns.image
        writing = ShardWriting(self.output, options.samples_per_shard, image, options.max_member_bytes)
        return root | source | PackImages(writing, about, by_row_group=bool(image))

    def finish_complete(self, beam_options: PipelineOptions) -> None:
        """See Job."""
        del beam_options
        from beam_curate.runs.run import Run

        Run(self.output).check_files()
        print(f"the packing in {self.options.output} is complete already")

    def _why_nothing(self, counts: Packed) -> str:
        from beam_curate.intake.reasons import MISSING_FILE, NO_CLASS

        if not counts.input:
            return f"--input {self.options.input} has no rows; give a table with a row for each image"
        if set(counts.reasons) == {MISSING_FILE}:
            base = (
                f"--base {self.options.base}"
                if self.options.base
                else "the folder of the table; give another by --base"
            )
            return f"no row could be packed: no image is where its path says. Paths are relative to {base}"
        if set(counts.reasons) == {NO_CLASS}:
            return "no image lies in a class folder below --input; leave out --class_folders, or give the folder above"
        return "no row could be packed; the reasons are above"

    def report(self, seconds: float) -> int:
        """See Job: the counts and what comes next; 1 if nothing could be packed."""
        from beam_curate.commands.outcome import print_counts
        from beam_curate.runs.run import Run
        from beam_curate.storage.files import join
        from beam_curate.storage.listing import spelled

        output, summary = self.options.output, Run(self.output).pack_summary
        counts, classes = summary.pack, summary.classes
        print_counts(counts, ("input", "failed", "packed"), "row")
        if classes:
            more = ", …" if len(classes) > _CLASSES_SHOWN else ""
            print(f"{len(classes):,} classes: {printable(', '.join(classes[:_CLASSES_SHOWN]))}{more}")
        for kind, number in summary.skipped.items():
            print(f"passed over: {kind}: {number:,}")
        print(f"{counted(summary.output_shards, 'shard')}, {summary.output_bytes:,} bytes in {output}, {seconds:.1f} s")
        if counts.failed:
            print(f"which rows failed, and why: {printable(join(output, Run.packed_rows))}/*.parquet")
        if not counts.packed:
            print(f"error: {printable(self._why_nothing(counts))}", file=sys.stderr)
            return 1
        shards = shlex.quote(printable(join(spelled(output), "*.tar")))
        print(f"next: beam-curate curate --input {shards} --output curated/ --model_dir models/")
        return 0


def prepare(options: PackOptions, given: frozenset[str], beam_options: PipelineOptions) -> PackJob:
    """Looks at the input and checks the columns; nothing is written.

    Raises:
        ValueError: Something does not fit; one line that names it and the remedy.
    """
    del beam_options
    from beam_curate.intake.columns import Columns, find_columns
    from beam_curate.intake.request import read_request
    from beam_curate.storage.files import absolute
    from beam_curate.storage.object_stores import scheme
    from beam_curate.storage.places import Folders

    request = read_request(options.input)
    of_tables = ("path_column", "image_column", "key_column", "caption_column", "base")
    if not request.tables:
        _refuse(options, of_tables, "for a table, and --input is a folder or glob of images")
        columns = Columns()
        _check_beside(options)
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
        _refuse(options, given & {"beside"}, "for a folder of images, and --input is a table")
        if options.base and not scheme(options.base) and not os.path.isdir(options.base):
            raise OptionError(
                f"--base {options.base} is not a folder; give the one that the paths in the table are relative to"
            )
        table = request.tables[0].path
        named = (options.path_column, options.image_column, options.key_column, options.caption_column)
        columns = find_columns(table, *named)
        if columns.image:
            _refuse(options, ("base",), "for a table of paths, and this one holds the bytes of its images")
    return PackJob(options, request, columns)


def _check_beside(options: PackOptions) -> None:
    """Extensions that are something else already."""
    from beam_curate.intake.naming import Name, is_image

    for extension in options.extensions:
        if is_image(Name("", extension)):
            raise OptionError(f"--beside {extension}: files with this extension are images; leave it out")
        if extension == "cls" and options.class_folders:
            raise OptionError("--beside cls and --class_folders both give the class of an image; leave out one of them")


def _refuse(options: PackOptions, names: Iterable[str], why: str) -> None:
    for name in names:
        if getattr(options, name):
            raise OptionError(f"--{name} is {why}; leave it out")


main = command(PackOptions, __doc__, EPILOG, prepare)
