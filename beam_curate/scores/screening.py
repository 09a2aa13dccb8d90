"""What an image tells without the model: its quality scores, and whether the model needs to see it at all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_curate import reasons
from beam_curate.records import Failure, ImageFacts, SampleRef
from beam_curate.scores.expressions import TEXT
from beam_curate.scores.judging import judge
from beam_curate.scores.quality import check_quality, quality_scores
from beam_curate.scores.rules import FACT_KINDS, Condition, keep_rule


@dataclass(frozen=True)
class Screening:
    """What to compute of a decoded image, and the rules that spare the model a sample.

    Attributes:
        quality: Names of quality scores, see `quality.QUALITY`.
        rules: Rules on these and on the facts of the image.
    """

    quality: Sequence[str] = ()
    rules: Sequence[Condition] = ()

    def __post_init__(self) -> None:
        check_quality(self.quality)

    def look(
        self, ref: SampleRef, facts: ImageFacts, pixels: npt.NDArray[np.uint8]
    ) -> tuple[dict[str, float], Failure | None]:
        """Gives the scores of an image, and why it is rejected, if it is.

        Args:
            ref: Who the sample is.
            facts: What is known of the image.
            pixels: (S, S, 3) uint8.
        """
        scores = quality_scores(self.quality, pixels, facts) if self.quality else {}
        if not self.rules:
            return scores, None
        names = [name for rule in self.rules for name in rule.columns]
        columns = {
            name: pa.array([scores[name]], pa.float32()) if name in scores else fact_column(name, [(ref, facts)])
            for name in names
        }
        for _, reason, places, messages in judge(self.rules, columns, np.ones(1, np.bool_)).rejections:
            if len(places):
                return scores, Failure(reasons.SCREEN, reason, messages[0])
        return scores, None


def fact_column(name: str, samples: Sequence[tuple[SampleRef, ImageFacts]]) -> pa.Array:
    """A column of FACT_KINDS for the rules: the values that it will have in the score table."""
    if FACT_KINDS[name] == TEXT:
        values = [getattr(facts if name == "format" else ref, name) for ref, facts in samples]
        return pa.array(values, pa.string())
    if name == "side":
        return pa.array([min(facts.width, facts.height) for _, facts in samples], pa.int64())
    return pa.array([getattr(facts, name) for _, facts in samples], pa.int64())


def parse_screening(quality: str, screen: str) -> Screening:
    """Reads `quality`, a comma list, and `screen`, an expression.

    Args:
        quality: The one.
        screen: The other.

    Raises:
        ValueError: It names the argument, what is wrong, and the remedy.
    """
    names = tuple(name.strip() for name in quality.split(",") if name.strip())
    try:
        check_quality(names)
    except ValueError as error:
        raise ValueError(f"`quality`: {error}") from error
    if not screen.strip():
        return Screening(names)
    try:
        rules = keep_rule(screen, names, reasons.NOT_KEPT_BY_SCREEN)
    except ValueError as error:
        raise ValueError(f"`screen`: {error}. Ask for quality scores with `quality`") from error
    return Screening(names, rules)
