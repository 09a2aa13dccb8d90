"""Finds duplicates in a score table, and writes the dataset without them, without running a model.

beam-curate dedup --scores out/ --output unique/
beam-curate dedup --scores out/ --output clean/ --against benchmark/ --eps 0.05
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beam_curate.commands.dedup_options import DedupOptions
from beam_curate.commands.duplicate_options import check_keep_by, say_what_it_costs
from beam_curate.commands.job import command
from beam_curate.commands.options import OptionError
from beam_curate.commands.source_run import SourceJob, finished_run, refuse_source

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_curate.duplicates.search import DuplicateSearch
    from beam_curate.runs.configuration import Configuration, Source
    from beam_curate.runs.table_parts import TablePlace

EPILOG = """The samples' bytes are read from the source shards, which must be where they were. Look at report.html for
pairs of several similarities before you trust an --eps."""


@dataclass(frozen=True, kw_only=True)
class DedupJob(SourceJob):
    """All that is known before any work starts.

    Attributes:
        options: Checked.
        search: What is looked for, in which table.
        source_identity: What tells it from another one that is written in its place.
        against_identity: Likewise of the run of --against; None without.
    """

    options: DedupOptions
    search: DuplicateSearch
    source_identity: Source
    against_identity: Source | None = None

    @property
    def table(self) -> TablePlace:
        """See SourceJob."""
        return self.search.selection.table

    @property
    def runs(self) -> list[str]:
        """See SourceJob: those of --against and of the run that has its score table."""
        against = self.search.against
        return [] if against is None else [self.options.against, against.scores]

    @property
    def reads(self) -> list[str]:
        """See SourceJob: the input shards of --against, whose images may be read."""
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
        files = Files.of(options.division)
        return Configuration(DEDUPLICATE, duplicates=rule, files=files, source=self.source_identity)

    def build(self, root: beam.Pipeline, about: Mapping[str, object]) -> object:
        """See Job: the search, and what is left of the run, to shards and summary."""
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

        say_what_it_costs()
        options, output = self.options, self.output
        sources = root | ListParts(self.table)
        found = sources | FindDuplicates(self.search, output)
        if options.table_only:
            return found
        kept = Selection(self.table, None)
        numbers = sources | "Number" >> beam.Map(lambda part: part.shard_index).with_output_types(int)
        removed = numbers | RemoveDuplicates(kept, Duplicates(output, options.against_action), found)
        run = root | ContinueRun(output, folder=VERDICTS)
        parts = (run.pending | SelectRows(kept, output, removed), run.done) | "AddDone" >> beam.Flatten()
        packed = parts | PackShards(output, options.division, about)
        return packed | WriteReport(output) | WriteLayouts(output, options.layouts)

    @property
    def is_done(self) -> bool:
        """See Job: the duplicates table alone was asked for, and is there."""
        from beam_curate.duplicates.finding import is_finished

        return self.options.table_only and is_finished(self.output)

    def finish_complete(self, beam_options: PipelineOptions) -> None:
        """See Job."""
        from beam_curate.duplicates.finding import check_whole
        from beam_curate.runs.run import Run

        if self.options.table_only:
            check_whole(self.output)
            Run(self.output).clean()
        else:
            super().finish_complete(beam_options)

    @property
    def mark(self) -> str:
        """See Job."""
        from beam_curate.duplicates.finding import SUMMARY
        from beam_curate.storage.files import join

        return join(self.options.output, SUMMARY) if self.options.table_only else super().mark

    def report(self, seconds: float) -> int:
        """See Job: what was found, and the funnel where the rest was written."""
        from beam_curate.commands.outcome import report_duplicates

        report_duplicates(self.output)
        return 0 if self.options.table_only else super().report(seconds)


def prepare(options: DedupOptions, given: frozenset[str], beam_options: PipelineOptions) -> DedupJob:
    """Looks at the source; nothing is written.

    Raises:
        ValueError: Something does not fit; one line that names it and the remedy.
    """
    del given, beam_options
    from beam_curate.commands.own_scores import check_layouts
    from beam_curate.runs import score_table
    from beam_curate.runs.configuration import Model
    from beam_curate.selection.rejudging import Selection
    from beam_curate.storage.places import same_place

    source, summary = finished_run("scores", options.scores)
    table = source.table
    shards = source.input_shards
    refuse_source(options, table, () if options.table_only else shards)
    seen = dict(source.seen)
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
                f"--against {options.against} is the same run as --scores; give another run, or "
                "leave --against out to find duplicates inside --scores"
            )
        seen |= run.seen
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
    return DedupJob(
        options=options,
        shards=shards,
        source=summary,
        seen=seen,
        search=options.search(options.methods, selection, against, options.against_action),
        source_identity=source.source,
        against_identity=against_identity,
    )


main = command(DedupOptions, __doc__, EPILOG, prepare)
