"""The scores of the user's own, from the options --head, --scorer and --prompt: loaded and checked before any work."""

from collections.abc import Sequence
from dataclasses import dataclass

from beam_curate.clip.prompts import PromptSpec, parse_prompts
from beam_curate.commands.options import OptionError
from beam_curate.heads.head import EmbeddingScore
from beam_curate.heads.own import OwnHead, load_own_head
from beam_curate.runs.layouts import all_layouts
from beam_curate.scores.scorers import (
    EmbeddingsScorer,
    ImagesScorer,
    Scorer,
    column_problem,
    describe_scorer,
    load_scorer,
)


@dataclass(frozen=True)
class OwnScores:
    """What the user adds.

    Attributes:
        heads: Of --head.
        scorers: Of --scorer, in their order.
    """

    heads: tuple[EmbeddingScore, ...] = ()
    scorers: tuple[Scorer, ...] = ()

    @property
    def of_images(self) -> tuple[ImagesScorer, ...]:
        """The scorers that take pixels."""
        return tuple(scorer for scorer in self.scorers if isinstance(scorer, ImagesScorer))

    @property
    def of_embeddings(self) -> tuple[EmbeddingsScorer, ...]:
        """The scorers that take embeddings."""
        return tuple(scorer for scorer in self.scorers if isinstance(scorer, EmbeddingsScorer))

    @property
    def files(self) -> list[str]:
        """The files of --head."""
        heads = [head for head in self.heads if isinstance(head, OwnHead)]
        return [path for head in heads for path in (head.file, head.weights_file)]

    @property
    def descriptions(self) -> list[dict[str, object]]:
        """What decides the scorers' values."""
        return [describe_scorer(scorer) for scorer in self.scorers]


def load_own_scores(heads: Sequence[str], scorers: Sequence[str], clip_model: str, width: int) -> OwnScores:
    """Loads what the options name.

    Raises:
        ValueError: It names the option, what is wrong, and the remedy.
    """
    loaded = sorted((load_own_head(path) for path in heads), key=lambda head: head.name)  # the order of columns
    for head in loaded:
        head.check_model(clip_model, width)
    return OwnScores(tuple(loaded), tuple(load_scorer(text) for text in scorers))


def read_prompts(prompt: str) -> tuple[PromptSpec, ...]:
    """Reads --prompt, and refuses names that no score can have, since the table or the rules use them.

    Raises:
        OptionError: It says what is wrong.
    """
    if not prompt.strip():
        return ()
    try:
        specs = parse_prompts(prompt)
    except ValueError as error:
        raise OptionError(f"--prompt: {error}") from error
    for spec in specs:
        problem = column_problem(spec.name)
        if problem:
            raise OptionError(f"--prompt: {problem}")
    return specs


def check_layouts(layouts: Sequence[str], scores: Sequence[str]) -> None:
    """Refuses scores that would clash with the columns of a layout.

    Raises:
        ScoreTableError: It names the score.
    """
    for name in layouts:
        all_layouts()[name].columns(scores, "")


def refuse_shared_names(names: Sequence[str]) -> None:
    """Refuses two scores of one name.

    Raises:
        OptionError: It names the score.
    """
    shared = sorted({name for name in names if list(names).count(name) > 1})
    if shared:
        raise OptionError(
            f"two scores are named {shared[0]}: give each of --head, --scorer, --prompt and --quality a name of its own, other "
            "than aesthetic and nsfw"
        )
