"""Selects from a score table by other rules: new shards without decoding or inference.

beam-curate select --scores out/ --keep 'aesthetic >= 5 and nsfw < 0.3' --dry_run
beam-curate select --scores out/ --keep 'aesthetic >= 5 and nsfw < 0.3' --output best/
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from beam_curate.commands.options import OptionError, fail, gives_back, parse, printable
from beam_curate.commands.select_options import SelectOptions

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_curate.duplicates.removal import Duplicates
    from beam_curate.export.prepared import PreparedSamples
    from beam_curate.heads.head import EmbeddingScore
    from beam_curate.records import Shard
    from beam_curate.runs.configuration import Configuration, Model
    from beam_curate.runs.summary import Summary
    from beam_curate.selection.rejudging import Selection

EPILOG = """Every option of Apache Beam passes through, such as --runner=DataflowRunner; the default runner is Beam's
in-process one. Rules are off unless they are given: those of the run that made the table do not count any more. Failed
samples stay failed. The samples' bytes are read from the source shards, which must be where they were."""


@dataclass(frozen=True)
class Job:
    """All that is known before any work starts.

    Attributes:
        options: Checked.
        selection: The source and the rules.
        shards: The input shards of the source's run.
        source: The summary of that run.
        scorers: The descriptions of the user's own scorers.
        duplicates: The duplicates to reject beside the rules.
        files: Of --head.
        format: How samples are written, if not as they are.
    """

    options: SelectOptions
    selection: Selection
    shards: Sequence[Shard]
    source: Summary
    scorers: Sequence[dict[str, object]]
    duplicates: Duplicates | None = None
    files: Sequence[str] = ()
    format: PreparedSamples | None = None

    @property
    def reads(self) -> list[str]:
        """The files and folders that are read beside the runs and their shards, as far as options name them."""
        options = self.options
        weights = [options.pretrained] if "://" in options.pretrained or os.path.exists(options.pretrained) else []
        return [path for path in (options.model_dir, *weights, *self.files) if path]

    @property
    def configuration(self) -> Configuration:
        """What decides the result: a run is continued only with the same."""
        from beam_curate.runs.configuration import SELECT, Configuration, DuplicateRule, Files, Rules, Scores, Source

        options, source = self.options, self.source
        heads = {
            scorer.name: {**scorer.description, "file": ""}
            for scorer in self.selection.scorers
            if "prompts" not in scorer.description
        }
        packed = options.samples_per_shard, options.shuffle_seed
        return Configuration(
            SELECT,
            scores=Scores(options.prompt, heads=heads, scorers=self.scorers),
            rules=options.as_record(Rules),
            duplicates=DuplicateRule.of_table(self.duplicates.counts) if self.duplicates is not None else None,
            files=self.format.files(*packed) if self.format is not None else Files(*packed),
            source=Source(source.configuration, source.funnel),
        )


