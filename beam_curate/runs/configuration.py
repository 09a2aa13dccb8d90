"""What decides the result of a run, typed: what run.json and summary.json hold under `configuration`.

Its names are the library's, not those of the commands' options. A run is continued only with an equal configuration, and one that
starts from another holds that one's inside its own. What an older version wrote, flat and by option, is read too (see
`old_configuration`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from beam_curate.reasons import NOT_KEPT_BY_SCREEN
from beam_curate.runs.division import Division
from beam_curate.runs.old_configuration import grouped, rule_of_table
from beam_curate.storage.json_records import of_json, to_json

SCORE: Final = "score"
SELECT: Final = "select"
DEDUPLICATE: Final = "deduplicate"
EXPORT: Final = "export"
PACK: Final = "pack"
LIMITS: Final = ("scoring.max_pixels", "scoring.max_member_bytes")
"""What only decides which samples fail: it may change when failed samples are tried again."""


@dataclass(frozen=True)
class Funnel:
    """What became of a run's samples: input = kept + rejected + failed.

    Attributes:
        input: All samples.
        failed: That could not be read, decoded or scored.
        rejected: That a rule did not keep.
        kept: The others.
        reasons: The samples that failed or were rejected, by the reason.
    """

    input: int
    failed: int
    rejected: int
    kept: int
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        """The samples that have an embedding: they neither failed nor were screened out."""
        return self.input - self.failed - self.reasons.get(NOT_KEPT_BY_SCREEN, 0)


@dataclass(frozen=True)
class Model:
    """The model that made embeddings: its weights' checksum, its activation, and how images are prepared for it."""

    clip_model: str = ""
    weights: str = ""
    embed_dim: int = 0
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Scoring:
    """How samples were read, decoded and embedded; the limits beyond which they fail."""

    clip_model: str = ""
    batch_size: int | None = None
    precision: str | None = None
    decoder: str | None = None
    exif_orientation: str | None = None
    image_extension: str | None = None
    max_pixels: int | float | None = None
    max_member_bytes: int | None = None
    max_shard_bytes: int | None = None


@dataclass(frozen=True)
class Scores:
    """The scores of a run, or those that a selection adds: texts of the user's, and what describes heads and scorers."""

    prompt: str = ""
    quality: str = ""
    caption_score: bool = False
    heads: Mapping[str, object] = field(default_factory=dict)
    scorers: Sequence[Any] = ()


@dataclass(frozen=True)
class Rules:
    """The rules that give verdicts; None and an empty text turn one off. `screen` is tried before inference."""

    min_aesthetic: int | float | None = None
    max_nsfw: int | float | None = None
    min_side: int | float | None = None
    keep: str | None = ""
    screen: str | None = ""
    top: str | None = ""
    top_fraction: str | None = ""

    @property
    def need_the_whole_table(self) -> bool:
        """Whether one of them is tried when all rows are scored."""
        return bool(self.top or self.top_fraction)


@dataclass(frozen=True)
class DuplicateCounts:
    """What a duplicates table that was applied holds, in numbers.

    Attributes:
        groups: How many groups.
        duplicates: How many duplicates.
        by_method: These, by the method that found them.
        largest_group: The size of the largest group.
        more: What else tells it from another table.
    """

    groups: int
    duplicates: int
    by_method: Mapping[str, int]
    largest_group: int
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class DuplicateRule:
    """What was taken for a duplicate, and what was done with it.

    Attributes:
        methods: Ways to find duplicates.
        eps: Of `semantic`.
        n_clusters: Likewise.
        border: Likewise.
        max_distance: Of `perceptual`.
        mirrored: Likewise.
        keep_by: Which one of a group stays.
        candidates: Among which rows they were looked for.
        against: Folder of another dataset that samples were compared with.
        against_run: That dataset.
        action: What was done with samples that are there too.
        found: The counts of the finished duplicates table that was applied; None: they were looked for by this run.
        more: What decides of other methods.
    """

    methods: Sequence[str] = ()
    eps: int | float | None = None
    n_clusters: int | None = None
    border: int | float | None = None
    max_distance: int | float | None = None
    mirrored: bool = False
    keep_by: str | None = None
    candidates: str | None = None
    against: str | None = None
    against_run: "Source | None" = None
    action: str | None = None
    between_datasets: bool = False
    found: DuplicateCounts | None = None
    more: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of_table(cls, said: Mapping[str, object]) -> "DuplicateRule":
        """The rule that applies a finished duplicates table: what was found decides, not where it lies."""
        return of_json(cls, rule_of_table(said))


