"""The drawings of a report: inline SVG that stretches with the page, with its labels in HTML so that they stay readable."""

import math
from collections.abc import Sequence

from beam_curate.report.data import AT_LEAST
from beam_curate.report.html import Element, count, share, tag
from beam_curate.report.spread import Distribution, round_up

_HEIGHT = 100.0
_LEAST = 1.2  # a bar of a single sample is this high, so that it is seen


def funnel_bar(parts: Sequence[tuple[str, int]]) -> Element:
    """A bar divided into named parts."""
    total = sum(number for _, number in parts) or 1
    label = ", ".join(f"{name} {share(number, total)}" for name, number in parts)
    pieces, left = [], 0.0
    for name, number in parts:
        width = 100 * number / total
        title = tag("title", f"{name}: {count(number)} ({share(number, total)})")
        if number:
            pieces.append(
                tag("rect", title, x=f"{left:.3f}", y="0", width=f"{width:.3f}", height="10", class_=f"fill-{name}")
            )
        left += width
    return tag(
        "svg",
        *pieces,
        class_="funnel-bar",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def histogram(distribution: Distribution) -> Element:
    """Kept samples stacked below rejected ones, with the thresholds as lines and the sides that they reject shaded."""
    bins = len(distribution.kept)
    totals = distribution.kept + distribution.rejected
    highest = int(totals.max())
    drawing = [_shade(distribution, name, value) for name, value in distribution.bounds]
    for place in range(bins):
        drawing += _bars(distribution, place, highest)
    drawing += [_line(_position(distribution, value)) for _, value in distribution.bounds]
    words = [f"{name} {value:g}" for name, value in distribution.bounds]
    label = f"Histogram of {distribution.column}: {count(distribution.count)} samples"
    label += f", threshold {', '.join(words)}" if words else ", no threshold"
    svg = tag(
        "svg", *drawing, viewBox=f"0 0 {bins} {_HEIGHT:g}", preserveAspectRatio="none", role="img", aria_label=label
    )
    flags = [
        _label("flag", _position(distribution, value), bins, f"{name} {value:g}") for name, value in distribution.bounds
    ]
    ticks = [_label("tick", _position(distribution, value), bins, f"{value:g}") for value in _ticks(distribution)]
    return tag(
        "div",
        tag("div", *flags, class_="flags", aria_hidden="true"),
        tag("div", svg, class_="plot"),
        tag("div", *ticks, class_="axis", aria_hidden="true"),
        class_="chart",
    )


def _position(distribution: Distribution, value: float) -> float:
    """Where a value lies, in bins from the left."""
    edges = distribution.edges
    return float((value - edges[0]) / (edges[-1] - edges[0]) * (len(edges) - 1))


def _bars(distribution: Distribution, place: int, highest: int) -> list[Element]:
    kept, rejected = int(distribution.kept[place]), int(distribution.rejected[place])
    total = kept + rejected
    if not total:
        return []
    low, high = distribution.edges[place], distribution.edges[place + 1]
    words = f"{low:.6g} to {high:.6g}: {count(kept)} kept, {count(rejected)} rejected"
    height = max(_LEAST, _HEIGHT * total / highest)
    bars, bottom = [], _HEIGHT
    for name, number in (("kept", kept), ("rejected", rejected)):
        if number:
            part = height * number / total
            bottom -= part
            place_and_size = {
                "x": f"{place + 0.06:.2f}",
                "y": f"{bottom:.3f}",
                "width": "0.88",
                "height": f"{part:.3f}",
            }
            bars.append(tag("rect", tag("title", words), class_=f"fill-{name}", **place_and_size))
    return bars


def _shade(distribution: Distribution, name: str, value: float) -> Element:
    position, bins = _position(distribution, value), len(distribution.kept)
    left, right = (0.0, position) if name.endswith(AT_LEAST) else (position, float(bins))
    size = {"x": f"{left:.3f}", "width": f"{max(0.0, right - left):.3f}", "y": "0", "height": f"{_HEIGHT:g}"}
    return tag("rect", class_="shade", **size)


def _line(position: float) -> Element:
    ends = {"x1": f"{position:.3f}", "x2": f"{position:.3f}", "y1": "0", "y2": f"{_HEIGHT:g}"}
    return tag("line", class_="threshold", vector_effect="non-scaling-stroke", **ends)


def _label(kind: str, position: float, bins: int, text: str) -> Element:
    percent = 100 * position / bins
    side = "at-left" if percent < 8 else "at-right" if percent > 80 else "at-middle"
    return tag("span", text, class_=f"{kind} {side}", style=f"left:{percent:.2f}%")


def _ticks(distribution: Distribution) -> list[float]:
    """Four to eight round values within the range."""
    low, high = float(distribution.edges[0]), float(distribution.edges[-1])
    step = round_up((high - low) / 7)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
