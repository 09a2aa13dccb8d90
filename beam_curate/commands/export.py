"""Exports a finished run for training: WebDataset, TFRecord or MDS files, smaller images, shuffled by a seed.

beam-curate export --input best/ --output train/ --format webdataset --resize_shortest 256 --shuffle_seed 7
beam-curate export --input best/ --output records/ --format tfrecord
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from beam_curate.commands.endings import counted, printable
from beam_curate.commands.export_options import ExportOptions
from beam_curate.commands.job import Job, command, now, versions
from beam_curate.commands.options import OptionError

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_curate.export.end import Export
    from beam_curate.runs.configuration import Configuration
    from beam_curate.runs.finished_run import PackedRun
    from beam_curate.runs.summary import About
    from beam_curate.runs.wanted import WantedRun

EPILOG = """Images are encoded again only where --resize_shortest or --image_format asks for it."""


@dataclass(frozen=True)
class ExportJob(Job):
    """All that is known before any work starts: checked options, the run, its state, and what is exported of it."""

    options: ExportOptions
    run: PackedRun
    export: Export
    seen: Mapping[str, str]

    @property
    def configuration(self) -> Configuration:
        """What decides the files: an export is continued only with the same."""
        from beam_curate.runs.configuration import EXPORT, Configuration
        from beam_curate.runs.run import Run

        files = self.export.format.files(self.export.division)
        return Configuration(EXPORT, files=files, source=Run(self.run.folder).source)

    @property
    def wanted(self) -> WantedRun:
        """See Job."""
        from beam_curate.runs.wanted import WantedRun

        options = self.options
        return WantedRun(
            self.configuration,
            self.run.shards,
            resume=options.resume,
            overwrite=options.overwrite,
            runs=[self.export.source],
            seen=self.seen,
        )

    def about(self, runner: str) -> About:
        """See Job."""
        from beam_curate.runs.summary import About, Input

        return About(
            configuration=self.configuration,
            input=Input(run=self.options.input, shards=len(self.run.shards)),
            runner=runner,
            versions=versions("apache-beam", "pillow", "pyarrow", "tfrecord"),
            started=now(),
        )

    def build(self, root: beam.Pipeline, about: Mapping[str, object]) -> object:
        """See Job."""
        from beam_curate.transforms.export_files import ExportFiles

        return root | ExportFiles(replace(self.export, about=about))

    def finish_complete(self, beam_options: PipelineOptions) -> None:
        """See Job."""
        del beam_options
        from beam_curate.runs.run import Run

        Run(self.output).check_files()
        print(f"the export in {self.options.output} is complete already")

    @property
    def notes(self) -> list[str]:
        """See Job."""
        return [f"note: {self.export.format.note}"] if self.export.format.note else []

    def report(self, seconds: float) -> int:
        """See Job: the counts; 1 if a sample could not be exported."""
        from beam_curate.commands.outcome import print_counts
        from beam_curate.runs.run import Run

        output, summary = self.options.output, Run(self.output).export_summary
        counts = summary.export
        print_counts(counts, ("input", "failed", "exported"), "sample")
        if counts.reencoded:
            print(f"{counts.reencoded:,} images were encoded again, the others are byte for byte as they were")
        print(f"{counted(summary.output_files, 'file')}, {summary.output_bytes:,} bytes in {output}, {seconds:.1f} s")
        if counts.failed:
            where = Run(output).failures_path
            print(f"error: {counts.failed:,} samples are not in the export; see {printable(where)}", file=sys.stderr)
            return 1
        return 0


def prepare(options: ExportOptions, given: frozenset[str], beam_options: PipelineOptions) -> ExportJob:
    """Looks at the run and checks the fields; nothing is written.

    Raises:
        ValueError: Something does not fit; one line that names it and the remedy.
    """
    del given, beam_options
    from beam_curate.export.end import Export
    from beam_curate.export.fields import looked_at
    from beam_curate.runs.finished_run import RunNotUsableError, read_samples_table
    from beam_curate.runs.run import Run
    from beam_curate.storage.files import absolute
    from beam_curate.storage.places import same_place

    source, output = absolute(options.input), absolute(options.output)
    if same_place(output, source):
        raise OptionError(
            f"--output {options.output} is the folder of --input; give another one: the run stays as it is"
        )

    def suffixes(place: int) -> set[str]:
        samples = read_samples_table(source, run.shards[place], ["key", "members"]).column("members").to_pylist()
        return {member["suffix"] for sample in samples for member in sample}

    try:
        run = Run(source).packed
        seen = Run(source).seen
        scored = run.summary.configuration.scored  # what could be scored can be encoded
        format = options.chosen_format(run.schema, map(suffixes, looked_at(len(run.shards))), scored.max_pixels)
    except RunNotUsableError as error:
        raise OptionError(f"--input {options.input}: {error}") from error
    size = sum(shard.size for shard in run.shards)
    options.check_file_size(format, "samples_per_file", options.samples_per_file, run.total, size)
    export = Export(
        source,
        output,
        format,
        run.total,
        options.division,
        options.dataset_name,
        options.license,
        options.card == "yes",
        options.croissant == "yes",
    )
    return ExportJob(options, run, export, seen)


main = command(ExportOptions, __doc__, EPILOG, prepare)