@dataclass(frozen=True)
class Files:
    """How the kept samples were written.

    Attributes:
        samples_per_file: N.
        shuffle_seed: Of their order; None: as in the source.
        format: What describes a format that prepares samples; None: their members were copied.
        extension: Of the files.
        beside: The ends of the names of further files for each.
        indexed: Whether wids reads the files.
        lists: The names of other lists of all files, for other readers.
    """

    samples_per_file: int | None = None
    shuffle_seed: int | float | None = None
    format: Mapping[str, object] | None = None
    extension: str = "tar"
    beside: Sequence[str] = ()
    indexed: bool = True
    lists: Sequence[str] = ()

    @classmethod
    def of(cls, division: Division, **more: Any) -> "Files":
        """Those of a division, described as above."""
        return cls(division.samples_per_shard, division.seed, **more)

    @property
    def ends(self) -> Sequence[str]:
        """The ends of the names of all files of a number."""
        return (f".{self.extension}", ".parquet", "_stats.json", *self.beside)


@dataclass(frozen=True)
class Configuration:
    """What decides the result of a run.

    Attributes:
        step: What the run did: SCORE, SELECT, DEDUPLICATE, EXPORT or PACK.
        model: Of the embeddings, where the run made them.
        second_models: By name, of second embeddings.
        scoring: How, where the run scored.
        scores: Which.
        rules: All rules on rows and on the whole table.
        duplicates: The rule about duplicates; None: there was none.
        files: Of the kept samples.
        source: The run that this one started from.
        more: What a pipeline of the user's own adds.
    """

    step: str = SCORE
    model: Model | None = None
    second_models: Mapping[str, Model] = field(default_factory=dict)
    scoring: Scoring | None = None
    scores: Scores = Scores()
    rules: Rules = Rules()
    duplicates: DuplicateRule | None = None
    files: Files = Files()
    source: "Source | None" = None
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def scored(self) -> "Configuration":
        """That of the run which scored: a table may have been selected from more than once since."""
        return self if self.source is None else self.source.configuration.scored

    @property
    def max_pixels(self) -> int | float | None:
        """Images of more pixels failed; None where this run did not score."""
        return self.scoring.max_pixels if self.scoring else None

    @property
    def clip_model(self) -> str:
        """The name of the model; empty where it is not noted."""
        return (self.scoring and self.scoring.clip_model) or (self.model and self.model.clip_model) or ""

    def flat(self) -> dict[str, object]:
        """All leaves by dotted name, as JSON holds them: what `resume` compares."""
        return dict(_leaves("", to_json(self)))


@dataclass(frozen=True)
class Source:
    """What tells the content of a run that another one starts from: the same run gives the same, at any time and place.

    Attributes:
        configuration: What decided it.
        funnel: Its counts.
        content: A digest of its table, see `Run.source`; None where only the rules and counts were noted.
    """

    configuration: Configuration = Configuration()
    funnel: Funnel | None = None
    content: str | None = None


def read_configuration(value: Mapping[str, object]) -> Configuration:
    """The configuration in a JSON object of its shape, of this version or an older one."""
    return of_json(Configuration, grouped(value))


def _leaves(prefix: str, value: Any) -> Sequence[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else key, inner)]
