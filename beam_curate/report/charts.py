"""The drawings of a report, in numbers: a template makes SVG of them that stretches with the page, and labels in HTML."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from beam_curate.report.html import count, share
from beam_curate.report.plan import AT_LEAST
from beam_curate.report.spread import Distribution, round_up

HEIGHT: Final = 100.0
_LEAST: Final = 1.2  # a bar of a single sample is this high, so that it is seen


class Bar(NamedTuple):
    """A rectangle of a status, with words for who points at it."""

    status: str
    words: str
    x: float
    y: float
    width: float
    height: float


class Label(NamedTuple):
    """A text at a place, in percent from the left; `side` says how it is set there."""

    text: str
    percent: float
    side: str


@dataclass(frozen=True)
class Chart:
    """A histogram: `bins` wide and HEIGHT high.

    Attributes:
        bins: Their number.
        words: What it shows.
        shades: The sides that thresholds reject, as left end and width.
        bars: Kept samples below rejected ones.
        lines: Where the thresholds are.
        flags: Their names.
        ticks: Round values.
    """

    bins: int
    words: str
    shades: Sequence[tuple[float, float]]
    bars: Sequence[Bar]
    lines: Sequence[float]
    flags: Sequence[Label]
    ticks: Sequence[Label]


def funnel_bar(parts: Sequence[tuple[str, int]]) -> list[Bar]:
    """A bar divided into named parts, 100 wide and 10 high."""
    total = sum(number for _, number in parts) or 1
    bars, left = [], 0.0
    for name, number in parts:
        width = 100 * number / total
        if number:
            bars.append(Bar(name, f"{name}: {count(number)} ({share(number, total)})", left, 0, width, 10))
        left += width
    return bars


def histogram(distribution: Distribution, names: tuple[str, str] = ("kept", "rejected")) -> Chart:
    """Kept samples stacked below rejected ones, with the thresholds as lines and the sides that they reject shaded.

    Args:
        distribution: The counts.
        names: What the two kinds of samples are called.
    """
    bins = len(distribution.kept)
    highest = int((distribution.kept + distribution.rejected).max())
    at = [(f"{name} {value:g}", name, _position(distribution, value)) for name, value in distribution.bounds]
    words = ", ".join(flag for flag, *_ in at)
    label = f"Histogram of {distribution.column}: {count(distribution.count)} samples"
    return Chart(
        bins,
        label + (f", threshold {words}" if words else ", no threshold"),
        [(0.0, place) if name.endswith(AT_LEAST) else (place, max(0.0, bins - place)) for _, name, place in at],
        [bar for place in range(bins) for bar in _bars(distribution, place, highest, names)],
        [place for *_, place in at],
        [_label(place, bins, flag) for flag, _, place in at],
        [_label(_position(distribution, value), bins, f"{value:g}") for value in _ticks(distribution)],
    )


def _position(distribution: Distribution, value: float) -> float:
    """Where a value lies, in bins from the left."""
    edges = distribution.edges
    return float((value - edges[0]) / (edges[-1] - edges[0]) * (len(edges) - 1))


def _bars(distribution: Distribution, place: int, highest: int, names: tuple[str, str]) -> list[Bar]:
    kept, rejected = int(distribution.kept[place]), int(distribution.rejected[place])
    total = kept + rejected
    if not total:
        return []
    low, high = distribution.edge(place), distribution.edge(place + 1)
    words = f"{low} to {high}: {count(kept)} {names[0]}, {count(rejected)} {names[1]}"
    height = max(_LEAST, HEIGHT * total / highest)
    bars, bottom = [], HEIGHT
    for name, number in (("kept", kept), ("rejected", rejected)):
        if number:
            part = height * number / total
            bottom -= part
            bars.append(Bar(name, words, place + 0.06, bottom, 0.88, part))
    return bars


def _label(position: float, bins: int, text: str) -> Label:
    percent = 100 * position / bins
    return Label(text, percent, "at-left" if percent < 8 else "at-right" if percent > 80 else "at-middle")


def _ticks(distribution: Distribution) -> list[float]:
    """Four to eight round values within the range."""
    low, high = float(distribution.edges[0]), float(distribution.edges[-1])
    step = round_up((high - low) / 7)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
