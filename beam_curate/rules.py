"""Keep or reject: thresholds on the columns of a scored sample."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from beam_curate import reasons
from beam_curate.records import ImageFacts

# Columns of the image itself that rules can use beside the scores.
FACT_COLUMNS = ("width", "height", "side")


@dataclass(frozen=True)
class Rule:
    """Keeps a sample whose `column` is at least `minimum` and below `maximum` (None: that end is open).

    Attributes:
        reason: The stable name that a rejected row carries.
        column: A score's name, or `width`, `height`, `side` (the shorter of the two), in pixels.
        minimum: Keep if value >= minimum.
        maximum: Keep if value < maximum: the upper bound is rejected, as NeMo Curator's NSFW filter does.
    """

    reason: str
    column: str
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        for bound in (self.minimum, self.maximum):
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"rule {self.reason}: the threshold is {bound}; give a finite number")

    def keeps(self, value: float) -> bool:
        """Whether a value passes; NaN, a score that could not be computed, does not."""
        above = self.minimum is None or value >= self.minimum
        below = self.maximum is None or value < self.maximum
        return above and below and not math.isnan(value)


def standard_rules(
    min_aesthetic: float | None = None, max_nsfw: float | None = None, min_side: int | None = None
) -> tuple[Rule, ...]:
    """The rules of the named options, in the order in which they are tried; None turns one off, 0 is a threshold."""
    rules = (
        Rule(reasons.SIDE_BELOW_MIN, "side", minimum=min_side),
        Rule(reasons.AESTHETIC_BELOW_MIN, "aesthetic", minimum=min_aesthetic),
        Rule(reasons.NSFW_ABOVE_MAX, "nsfw", maximum=max_nsfw),
    )
    return tuple(rule for rule in rules if rule.minimum is not None or rule.maximum is not None)


def check_columns(rules: Iterable[Rule], scores: Sequence[str]) -> None:
    """Refuses a rule on a column that no score gives.

    Raises:
        ValueError: It names the rule, the column and the columns there are.
    """
    known = (*scores, *FACT_COLUMNS)
    for rule in rules:
        if rule.column not in known:
            raise ValueError(
                f"rule {rule.reason} needs the score {rule.column!r}, which is turned off; there are: "
                f"{', '.join(known)}. Turn the rule off too, or the score on"
            )


def first_failure(rules: Iterable[Rule], scores: Mapping[str, float], facts: ImageFacts) -> tuple[str, str]:
    """The reason and a message of the first rule that rejects; empty strings if all keep."""
    values = {**scores, "width": facts.width, "height": facts.height, "side": min(facts.width, facts.height)}
    for rule in rules:
        value = values[rule.column]
        if not rule.keeps(value):
            low = "" if rule.minimum is None else f" >= {rule.minimum:g}"
            high = "" if rule.maximum is None else f" < {rule.maximum:g}"
            return rule.reason, f"{rule.column} is {value:g}; kept if{low}{high}"
    return "", ""
