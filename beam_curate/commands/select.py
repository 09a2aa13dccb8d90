"""Selects from a score table by other rules: new shards without decoding or inference.

beam-curate select --scores out/ --keep 'aesthetic >= 5 and nsfw < 0.3' --dry_run
beam-curate select --scores out/ --keep 'aesthetic >= 5 and nsfw < 0.3' --output best/
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from beam_curate.commands.job import command
from beam_curate.commands.options import OptionError
from beam_curate.commands.select_notes import notes
from beam_curate.commands.select_options import SelectOptions
from beam_curate.commands.source_run import SourceJob, finished_run, refuse_source, refuse_written_over

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_curate.duplicates.removal import Duplicates
    from beam_curate.export.prepared import PreparedSamples
    from beam_curate.heads.head import EmbeddingScore
    from beam_curate.runs.configuration import Configuration, Model
    from beam_curate.runs.summary import About
    from beam_curate.runs.table_parts import TablePlace
    from beam_curate.selection.rejudging import Selection

EPILOG = """Rules are off unless they are given: those of the run that made the table do not count any more. Failed
samples stay failed. The samples' bytes are read from the source shards, which must be where they were."""


@dataclass(frozen=True, kw_only=True)
class SelectJob(SourceJob):
    """All that is known before any work starts.

    Attributes:
        options: Checked.
        selection: The source and the rules.
        scorers: The descriptions of the user's own scorers.
        duplicates: The duplicates to reject beside the rules.
        files: Of --head.
        format: How samples are written, if not as they are.
    """

    options: SelectOptions
    selection: Selection
    scorers: Sequence[dict[str, object]]
    duplicates: Duplicates | None = None
    files: Sequence[str] = ()
    format: PreparedSamples | None = None

    @property
    def table(self) -> TablePlace:
        """See SourceJob."""
        return self.selection.table

    @property
    def runs(self) -> list[str]:
        """See SourceJob."""
        return [self.options.duplicates]

    @property
    def reads(self) -> list[str]:
        """See SourceJob."""
        options = self.options
        weights = [options.pretrained] if "://" in options.pretrained or os.path.exists(options.pretrained) else []
        return [path for path in (options.model_dir, *weights, *self.files) if path]

    @property
    def configuration(self) -> Configuration:
        """What decides the result: a run is continued only with the same."""
        from beam_curate.runs.configuration import SELECT, Configuration, Files, Scores, Source

        options, source = self.options, self.source
        heads = {
            scorer.name: {**scorer.description, "file": ""}
            for scorer in self.selection.scorers
            if "prompts" not in scorer.description
        }
        return Configuration(
            SELECT,
            scores=Scores(options.prompt, heads=heads, scorers=self.scorers),
            rules=options.rules,
            duplicates=self.duplicates.rule if self.duplicates is not None else None,
            files=(self.format.files if self.format is not None else Files.of)(options.division),
            source=Source(source.configuration, source.funnel),
        )

    def about(self, runner: str) -> About:
        """See Job: the source's model and heads, and these rules."""
        new = [scorer.description for scorer in self.selection.scorers]
        random = [*(self.source.random or ()), *(f"{score['name']} score" for score in new if score.get("meaningless"))]
        about = super().about(runner)
        return replace(
            about,
            scores_meaningless=bool(random),
            random=random,
            heads=[*(about.heads or ()), *new],
            input=replace(about.input, duplicates=self.options.duplicates or None),
        )

    def without_run(self, beam_options: PipelineOptions) -> bool:
        """See Job: --dry_run."""
        for note in notes(self.options.scores, self.source, self.duplicates, self.configuration):
            print(note, file=sys.stderr)
        if self.options.dry_run:
            from beam_curate.commands.select_preview import dry_run

            options, about = self.options, {**self.about("").to_json(), "skipped": self.source.skipped}
            rules = self.selection, self.duplicates, options.division
            print(dry_run(*rules, options.report, about, beam_options, self.seen))
        return self.options.dry_run

    def build(self, root: beam.Pipeline, about: Mapping[str, Any]) -> object:
        """See Job: what is left of the run, to shards and summary."""
        import apache_beam as beam

        from beam_curate.export.copied_tars import CopiedTars
        from beam_curate.runs.score_table import VERDICTS
        from beam_curate.transforms.continue_run import ContinueRun
        from beam_curate.transforms.pack_shards import PackShards
        from beam_curate.transforms.remove_duplicates import RemoveDuplicates
        from beam_curate.transforms.select_rows import SelectRows
        from beam_curate.transforms.write_layouts import WriteLayouts
        from beam_curate.transforms.write_report import WriteReport

        options, output = self.options, self.output
        run = root | ContinueRun(output, folder=VERDICTS)
        removed = None
        if self.duplicates is not None:
            numbers = root | "Parts" >> beam.Create([shard.index for shard in self.shards])
            removed = numbers | RemoveDuplicates(self.selection, self.duplicates)
        parts = (run.pending | SelectRows(self.selection, output, removed), run.done) | "AddDone" >> beam.Flatten()
        format = self.format or CopiedTars()
        packed = parts | PackShards(output, options.division, about, format)
        return packed | WriteReport(output) | WriteLayouts(output, options.layouts)

    @property
    def notes(self) -> list[str]:
        """See Job."""
        return [f"note: {self.format.note}"] if self.format is not None and self.format.note else []


