"""What `curate` scores, and by what."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from beam_curate.commands.curate_options import CurateOptions

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


@dataclass(frozen=True)
class ScoringPlan:
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
        from beam_curate.runs.configuration import Configuration, Files, Scores, Scoring

        options = self.options
        heads = {head.name: _deciding(head.description) for head in self.heads}
        return Configuration(
            # The weights' checksum, the activation and the preprocessing decide, not the path, tag or option that they came by.
            model=_deciding_model(self.model),
            second_models={name: _deciding_model(model.description) for name, model in self.second.items()},
            scoring=Scoring(
                clip_model=options.clip_model,
                batch_size=options.batch_size,
                precision=options.precision,
                decoder=options.decoder,
                exif_orientation=options.exif_orientation,
                image_extension=options.image_extension,
                max_pixels=options.max_pixels,
                max_member_bytes=options.max_member_bytes,
                max_shard_bytes=options.max_shard_bytes,
            ),
            scores=Scores(options.prompt, options.quality, options.caption_score, heads, self.own.descriptions),
            rules=replace(options.rules, screen=options.screen),
            duplicates=options.duplicate_rule(options.dedup) if options.dedup else None,
            files=Files.of(options.division),
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
