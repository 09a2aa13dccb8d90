"""Curates image shards: score once, filter, and write WebDataset shards with all of their metadata.

beam-curate curate --input 'data/{00000..00099}.tar' --output out/ --model_dir models/ \
        --min_aesthetic 4.5 --max_nsfw 0.5 --samples_per_shard 1000
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.dataflow_options import check_precision, dataflow_arguments, with_gpu_defaults
from beam_curate.commands.duplicate_options import DuplicateOptions, check_keep_by
from beam_curate.commands.job import TableJob, command, now, versions
from beam_curate.commands.model_options import check_device, usual_batch_size
from beam_curate.commands.options import OptionError, option_fields, option_values
from beam_curate.commands.scoring_plan import ScoringPlan
from beam_curate.commands.scoring_steps import pack, score_and_pack

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_curate.heads.head import EmbeddingScore
    from beam_curate.runs.configuration import Configuration
    from beam_curate.runs.summary import About
    from beam_curate.runs.wanted import WantedRun

EPILOG = """The defaults of the thresholds are those of NeMo Curator's tutorial: an aesthetic score of 0.5 on a scale of
1 to 10 rejects almost nothing. Run once with the rules off, look at the scores, and choose."""


@dataclass(frozen=True)
class CurateJob(TableJob):
    """All that is known before any work starts: checked options, which of them were given, and what is scored by what."""

    options: CurateOptions
    plan: ScoringPlan
    given: frozenset[str]

    @property
    def configuration(self) -> Configuration:
        """See Job."""
        return self.plan.configuration

    @property
    def wanted(self) -> WantedRun:
        """See Job."""
        from beam_curate.runs.wanted import WantedRun

        options = self.options
        return WantedRun(
            self.plan.configuration,
            self.plan.shards,
            resume=options.resume,
            overwrite=options.overwrite,
            retry=options.retried_reasons,
            reads=self.plan.reads,
            table_only=options.table_only,
        )

    def about(self, runner: str) -> About:
        """See Job."""
        import platform

        from beam_curate.runs.summary import About, Input

        return About(
            scores_meaningless=bool(self.plan.meaningless),
            random=self.plan.meaningless,
            heads=[head.description for head in self.plan.heads],
            configuration=self.plan.configuration,
            input=Input(pattern=self.options.input, bytes=sum(shard.size for shard in self.plan.shards)),
            runner=runner,
            versions={
                **versions("apache-beam", "torch", "open_clip_torch", "pillow", "pyarrow", "numpy"),
                "python": platform.python_version(),
            },
            started=now(),
        )

    @property
    def has_table(self) -> bool:
        """Whether the run that is continued has ended with its table, and goes on to shards."""
        from beam_curate.runs.run import Run

        options = self.options
        return options.resume and not options.table_only and not self.retried and Run(self.output).is_finished

    def build(self, root: beam.Pipeline, about: Mapping[str, object]) -> object:
        """See Job."""
        return (
            pack(root, self.plan, self.output, about)
            if self.has_table
            else score_and_pack(root, self.plan, self.output, about, self.retried)
        )

    @property
    def retried(self) -> Sequence[str]:
        """The reasons whose samples are scored again: those of the option, and those of a retry that was stopped."""
        from beam_curate.runs.run import Run

        named = self.options.retried_reasons
        goes_on = self.options.resume or named
        return tuple(dict.fromkeys([*named, *Run(self.output).retried])) if goes_on else ()

    @property
    def notes(self) -> list[str]:
        """See Job."""
        found, least = [], self.options.min_aesthetic
        if self.plan.meaningless:
            found.append(f"warning: random {', '.join(self.plan.meaningless)}: the scores are meaningless")
        if least is not None and least < 1 and "min_aesthetic" not in self.given:
            found.append(
                f"note: --min_aesthetic {least} on a scale of 1 to 10 rejects almost nothing; useful cuts are 4.5 to 6.5"
            )
        return found


def settled(options: CurateOptions, given: frozenset[str], rest: list[str]) -> tuple[CurateOptions, list[str]]:
    """See `job.command`: what an accelerator implies. The weights are read while Beam and torch load."""
    from beam_curate.clip.weights_files import digest_ahead, likely_file

    # Before torch is loaded: on a CPU its threads and the decoders' share the cores, and a thread that spins while it waits
    # takes them from the others (with B/32 in bf16 2 to 3 ms of CPU time an image). OpenMP's standard variable; the user's wins.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = with_gpu_defaults(options, given, rest)
    rest = dataflow_arguments(options, rest)
    if weights := likely_file(options.clip_model, options.pretrained, options.model_dir):
        digest_ahead(weights)
    return options, rest


def prepare(options: CurateOptions, given: frozenset[str], beam_options: PipelineOptions) -> CurateJob:
    """Lists the input, describes the model and loads the heads; nothing is written.

    Args:
        options: The options.
        given: The names of those that the user gave.
        beam_options: Beam's.

    Raises:
        ValueError: Something does not fit; one line that names it and the remedy.
    """
    from beam_curate.clip.caption_handler import CAPTION_SCORE
    from beam_curate.clip.model_description import describe_model
    from beam_curate.clip.second_models import SecondModelError, find_second_models, widths
    from beam_curate.commands.launch import LOCAL_RUNNER, runner_name
    from beam_curate.commands.own_scores import check_layouts, load_own_scores, refuse_shared_names
    from beam_curate.heads.files import find_heads
    from beam_curate.intake.request import list_input
    from beam_curate.runs.score_table import schema
    from beam_curate.scores.rules import keep_rule
    from beam_curate.scores.scales import prompt_scales
    from beam_curate.scores.screening import parse_screening

    local = runner_name(beam_options) == LOCAL_RUNNER  # the workers are of this machine, and read the same files
    if local and "batch_size" not in given:
        options = dataclasses.replace(options, batch_size=usual_batch_size(options.device))
    _check_choices(options, given)
    shards = list_input(options.input)
    model = describe_model(
        options.clip_model,
        options.pretrained,
        model_dir=options.model_dir or None,
        quick_gelu=options.forced_quick_gelu,
        preprocess=options.preprocess,
        fetch=True,
    )
    try:
        second = find_second_models(options.second_model, options.model_dir or None)
    except SecondModelError as error:
        raise OptionError(f"--second_model {error}") from error
    published = find_heads(
        options.model_dir,
        options.clip_model,
        model.embed_dim,
        aesthetic_head=options.aesthetic_head or None,
        nsfw_head=options.nsfw_head or None,
        nsfw_chain=options.nsfw_chain,
    )
    own = load_own_scores(options.head, options.scorer, options.clip_model, model.embed_dim)
    heads: tuple[EmbeddingScore, ...] = (*published, *own.heads, *_prompts(options, model.quick_gelu))
    screening = parse_screening(options.quality, options.screen)
    with_images = (
        *screening.quality,
        *(column for scorer in own.of_images for column in scorer.columns),
        *([CAPTION_SCORE] if options.caption_score else []),
    )
    names = [
        *with_images,
        *(head.name for head in heads),
        *(column for scorer in own.of_embeddings for column in scorer.columns),
    ]
    refuse_shared_names(names)
    schema(names, model.embed_dim, widths(second))  # refuses a score that is named as an embedding
    check_layouts(options.layouts, names)
    try:
        keep = keep_rule(options.keep, names, prompts=prompt_scales(head.description for head in heads))
    except ValueError as error:
        raise OptionError(f"--keep: {error}") from error
    top = options.top_rule(names)
    idle = [field.name for field in option_fields(DuplicateOptions) if field.name in given]
    if options.dedup:
        check_keep_by(options.keep_by, names)
    elif idle:
        raise OptionError(f"--{idle[0]} {option_values(options)[idle[0]]} is for --dedup; add --dedup exact,semantic")
    options = _without_idle_rules(options, given, set(names))
    plan = ScoringPlan(options, shards, model, heads, keep, screening, own, with_images, second, top)
    if local:
        check_machine(plan)
    job = CurateJob(options, plan, given)
    if not job.has_table:  # a run that was scored on a T4 may be packed anywhere
        check_precision(options, runner_name(beam_options))
    return job


def _check_choices(options: CurateOptions, given: frozenset[str]) -> None:
    """Checks what needs no look at the input.

    Raises:
        ValueError: It names the option, its value, and the remedy.
    """
    from beam_curate.images.dali_decoding import require_dali
    from beam_curate.reasons import DESCRIPTIONS, REJECTIONS

    options.check_scales()
    failures = [reason for reason in DESCRIPTIONS if reason not in REJECTIONS]
    unknown = [reason for reason in options.retried_reasons if reason not in failures]
    if unknown:
        raise OptionError(
            f"--retry_failed {unknown[0]!r} is not a reason for a failure; there are: {', '.join(failures)}"
        )
    if options.decoder == "dali":
        require_dali(options.dali_device)
    elif "dali_device" in given:
        raise OptionError(f"--dali_device {options.dali_device} is for --decoder dali, not {options.decoder}")


def check_machine(plan: ScoringPlan) -> None:
    """Refuses devices and weights that this machine does not have or that do not fit, for a run that is here alone.

    Raises:
        ValueError: It names the file and what does not fit.
    """
    from beam_curate.clip.visual_tower import check_visual_weights
    from beam_curate.clip.weights import find_weights

    options = plan.options
    check_device(options.device, precision=options.precision)
    if options.decoder == "dali":
        check_device(options.dali_device, "dali_device")
    source = find_weights(options.clip_model, options.pretrained, model_dir=options.model_dir or None)
    check_visual_weights(source, plan.model.quick_gelu)
    if options.caption_score:
        from beam_curate.clip.text_tower import check_text_weights  # loads all of open_clip, transformers and timm

        check_text_weights(source, plan.model.quick_gelu)
    for second in plan.second.values():
        other = find_weights(second.description.clip_model, second.pretrained, model_dir=options.model_dir or None)
        check_visual_weights(other, second.description.quick_gelu)


def _prompts(options: CurateOptions, quick_gelu: bool) -> tuple[EmbeddingScore, ...]:
    """The scores of --prompt, computed once with the text tower."""
    from beam_curate.clip.prompts import prompt_scores
    from beam_curate.commands.own_scores import read_prompts

    return prompt_scores(
        read_prompts(options.prompt),
        options.clip_model,
        options.pretrained,
        model_dir=options.model_dir or None,
        quick_gelu=quick_gelu,
    )


def _without_idle_rules(options: CurateOptions, given: frozenset[str], scores: set[str]) -> CurateOptions:
    """A default threshold on a score that is turned off is not a rule; one that the user gave is a mistake."""
    scored = {"min_aesthetic": "aesthetic", "max_nsfw": "nsfw"}
    idle = [name for name, score in scored.items() if score not in scores and getattr(options, name) is not None]
    for name in idle:
        if name in given:
            raise OptionError(
                f"--{name} {getattr(options, name)} needs the {scored[name]} score, which --{scored[name]}_head none turns off; "
                f"give a head, or --{name} none"
            )
    return dataclasses.replace(
        options,
        min_aesthetic=None if "min_aesthetic" in idle else options.min_aesthetic,
        max_nsfw=None if "max_nsfw" in idle else options.max_nsfw,
    )


main = command(CurateOptions, __doc__, EPILOG, prepare, settled)