def prepare(options: SelectOptions) -> Job:
    """Looks at the source and checks the rules; nothing is written.

    Raises:
        ValueError: Something does not fit; one line that names it and the remedy.
    """
    from beam_curate.commands.own_scores import check_layouts, load_own_scores, refuse_shared_names
    from beam_curate.commands.source_run import finished_run
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
    shards, table = source.input_shards, source.table
    with table.open(0) as part:
        schema = part.schema
    names = score_table.score_names(schema)
    scored = summary.configuration.scored
    model = scored.model or Model()
    own = load_own_scores(options.head, options.scorer, model.clip_model, model.embed_dim)
    if own.of_images:
        raise OptionError(
            f"--scorer {scorer_name(own.of_images[0])} takes images, and a score table has none: give it to beam-curate curate"
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
    duplicates = find_table(options.duplicates, table.scores) if options.duplicates else None
    format = _format(options, selection, scored.max_pixels) if options.asks_for_format else None
    if format is not None:
        samples, size = summary.funnel.input, sum(shard.size for shard in shards)
        options.check_file_size(format, "samples_per_shard", options.samples_per_shard, samples, size)
    job = Job(options, selection, shards, summary, own.descriptions, duplicates, own.files, format)
    if options.report:
        _check_report(job, source.folder)
    return job


def _format(options: SelectOptions, selection: Selection, max_pixels: object) -> PreparedSamples:
    """The format of the options, for rows of the table with the scores that the selection adds."""
    import pyarrow as pa

    with selection.table.open(0) as part:
        schema = part.schema
        samples = part.read(["members"]).column("members").to_pylist()
    for name in selection.added:
        schema = schema.insert(schema.get_field_index("embedding"), pa.field(name, pa.float32()))
    suffixes = {member["suffix"] for sample in samples for member in sample}
    return options.chosen_format(schema.remove_metadata(), suffixes, max_pixels)


def _check_report(job: Job, source: str) -> None:
    """Refuses a page of --report that would take the place of a file that is read, or of a folder."""
    from beam_curate.commands.source_run import refuse_written_over
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

    weights = {"model_dir": options.model_dir or None, "quick_gelu": scored.more["quick_gelu"]}
    prepared = {key: scored.more[key] for key in PREPROCESS_KEYS}  # of the run: nothing is to be asked about it again
    here = describe_model(scored.clip_model, options.pretrained, **weights, preprocess=prepared, fetch=True)
    if here.weights != scored.weights:
        raise OptionError(
            f"--pretrained {options.pretrained}: these are not the weights that made the embeddings of {options.scores}; give "
            f"those of {scored.clip_model} with the identity {scored.weights}"
        )
    return prompt_scores(specs, scored.clip_model, options.pretrained, **weights)


def duplicates_note(job: Job) -> str:
    """What a selection from a run without duplicates should know; empty if it has nothing to do with one."""
    from beam_curate.scores.rules_in_force import duplicates, steps

    searches = [step for step in steps(job.source.configuration) if duplicates(step)]
    if not searches or job.duplicates is not None:
        return ""
    scores = job.options.scores
    rule = searches[-1].duplicates
    table = job.source.input.duplicates if rule is not None and rule.found is not None else scores
    last = "those of its last search" if len(searches) > 1 else "them"
    return (
        f"note: the duplicates that {printable(scores)} had removed are candidates again; --duplicates {printable(table)} "
        f"keeps {last} out"
    )


def build(root: beam.Pipeline, job: Job, output: str, about: dict[str, Any]) -> beam.PCollection[Summary]:
    """The selection on a pipeline: what is left of the run in `output`, to shards and summary."""
    import apache_beam as beam

    from beam_curate.export.copied_tars import CopiedTars
    from beam_curate.runs.score_table import VERDICTS
    from beam_curate.transforms.continue_run import ContinueRun
    from beam_curate.transforms.pack_shards import PackShards
    from beam_curate.transforms.remove_duplicates import RemoveDuplicates
    from beam_curate.transforms.select_rows import SelectRows
    from beam_curate.transforms.write_layouts import WriteLayouts
    from beam_curate.transforms.write_report import WriteReport

    run = root | ContinueRun(output, folder=VERDICTS)
    removed = None
    if job.duplicates is not None:
        numbers = root | "Parts" >> beam.Create([shard.index for shard in job.shards])
        removed = numbers | RemoveDuplicates(job.selection, job.duplicates)
    parts = (run.pending | SelectRows(job.selection, output, removed), run.done) | "AddDone" >> beam.Flatten()
    options, format = job.options, job.format or CopiedTars()
    packed = parts | PackShards(output, options.samples_per_shard, options.shuffle_seed, about, format)
    return packed | WriteReport(output) | WriteLayouts(output, job.options.layouts)


def about_run(job: Job, runner: str = "") -> dict[str, Any]:
    """What summary.json says beside the counts: the source's model and heads, and these rules."""
    from beam_curate.commands.source_run import about_source

    new = [scorer.description for scorer in job.selection.scorers]
    random = [*(job.source.random or ()), *(f"{score['name']} score" for score in new if score.get("meaningless"))]
    about = about_source(job.source, job.configuration, job.options.scores, runner)
    return replace(
        about,
        scores_meaningless=bool(random),
        random=random,
        heads=[*(about.heads or ()), *new],
        input=replace(about.input, duplicates=job.options.duplicates or None),
    ).to_json()


@gives_back
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status.

    0: done. 1: samples were lost. 2: a wrong option, before any work.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        options, rest, _ = parse(SelectOptions, argv, str(__doc__).splitlines()[0], EPILOG)
    except OptionError as error:
        return fail(error)
    from beam_curate.commands.launch import build_pipeline, pipeline_options, runner_name
    from beam_curate.commands.outcome import finish_run, report
    from beam_curate.commands.source_run import start_selection
    from beam_curate.storage.files import absolute
    from beam_curate.storage.retrying import StorageError

    started = time.monotonic()
    try:
        beam_options = pipeline_options(rest, SelectOptions)
        job = prepare(options)
        table = job.selection.table
        if note := duplicates_note(job):
            print(note, file=sys.stderr)
        if options.dry_run:
            from beam_curate.commands.select_preview import dry_run

            about = {**about_run(job), "skipped": job.source.skipped}
            per_shard = options.samples_per_shard
            print(dry_run(job.selection, job.duplicates, per_shard, options.report, about, beam_options))
            return 0
        output = absolute(options.output)
        about = about_run(job, runner_name(beam_options))
        steps = functools.partial(build, job=job, output=output, about=about)
        root = build_pipeline(steps, beam_options)
        complete = start_selection(
            options, output, job.configuration, job.shards, table, [options.duplicates], beam_options, job.reads
        )
    except (ValueError, StorageError) as error:
        return fail(error)
    if job.format is not None and job.format.note:
        print(f"note: {job.format.note}", file=sys.stderr)
    if not complete and not finish_run(root, output, options.output, new=not options.resume):
        return 0
    return report(output, options.output, time.monotonic() - started)
