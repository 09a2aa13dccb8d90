"""How the values of a column are spread: exact counts in bins whose width is found while reading, so that one pass is enough.

The bins of a few rows are as narrow as their range asks for: a power of ten. Those of more rows are as wide or wider, ten narrow
ones in each wide one, all from the same origin: so what was counted of parts adds up to what would be counted of them together,
in whatever order they come.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from beam_curate.records import FAILED, KEPT, REJECTED
from beam_curate.report.table import Floats, Group

BINS: Final = 40
"""The most bins of a histogram, or two more; at least 16, since their width is a round number."""

_DIGITS: Final = 15  # of a bin's number, which float64 holds exactly
_NEAR_0: Final = 1e-6  # of a bin's width: a threshold may be a float32, which has seven digits

Counts = npt.NDArray[np.int64]


@dataclass
class Distribution:
    """Exact counts of a column's values over the samples that did not fail.

    Attributes:
        edges: (B + 1,) ascending; a bin is [edge, next edge). The first threshold is an edge.
        kept: (B,) kept samples by bin, and
        rejected: (B,) rejected ones.
        bounds: The thresholds on this column, each as what passes (`aesthetic ≥` or `nsfw <`) and its value, and
        below: how many samples are below each.
        mean: Of the samples with a value; 0 if there are none.
        missing: Samples without a finite value.
    """

    column: str
    edges: Floats
    kept: Counts
    rejected: Counts
    bounds: Sequence[tuple[str, float]]
    below: list[int]
    lowest: float
    highest: float
    mean: float
    missing: int

    @property
    def count(self) -> int:
        """Samples with a value."""
        return int(self.kept.sum() + self.rejected.sum())

    def edge(self, at: int) -> str:
        """An edge in words. Bins are counted from a threshold: where only its last digits keep an edge from 0, it is 0."""
        value, width = float(self.edges[at]), float(self.edges[1] - self.edges[0])
        is_bound = any(value == bound for _, bound in self.bounds)
        return f"{value if is_bound or abs(value) > _NEAR_0 * width else 0.0:.6g}"


@dataclass(frozen=True)
class Spread:
    """What is known of a column in some rows that did not fail; spreads add up.

    Attributes:
        column: Its name.
        bounds: The thresholds on it, see Distribution.
        below: (T,) values below each.
        missing: Rows without a finite value.
        lowest: The lowest value; infinite if there is none.
        highest: The highest.
        total: The exact sum: that of floating-point numbers depends on their order.
        level: A bin is 10 ** level wide.
        first: The number of the first bin, counted from the origin.
        counts: (2, B) kept and rejected rows in each bin.
    """

    column: str
    bounds: tuple[tuple[str, float], ...]
    below: Counts
    missing: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    total: Fraction = Fraction(0)
    level: int = 0
    first: int = 0
    counts: Counts = field(default_factory=lambda: np.zeros((2, 0), np.int64))

    @classmethod
    def none(cls, column: str, bounds: tuple[tuple[str, float], ...]) -> "Spread":
        """That of no rows."""
        return cls(column, bounds, np.zeros(len(bounds), np.int64))

    @classmethod
    def of(cls, column: str, bounds: tuple[tuple[str, float], ...], group: Group) -> "Spread":
        """The spread of a group's rows."""
        values = group.values[column]
        finite = np.isfinite(values)
        judged = ~group.statuses[FAILED]
        flags = [finite & group.statuses[name] for name in (KEPT, REJECTED)]
        some = values[finite & judged]
        below = np.array([np.count_nonzero(some < bound) for _, bound in bounds], np.int64)
        found = cls(column, bounds, below, int(np.count_nonzero(judged & ~finite)))
        if not len(some):
            return found
        low, high = float(some.min()), float(some.max())
        level = found._level(low, high)
        numbers = [_bins(values[flag], found._origin, level) for flag in flags]
        first = int(_bins(np.array([low]), found._origin, level)[0])
        size = int(_bins(np.array([high]), found._origin, level)[0]) - first + 1
        counts = np.stack([np.bincount(each - first, minlength=size) for each in numbers]).astype(np.int64)
        total = Fraction(math.fsum(some.tolist()))
        return replace(found, lowest=low, highest=high, total=total, level=level, first=first, counts=counts)

    def __add__(self, other: "Spread") -> "Spread":
        """The spread of the rows of both."""
        below, missing = self.below + other.below, self.missing + other.missing
        if self.lowest > self.highest or other.lowest > other.highest:
            return replace(other if self.lowest > self.highest else self, below=below, missing=missing)
        low, high = min(self.lowest, other.lowest), max(self.highest, other.highest)
        level = self._level(low, high)
        ones = [one._widened(level) for one in (self, other)]
        first = min(start for start, _ in ones)
        counts = np.zeros((2, max(start + each.shape[1] for start, each in ones) - first), np.int64)
        for start, each in ones:
            counts[:, start - first : start - first + each.shape[1]] += each
        return Spread(
            self.column, self.bounds, below, missing, low, high, self.total + other.total, level, first, counts
        )

    def distribution(self) -> Distribution:
        """The histogram: bins of a round width that hold all values and all bounds; the first bound is an edge."""
        values = [value for _, value in self.bounds]
        low, high = min([self.lowest, *values]), max([self.highest, *values])
        if low > high:
            edges, counts, mean = np.array([0.0, 1.0]), np.zeros((2, 1), np.int64), 0.0
        else:
            level = max(self._level(low, high), math.floor(math.log10(_width(low, high))))
            step = round(max(1.0, round_up(_width(low, high)) / 10.0**level))
            ends = _bins(np.array([low, high]), self._origin, level) // step
            edges = _edges(np.arange(ends[0], ends[1] + 2) * step, self._origin, level)
            counts = np.zeros((2, int(ends[1] - ends[0]) + 1), np.int64)
            first, fine = self._widened(level)
            np.add.at(counts.T, (first + np.arange(fine.shape[1])) // step - ends[0], fine.T)
            mean = float(self.total / int(counts.sum())) if counts.any() else 0.0
        kept, rejected = counts
        below = self.below.tolist()
        return Distribution(
            self.column, edges, kept, rejected, self.bounds, below, self.lowest, self.highest, mean, self.missing
        )

    @property
    def _origin(self) -> float:
        return self.bounds[0][1] if self.bounds else 0.0

    def _level(self, low: float, high: float) -> int:
        """The width of bins, as a power of ten, for values from low to high: it does not fall when their range grows."""
        largest = max(abs(low - self._origin), abs(high - self._origin))
        digits = math.ceil(math.log10(largest)) - _DIGITS if largest else -300
        width = _share(low, high)
        if not width:
            return max(-300, digits)  # narrow enough for whatever comes
        return max(-300, digits, math.floor(math.log10(width)))

    def _widened(self, level: int) -> tuple[int, Counts]:
        """The first bin and the counts in bins of a level that is not lower."""
        if self.lowest > self.highest:
            return 0, np.zeros((2, 0), np.int64)
        if self.lowest == self.highest:
            return int(_bins(np.array([self.lowest]), self._origin, level)[0]), self.counts
        # The numbers have fewer digits than the largest factor that int64 holds: by that one all of them come to 0 or -1 too.
        factor = 10 ** min(level - self.level, 18)
        numbers = (self.first + np.arange(self.counts.shape[1])) // factor
        counts = np.zeros((2, int(numbers[-1] - numbers[0]) + 1), np.int64)
        np.add.at(counts.T, numbers - numbers[0], self.counts.T)
        return int(numbers[0]), counts


def _width(low: float, high: float) -> float:
    """The least width of BINS bins from low to high."""
    return _share(low, high) or max(abs(low), 1.0) / BINS


def _share(low: float, high: float) -> float:
    """The BINS-th part of a range, which does not fall when the range grows; 0 of a single value."""
    # So neither the largest range overflows, nor the smallest is lost.
    return high / BINS - low / BINS or (high - low) / BINS


def _bins(values: Floats, origin: float, level: int) -> Counts:
    """The numbers of the bins that hold some values: exact, whatever the division rounds to."""
    away = values - origin
    numbers = np.floor(away * 10.0**-level if level < 0 else away / 10.0**level).astype(np.int64)
    numbers -= values < _edges(numbers, origin, level)
    numbers += values >= _edges(numbers + 1, origin, level)
    return numbers


def _edges(numbers: Counts, origin: float, level: int) -> Floats:
    """Where bins begin. The division rounds once, so that an edge of a wide bin is one of a narrow bin too."""
    edges: Floats = origin + (numbers / np.float64(10.0**-level) if level < 0 else numbers * np.float64(10.0**level))
    return edges


def round_up(width: float) -> float:
    """The next larger 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(width))
    return next((step * power for step in (1, 2, 5) if step * power >= width), 10 * power)
