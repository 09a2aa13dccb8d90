"""What `curate` knows before any work starts: checked options, the input, the model and all scores."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.options import OptionError

if TYPE_CHECKING:
    from beam_curate.clip.model_description import ModelDescription
    from beam_curate.clip.second_models import SecondModel
    from beam_curate.commands.own_scores import OwnScores
    from beam_curate.heads.head import EmbeddingScore
    from beam_curate.records import Shard
    from beam_curate.runs.configuration import Configuration, Model
    from beam_curate.scores.rules import KeepRule
    from beam_curate.scores.screening import Screening
    from beam_curate.scores.top import TopRule


OF_DEDUP: Final = ("keep_by", "eps", "n_clusters", "border", "max_distance")
"""The options that say what --dedup does."""


@dataclass(frozen=True)
class Job:
    """All that is known before any work starts: checked options, the input, the model and the heads."""

    options: CurateOptions
    shards: Sequence[Shard]
    model: ModelDescription
    heads: tuple[EmbeddingScore, ...]
    keep: tuple[KeepRule, ...]
    screening: Screening
    own: OwnScores
    image_scores: tuple[str, ...]
    second: Mapping[str, SecondModel]
    top: TopRule | None = None

    @property
    def configuration(self) -> Configuration:
        """What decides the results: a run is continued only with the same."""
        from beam_curate.runs.configuration import Configuration, Files, Rules, Scores, Scoring

        options = self.options
        heads = {head.name: _deciding(head.description) for head in self.heads}
        return Configuration(
            # The weights' checksum, the activation and the preprocessing decide, not the path, tag or option that they came by.
            model=_deciding_model(self.model),
            second_models={name: _deciding_model(model.description) for name, model in self.second.items()},
            scoring=options.as_record(Scoring),
            scores=options.as_record(Scores, heads=heads, scorers=self.own.descriptions),
            rules=options.as_record(Rules),
            duplicates=options.duplicate_rule(options.dedup) if options.dedup else None,
            files=Files(options.samples_per_shard, options.shuffle_seed),
        )

    @property
    def on_one_device(self) -> bool:
        """Whether DALI hands the pixels to the model on the device: nothing else looks at them, and both are in one process."""
        options = self.options
        looked_at = self.screening.quality or self.screening.rules or self.own.of_images or self.second
        together = options.device == options.dali_device and options.model_copies == 1
        return options.decoder == "dali" and together and not looked_at

    @property
    def reads(self) -> list[str]:
        """The files and folders that are read beside the shards, as far as options name them."""
        from beam_curate.storage.files import absolute
        from beam_curate.storage.listing import list_files

        options = self.options
        weights = [options.pretrained, *(text.partition("=")[2].strip() for text in options.second_model)]
        named = [options.model_dir, *(path for path in weights if "://" in path or os.path.exists(path))]
        return [
            *list_files(options.input),
            *(absolute(path) for path in (*named, *self.own.files, *_files(self.heads)) if path),
        ]

    @property
    def meaningless(self) -> list[str]:
        """What is random in this job, so that its scores mean nothing."""
        found = ["CLIP weights"] if self.model.random else []
        return found + [
            f"{head.name} {'score' if 'prompts' in head.description else 'head'}"
            for head in self.heads
            if head.description.get("meaningless")
        ]


def _files(heads: Sequence[EmbeddingScore]) -> list[str]:
    """Where heads were read from; a random one was not."""
    return [str(head.description.get("file", "")) for head in heads if "prompts" not in head.description]


def _deciding_model(description: ModelDescription) -> Model:
    from beam_curate.runs.configuration import Model
    from beam_curate.storage.json_records import of_json

    ways = ("pretrained", "quick_gelu_by", "preprocess_by")
    said = dataclasses.asdict(description)
    return of_json(Model, {name: value for name, value in said.items() if name not in ways})


def _deciding(description: Mapping[str, object]) -> dict[str, object]:
    """What of a score's description decides its values: not where a file lies, nor the last bits of a prompt's matrix."""
    skipped = ("file", "id") if "prompts" in description else ("file",)
    return {name: value for name, value in description.items() if name not in skipped}


def prepare(options: CurateOptions, given: frozenset[str]) -> Job:
    """Lists the input, describes the model and loads the heads; nothing is written.

    Args:
        options: The options.
        given: The names of those that the user gave.

    Raises:
        ValueError: Something does not fit; one line that names it and the remedy.
    """
    from beam_curate.clip.caption_handler import CAPTION_SCORE
    from beam_curate.clip.model_description import describe_model
    from beam_curate.clip.second_models import SecondModelError, find_second_models, widths
    from beam_curate.commands.duplicate_options import check_keep_by
    from beam_curate.commands.own_scores import check_layouts, load_own_scores, refuse_shared_names
    from beam_curate.heads.files import find_heads
    from beam_curate.images.dali_decoding import require_dali
    from beam_curate.intake.request import list_input
    from beam_curate.reasons import DESCRIPTIONS, REJECTIONS
    from beam_curate.runs.score_table import schema
    from beam_curate.scores.rules import keep_rule
    from beam_curate.scores.scales import prompt_scales
    from beam_curate.scores.screening import parse_screening

    options.check_scales()
    failures = [reason for reason in DESCRIPTIONS if reason not in REJECTIONS]
    unknown = [reason for reason in options.retried_reasons if reason not in failures]
    if unknown:
        raise OptionError(f"--retry_failed {unknown[0]!r} is no reason of a failure; there are: {', '.join(failures)}")
    if options.decoder == "dali":
        require_dali(options.dali_device)
    elif "dali_device" in given:
        raise OptionError(f"--dali_device {options.dali_device} is for --decoder dali, not {options.decoder}")
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
    idle = [name for name in OF_DEDUP if name in given]
    if options.dedup:
        check_keep_by(options.keep_by, names)
    elif idle:
        raise OptionError(f"--{idle[0]} {getattr(options, idle[0])} is for --dedup; add --dedup exact,semantic")
    options = _without_idle_rules(options, given, set(names))
    return Job(options, shards, model, heads, keep, screening, own, with_images, second, top)


def check_weights(job: Job) -> None:
    """Refuses weights that do not fit their model, where the workers are of this machine and read the same files.

    Raises:
        ValueError: It names the file and what does not fit.
    """
    from beam_curate.clip.visual_tower import check_visual_weights
    from beam_curate.clip.weights import find_weights

    options = job.options
    source = find_weights(options.clip_model, options.pretrained, model_dir=options.model_dir or None)
    check_visual_weights(source, job.model.quick_gelu)
    if options.caption_score:
        from beam_curate.clip.text_tower import check_text_weights  # loads all of open_clip, transformers and timm

        check_text_weights(source, job.model.quick_gelu)
    for second in job.second.values():
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
    """A default threshold on a score that is turned off is no rule; one that the user gave is a mistake."""
    for name, score in (("min_aesthetic", "aesthetic"), ("max_nsfw", "nsfw")):
        if score not in scores and getattr(options, name) is not None:
            if name in given:
                raise OptionError(
                    f"--{name} {getattr(options, name)} needs the {score} score, which --{score}_head none turns off; "
                    f"give a head, or --{name} none"
                )
            changes: dict[str, Any] = {name: None}
            options = dataclasses.replace(options, **changes)
    return options
