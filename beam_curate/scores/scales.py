"""The scales of scores and facts: a threshold outside can only be a mistake, such as percent for a probability.

A threshold at an end of a scale is allowed, though it may keep all rows or none: it is a usual way to say so.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from beam_curate.scores.quality import QUALITY

MOST_AESTHETIC: Final = 20.0
"""Ten above the end of the nominal scale; half of it below zero is the other end. A raw output may be there, a percentage is not.

The scale is open: LAION's heads are trained on ratings of 1 to 10 and end in a linear layer without an activation (Source:
christophschuhmann/improved-aesthetic-predictor, the class MLP in simple_inference.py), so a value may lie outside. The distance
of ten is this project's choice: published cuts of datasets are 4.5 to 6.5.
"""

PIXELS: Final = 2**31 - 1
"""Of a side: no format that is read can say more (PNG has the largest: 31 bits, PNG specification, section 11.2.2)."""


@dataclass(frozen=True)
class Scale:
    """Which values there are.

    Attributes:
        low: The lowest.
        high: The highest; infinity if there is no end.
        words: What the scale is, to follow a comma.
    """

    low: float
    high: float
    words: str

    def problem(self, threshold: float) -> str:
        """Says that a threshold is outside, and what can be given; empty if it is on the scale."""
        if self.low <= threshold <= self.high:
            return ""
        end = f"{self.low:g} to {self.high:g}" if math.isfinite(self.high) else f"at least {self.low:g}"
        return f"{self.words}; give {end}"


_PROBABILITY: Final = Scale(0.0, 1.0, "it is a probability")
_COSINE: Final = Scale(-1.0, 1.0, "it is a cosine")
_PIXELS: Final = Scale(0.0, PIXELS, "it is a number of pixels")

SCALES: Final[Mapping[str, Scale]] = MappingProxyType({
    "aesthetic": Scale(-MOST_AESTHETIC / 2, MOST_AESTHETIC, "its scale is nominally 1 to 10, useful cuts are 4.5 to 6.5"),
    "nsfw": _PROBABILITY,
    "caption_similarity": _COSINE,
    "width": _PIXELS,
    "height": _PIXELS,
    "side": _PIXELS,
    "size": Scale(0.0, math.inf, "it is a number of bytes"),
    **{name: Scale(each.low, each.high, f"it is {each.description}") for name, each in QUALITY.items()},
})  # fmt: skip
"""By column. A score that is not here, such as one of the user's own, has no scale that is known."""


def prompt_scales(descriptions: Iterable[Mapping[str, object]]) -> dict[str, Scale]:
    """The scales of the scores from words among the descriptions of heads: with one text a cosine, else a probability."""
    found = {}
    for said in descriptions:
        texts = said.get("prompts")
        if isinstance(texts, list | tuple):
            found[str(said["name"])] = _PROBABILITY if len(texts) > 1 else _COSINE
    return found


def scale_problem(column: str, thresholds: Iterable[float | None], scales: Mapping[str, Scale] = SCALES) -> str:
    """Says which threshold is outside the scale of a column, and what can be given; empty if none is.

    Args:
        column: A score or a fact.
        thresholds: Numbers that its values are compared with; None stands for none.
        scales: The scales that are known.
    """
    scale = scales.get(column)
    for threshold in thresholds:
        if scale is not None and threshold is not None and (problem := scale.problem(threshold)):
            return f"{column} is compared with {threshold:g}, but {problem}"
    return ""
