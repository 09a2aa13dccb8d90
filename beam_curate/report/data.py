"""What a report tells of a score table: exact histograms and a few samples, in bounded memory whatever its size.

The table is read twice, a few parts at a time: for the range of each column, then for everything else. The longer columns are
read of those only in which a row was found that is shown.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_curate import reasons
from beam_curate.records import FAILED, KEPT, REJECTED, STATUSES
from beam_curate.report.samples import Failures, Gallery, choose, make_galleries
from beam_curate.report.table import Floats, Rows
from beam_curate.scores.rules import Rule

BINS: Final = 40
"""The most bins of a histogram, or two more; at least 16, since their width is a round number."""

AT_LEAST: Final = "≥"
BELOW: Final = "<"


@dataclass
class Distribution:
    """Exact counts of a column's values over the samples that did not fail.

    Attributes:
        edges: (B + 1,) ascending; a bin is [edge, next edge). The first threshold is an edge.
        kept: (B,) kept samples by bin, and
        rejected: (B,) rejected ones.
        bounds: The thresholds on this column, each as what passes (`aesthetic ≥` or `nsfw <`) and its value, and
        below: how many samples are below each.
        missing: Samples without a finite value.
    """

    column: str
    edges: Floats
    kept: npt.NDArray[np.int64]
    rejected: npt.NDArray[np.int64]
    bounds: list[tuple[str, float]]
    below: list[int]
    lowest: float = math.inf
    highest: float = -math.inf
    total: float = 0.0
    missing: int = 0

    @property
    def count(self) -> int:
        """Samples with a value."""
        return int(self.kept.sum() + self.rejected.sum())

    def add(self, values: Floats, status: npt.NDArray[np.object_]) -> None:
        """Counts the values of rows with these statuses."""
        finite = np.isfinite(values)
        for counts, name in ((self.kept, KEPT), (self.rejected, REJECTED)):
            some = values[finite & (status == name)]
            place = np.clip(np.searchsorted(self.edges, some, side="right") - 1, 0, len(counts) - 1)
            np.add.at(counts, place, 1)
        self.missing += int(np.count_nonzero(~finite & (status != FAILED)))
        values = values[finite & (status != FAILED)]
        if len(values):
            self.lowest, self.highest = min(self.lowest, float(values.min())), max(self.highest, float(values.max()))
            self.total += float(values.sum())
        for place, (_, bound) in enumerate(self.bounds):
            self.below[place] += int(np.count_nonzero(values < bound))


@dataclass
class ReportData:
    """What was found in a score table.

    Attributes:
        parts: Number of its parts.
        statuses: Number of rows by status, and
        reasons: by reason, of those that are not kept.
    """

    parts: int
    distributions: list[Distribution]
    galleries: list[Gallery]
    failures: Failures = field(default_factory=Failures)
    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    reasons: Counter[str] = field(default_factory=Counter)


def collect(table: Rows, thresholds: Sequence[Rule], top: str = "") -> ReportData:
    """Reads a score table.

    Args:
        table: The table.
        thresholds: The thresholds to draw and to look around.
        top: The column by which the best were taken, if they were: its lowest kept value is a threshold too.
    """
    known = (*table.scores, "side", "width", "height")
    thresholds = [rule for rule in thresholds if rule.column in known]
    tops = [top] if top in known else []
    columns = list(dict.fromkeys([*table.scores, *(rule.column for rule in thresholds), *tops]))
    ranges = _ranges(table, columns)
    cuts = [(column, ranges[column].lowest_kept) for column in tops]
    thresholds += [Rule(reasons.BELOW_TOP, column, minimum=cut) for column, cut in cuts if math.isfinite(cut)]
    galleries = make_galleries(table.scores, thresholds)
    data = ReportData(table.parts, _distributions(ranges, thresholds), galleries)
    for group in table.groups(columns):
        for distribution in data.distributions:
            distribution.add(group.values[distribution.column], group.status)
        for status in STATUSES:
            data.statuses[status] += int(np.count_nonzero(group.status == status))
        data.reasons.update(reason for reason in group.reason if reason)
        choose(galleries, data.failures, group)
    return data


class _Range(NamedTuple):
    lowest: float = math.inf
    highest: float = -math.inf
    lowest_kept: float = math.inf


def _ranges(table: Rows, columns: Sequence[str]) -> dict[str, _Range]:
    """Of each column, over the samples that did not fail."""
    ranges = dict.fromkeys(columns, _Range())
    for group in table.groups(columns) if columns else ():
        for name in columns:
            finite = np.isfinite(group.values[name]) & (group.status != FAILED)
            values, kept = group.values[name][finite], group.values[name][finite & (group.status == KEPT)]
            low, high, lowest_kept = ranges[name]
            ranges[name] = _Range(
                values.min(initial=low), values.max(initial=high), float(kept.min(initial=lowest_kept))
            )
    return ranges


def _distributions(ranges: Mapping[str, _Range], thresholds: Sequence[Rule]) -> list[Distribution]:
    found = []
    for name, (low, high, _) in ranges.items():
        bounds = [
            (f"{name} {sign}", float(value))
            for rule in thresholds
            for sign, value in ((AT_LEAST, rule.minimum), (BELOW, rule.maximum))
            if rule.column == name and value is not None
        ]
        edges = _edges(low, high, [value for _, value in bounds])
        kept, rejected = np.zeros((2, len(edges) - 1), np.int64)
        found.append(Distribution(name, edges, kept, rejected, bounds, [0] * len(bounds)))
    return found


def _edges(low: float, high: float, bounds: Sequence[float]) -> Floats:
    """Edges of bins of a round width that hold low to high and all bounds; the first bound is one of them."""
    low, high = min([low, *bounds]), max([high, *bounds])
    if low > high:
        return np.array([0.0, 1.0])
    origin = bounds[0] if bounds else 0.0
    width = round_up((high - low) / BINS) if high > low else round_up(max(abs(low), 1.0) / BINS)
    first, last = math.floor((low - origin) / width), math.floor((high - origin) / width) + 1
    edges: Floats = origin + width * np.arange(first, last + 1, dtype=np.float64)
    return edges


def round_up(width: float) -> float:
    """The next larger 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(width))
    return next((step * power for step in (1, 2, 5) if step * power >= width), 10 * power)
