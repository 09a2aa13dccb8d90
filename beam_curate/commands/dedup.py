"""Finds duplicates in a score table, and writes the dataset without them: no decoding, no inference.

beam-curate dedup --scores out/ --output unique/
beam-curate dedup --scores out/ --output clean/ --against benchmark/ --eps 0.05
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_curate.commands.dedup_options import DedupOptions
from beam_curate.commands.options import OptionError, fail, gives_back, parse

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_curate.duplicates.search import DuplicateSearch
    from beam_curate.records import Shard
    from beam_curate.runs.configuration import Configuration, Source
    from beam_curate.runs.summary import Summary

EPILOG = """Every option of Apache Beam passes through, such as --runner=DataflowRunner; the default runner is Beam's
in-process one. The samples' bytes are read from the source shards, which must be where they were. Look at report.html for
pairs of several similarities before you trust an --eps."""


@dataclass(frozen=True)
class Job:
    """All that is known before any work starts.

    Attributes:
        options: Checked.
        search: What is looked for, in which table.
        shards: The input shards of the source's run.
        source: The summary of that run.
        source_identity: What tells it from another one that is written in its place.
        against_identity: Likewise of the run of --against; None without.
    """

    options: DedupOptions
    search: DuplicateSearch
    shards: Sequence[Shard]
    source: Summary
    source_identity: Source
    against_identity: Source | None = None

    @property
    def other_folders(self) -> list[str]:
        """The folders of --against and of the run that has its score table."""
        against = self.search.against
        return [] if against is None else [self.options.against, against.scores]

    @property
    def other_shards(self) -> list[str]:
        """The input shards of --against: their images may be read."""
        from beam_curate.runs.run import Run

        against = self.search.against
        return [] if against is None else [shard.path for shard in Run(against.scores).input_shards]

    @property
    def configuration(self) -> Configuration:
        """What decides the result: a run is continued only with the same."""
        from beam_curate.runs.configuration import DEDUPLICATE, Configuration, Files

        options = self.options
        rule = options.duplicate_rule(
            options.methods,
            candidates=options.candidates,
            against=options.against,
            against_run=self.against_identity,
            action=options.against_action,
            between_datasets=bool(options.against),
        )
        files = Files(options.samples_per_shard, options.shuffle_seed)
        return Configuration(DEDUPLICATE, duplicates=rule, files=files, source=self.source_identity)


def prepare(options: DedupOptions) -> Job:
    """Looks at the source; nothing is written.

    Raises:
        ValueError: Something does not fit; one line that names it and the remedy.
    """
    from beam_curate.commands.duplicate_options import check_keep_by
    from beam_curate.commands.own_scores import check_layouts
    from beam_curate.commands.source_run import finished_run
    from beam_curate.runs import score_table
    from beam_curate.runs.configuration import Model
    from beam_curate.selection.rejudging import Selection
    from beam_curate.storage.places import same_place

    source, summary = finished_run("scores", options.scores)
    table = source.table
    with table.open(0) as part:
        names = score_table.score_names(part.schema)
        width = part.schema.field("embedding").type.list_size
    check_keep_by(options.keep_by, names)
    check_layouts(options.layouts, names)
    against = None
    against_identity = None
    if options.against:
        run, other = finished_run("against", options.against)
        if same_place(run.folder, source.folder):
            raise OptionError(
                f"--against {options.against} is the run of --scores, in which each of its samples is; give another run, or "
                "leave --against out to find duplicates inside --scores"
            )
        against_identity, against = run.source, run.table
        with against.open(0) as part:
            other_width = part.schema.field("embedding").type.list_size
        models = [each.configuration.scored.model or Model() for each in (summary, other)]
        same = models[0].weights == models[1].weights and width == other_width
        if not same and "semantic" in options.methods:
            raise OptionError(
                f"--against {options.against}: its embeddings are of {models[1].clip_model} with other weights than those of "
                f"--scores, so they cannot be compared; leave semantic out of --methods"
            )
    selection = Selection(table, None if options.candidates == "kept" else ())
    return Job(
        options,
        options.search(options.methods, selection, against, options.against_action),
        source.input_shards,
        summary,
        source.source,
        against_identity,
    )


def build(root: beam.Pipeline, job: Job, output: str, about: dict[str, Any]) -> beam.PCollection[Summary]:
    """The search and the selection on a pipeline: what is left of the run in `output`, to shards and summary."""
    import apache_beam as beam

    from beam_curate.duplicates.removal import Duplicates
    from beam_curate.runs.score_table import VERDICTS
    from beam_curate.selection.rejudging import Selection
    from beam_curate.transforms.continue_run import ContinueRun
    from beam_curate.transforms.find_duplicates import FindDuplicates
    from beam_curate.transforms.list_parts import ListParts
    from beam_curate.transforms.pack_shards import PackShards
    from beam_curate.transforms.remove_duplicates import RemoveDuplicates
    from beam_curate.transforms.select_rows import SelectRows
    from beam_curate.transforms.write_layouts import WriteLayouts
    from beam_curate.transforms.write_report import WriteReport

    options, table = job.options, job.search.selection.table
    sources = root | ListParts(table)
    found = sources | FindDuplicates(job.search, output)
    if options.table_only:
        return found
    kept = Selection(table, None)
    numbers = sources | "Number" >> beam.Map(lambda part: part.shard_index).with_output_types(int)
    removed = numbers | RemoveDuplicates(kept, Duplicates(output, options.against_action), found)
    run = root | ContinueRun(output, folder=VERDICTS)
    parts = (run.pending | SelectRows(kept, output, removed), run.done) | "AddDone" >> beam.Flatten()
    packed = parts | PackShards(output, options.samples_per_shard, options.shuffle_seed, about)
    return packed | WriteReport(output) | WriteLayouts(output, options.layouts)


def about_run(job: Job, runner: str) -> dict[str, Any]:
    """What summary.json says beside the counts: the source's model and heads, and what was looked for."""
    from beam_curate.commands.source_run import about_source

    return about_source(job.source, job.configuration, job.options.scores, runner).to_json()


@gives_back
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status.

    0: done. 1: samples were lost. 2: a wrong option, before any work.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        options, rest, _ = parse(DedupOptions, argv, str(__doc__).splitlines()[0], EPILOG)
    except OptionError as error:
        return fail(error)
    from beam_curate.commands.duplicate_options import say_what_it_costs
    from beam_curate.commands.launch import build_pipeline, pipeline_options, run_pipeline, runner_name
    from beam_curate.commands.outcome import finish_run, report, report_duplicates
    from beam_curate.commands.source_run import start_selection
    from beam_curate.duplicates.finding import is_finished
    from beam_curate.storage.files import absolute, clean_temporary
    from beam_curate.storage.retrying import StorageError

    started = time.monotonic()
    try:
        beam_options = pipeline_options(rest, DedupOptions)
        job = prepare(options)
        output, table = absolute(options.output), job.search.selection.table
        about = about_run(job, runner_name(beam_options))
        steps = functools.partial(build, job=job, output=output, about=about)
        root = build_pipeline(steps, beam_options)
        complete = start_selection(
            options, output, job.configuration, job.shards, table, job.other_folders, beam_options, job.other_shards
        )
    except (ValueError, StorageError) as error:
        return fail(error)
    say_what_it_costs()
    new = not options.resume
    if options.table_only:
        if not is_finished(output) and not run_pipeline(root, output, new=new):
            return 0
        clean_temporary(output)
        report_duplicates(output)
        return 0
    if not complete and not finish_run(root, output, options.output, new=new):
        return 0
    report_duplicates(output)
    return report(output, options.output, time.monotonic() - started)
