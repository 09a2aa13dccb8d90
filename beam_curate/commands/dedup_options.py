"""The options of `dedup.py`."""

from dataclasses import dataclass
from typing import Any

from beam_curate.commands.duplicate_options import (
    DuplicateOptions,
    border_option,
    eps_option,
    keep_by_option,
    max_comparisons_option,
    max_distance_option,
    methods_help,
    mirrored_option,
    n_clusters_option,
)
from beam_curate.commands.options import OptionError, comma_list, number_or_none, once, option, required
from beam_curate.commands.selecting_options import SelectingOptions, layout_option


@dataclass(frozen=True)
class DedupOptions(DuplicateOptions, SelectingOptions):
    """In which score table duplicates are looked for, what a duplicate is, and where to write."""

    scores: str = required("folder of the run that made the score table: the --output of beam-curate curate or select")
    output: str = required("folder for the duplicates table and the shards without duplicates")
    methods: str = once("exact,semantic", f"what a duplicate is: {methods_help()}")
    keep_by: str = keep_by_option()
    eps: float = eps_option()
    n_clusters: int = n_clusters_option()
    border: float = border_option()
    max_distance: int = max_distance_option()
    mirrored: bool = mirrored_option()
    max_comparisons: float = max_comparisons_option()
    candidates: str = option(
        "kept",
        "among which samples duplicates are looked for: those that the run of --scores kept, or all that have an embedding, for "
        "a table that beam-curate select uses with other rules",
        choices=("kept", "all"),
    )
    against: str = option(
        "",
        "folder of another run: look for samples that it kept too (decontamination), and not for duplicates inside --scores",
    )
    against_action: str = option(
        "drop",
        "what to do with samples that are in --against too: drop them, or keep only them",
        choices=("drop", "keep"),
    )
    table_only: bool = option(
        False,
        "write the duplicates table alone, for beam-curate select --duplicates, and no shards",
        action="store_true",
    )
    layout: str = layout_option()
    samples_per_shard: int = option(1000, "samples in every output shard but the last")
    shuffle_seed: Any = option(
        None, "shuffle all kept samples by this seed; none: source order", type=number_or_none(int)
    )
    resume: bool = option(False, "continue the run in --output", action="store_true")
    overwrite: bool = option(False, "delete an earlier run's files in --output first", action="store_true")

    min_aesthetic = None  # the rules are those of --scores
    max_nsfw = None
    min_side = None

    def __post_init__(self) -> None:
        self.check_selecting()
        self.check_duplicates("methods", self.methods)
        if not comma_list(self.methods):
            raise OptionError("--methods is empty; give exact, pixels, perceptual or semantic")
        if self.samples_per_shard < 1:
            raise OptionError(f"--samples_per_shard is {self.samples_per_shard}; give at least 1")
        if self.against_action == "keep" and not self.against:
            raise OptionError("--against_action keep needs --against, the folder of the other run")
        if self.table_only and self.layout:
            raise OptionError(f"--layout {self.layout} is of shards, which --table_only does not write; leave one out")