def prepare(options: SelectOptions, given: frozenset[str], beam_options: PipelineOptions) -> SelectJob:
    """Looks at the source and checks the rules; nothing is written.

    Raises:
        ValueError: Something does not fit; one line that names it and the remedy.
    """
    del given, beam_options
    from beam_curate.commands.own_scores import check_layouts, load_own_scores, refuse_shared_names
    from beam_curate.duplicates.removal import find_table
    from beam_curate.runs import score_table
    from beam_curate.runs.configuration import Model
    from beam_curate.scores.expressions import ExpressionError
    from beam_curate.scores.rules import check_columns, keep_rule, standard_rules
    from beam_curate.scores.scales import prompt_scales
    from beam_curate.scores.scorers import scorer_name
    from beam_curate.selection.rejudging import Selection

    options.check_scales()
    source, summary = finished_run("scores", options.scores)
    shards, table, seen = source.input_shards, source.table, source.seen
    if not options.dry_run:
        refuse_source(options, table, shards)
    with table.open(0) as part:
        schema = part.schema
    names = score_table.score_names(schema)
    scored = summary.configuration.scored
    model = scored.model or Model()
    own = load_own_scores(options.head, options.scorer, model.clip_model, model.embed_dim)
    if own.of_images:
        raise OptionError(
            f"--scorer {scorer_name(own.of_images[0])} needs images, and a score table has no images: give it "
            "to beam-curate curate"
        )
    selection = Selection(table, scorers=(*own.heads, *_prompts(options, model)), own=own.of_embeddings)
    clash = sorted({*selection.added} & {*schema.names, *score_table.schema((), 1).names})
    if clash:
        raise OptionError(
            f"the table has a column {clash[0]} already; give the score of --head, --scorer or --prompt another name"
        )
    refuse_shared_names(selection.added)
    names += selection.added
    check_layouts(options.layouts, names)
    rules = standard_rules(options.min_aesthetic, options.max_nsfw, options.min_side)
    try:
        check_columns(rules, names)
    except ValueError as error:
        raise OptionError(f"--scores {options.scores}: {error}") from error
    try:
        said = [*(summary.heads or ()), *(scorer.description for scorer in selection.scorers)]
        keep = keep_rule(options.keep, names, prompts=prompt_scales(said))
    except ExpressionError as error:
        raise OptionError(f"--keep: {error}") from error
    selection = replace(selection, rules=(*rules, *keep), top=options.top_rule(names))
    duplicates = find_table(options.duplicates, table.scores, summary) if options.duplicates else None
    format = _format(options, selection, len(shards), scored.max_pixels) if options.asks_for_format else None
    if format is not None:
        samples, size = summary.funnel.input, sum(shard.size for shard in shards)
        options.check_file_size(format, "samples_per_shard", options.samples_per_shard, samples, size)
    job = SelectJob(
        options=options,
        shards=shards,
        source=summary,
        seen={**seen, **(duplicates.seen if duplicates is not None else {})},
        selection=selection,
        scorers=own.descriptions,
        duplicates=duplicates,
        files=own.files,
        format=format,
    )
    if options.report:
        _check_report(job, source.folder)
    return job


def _format(options: SelectOptions, selection: Selection, shards: int, max_pixels: object) -> PreparedSamples:
    """The format of the options, for rows of the table with the scores that the selection adds."""
    import pyarrow as pa

    from beam_curate.export.fields import looked_at

    def suffixes(shard: int) -> set[str]:
        with selection.table.open(shard) as part:
            samples = part.read(["members"]).column("members").to_pylist()
        return {member["suffix"] for sample in samples for member in sample}

    with selection.table.open(0) as part:
        schema = part.schema
    for name in selection.added:
        schema = schema.insert(schema.get_field_index("embedding"), pa.field(name, pa.float32()))
    return options.chosen_format(schema.remove_metadata(), map(suffixes, looked_at(shards)), max_pixels)


def _check_report(job: SelectJob, source: str) -> None:
    """Refuses a page of --report that would take the place of a file that is read, or of a folder."""
    from beam_curate.storage.files import absolute

    options = job.options
    folders = [("scores", source), ("scores", job.selection.table.scores)]
    folders += [("duplicates", absolute(options.duplicates))] if options.duplicates else []
    refuse_written_over(options.report, folders, [*(shard.path for shard in job.shards), *job.reads])


def _prompts(options: SelectOptions, scored: Model) -> tuple[EmbeddingScore, ...]:
    """The scores of --prompt, by the model that made the embeddings: its weights' checksum must be the same."""
    from beam_curate.commands.own_scores import read_prompts

    specs = read_prompts(options.prompt)
    if not specs:
        return ()  # the weights need not be there, nor torch be loaded
    from beam_curate.clip.model_description import describe_model
    from beam_curate.clip.preprocessing import KEYS as PREPROCESS_KEYS
    from beam_curate.clip.prompts import prompt_scores

    folder, quick_gelu = options.model_dir or None, bool(scored.more["quick_gelu"])
    prepared = {key: scored.more[key] for key in PREPROCESS_KEYS}  # of the run: nothing is to be asked about it again
    here = describe_model(
        scored.clip_model,
        options.pretrained,
        model_dir=folder,
        quick_gelu=quick_gelu,
        preprocess=prepared,
        fetch=True,
    )
    if here.weights != scored.weights:
        raise OptionError(
            f"--pretrained {options.pretrained}: these are not the weights that made the embeddings of {options.scores}; give "
            f"those of {scored.clip_model} with the identity {scored.weights}"
        )
    return prompt_scores(specs, scored.clip_model, options.pretrained, model_dir=folder, quick_gelu=quick_gelu)


main = command(SelectOptions, __doc__, EPILOG, prepare)
