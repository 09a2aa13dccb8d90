"""The rows that the sliders of a report work on: drawn by chance, more of them where a score is rare.

Every row draws a number by its place alone. Those with the lowest numbers are taken: of all rows together, and of each stratum, a
narrow range of one score. What is taken of parts adds up to what would be taken of all of them, in whatever order they come: the
strata of few rows lie within those of more. A row counts for as many rows as its chance says.

Source of the method: Cohen, Multi-Objective Weighted Sampling, HotWeb 2015 (the lowest numbers of several groups at once);
of the chance, the lowest number that was not taken: Cohen and Kaplan, Summarizing data using bottom-k sketches, PODC 2007.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_curate.report.table import RANDOM, Floats, Found, Group
from beam_curate.scores.judging import Flags, Texts

MAX_ROWS: Final = 20_000
MAX_VALUES: Final = 160_000
"""Numbers in all columns of the rows: with more than eight columns fewer rows are drawn."""
STRATA: Final = 40
"""The most ranges of a column; a power of two wide, they are at least half as many, as far as there are values."""

_OF_ALL: Final = 0.6  # of the rows: drawn from all alike, which tells most where a threshold cuts through many
_LAZY: Final = 3  # times MAX_ROWS may be held before some are left out: sorting costs more than holding


class Chances(NamedTuple):
    """Rows with the chance that each had to be drawn: (N,) numbers, all 1 if there are no other rows."""

    rows: "Drawn"
    chances: Floats


@dataclass(frozen=True)
class Drawn:
    """Rows on which rules decide, of N rows at most about three times MAX_ROWS; they add up.

    Attributes:
        columns: Names of C numbers.
        number: (N,) what each row drew, 0 to 1.
        places: (N, 3) the index of its part, its index there, and its place among the rows of the part.
        status: (N,) its verdict, and
        reason: (N,) the reason of that.
        rest: (N,) whether it passes the rules that no slider stands for.
        values: (N, C) NaN for none.
        lows: (C,) the lowest value of all rows, and
        highs: the highest: not only of those that were drawn.
    """

    columns: tuple[str, ...]
    number: Floats
    places: npt.NDArray[np.int64]
    status: Texts
    reason: Texts
    rest: Flags
    values: Floats
    lows: Floats
    highs: Floats

    @classmethod
    def none(cls, columns: Sequence[str]) -> "Drawn":
        """Of no rows."""
        size = len(columns)
        none = np.zeros(0)
        texts = none.astype(object)
        ends = np.full(size, np.inf), np.full(size, -np.inf)
        places = np.zeros((0, 3), np.int64)
        return cls(tuple(columns), none, places, texts, texts, none.astype(bool), np.zeros((0, size)), *ends)

    @classmethod
    def of(cls, columns: Sequence[str], group: Group) -> "Drawn":
        """Of a group's rows those on which rules decide."""
        if not columns:
            return cls.none(columns)
        where = np.flatnonzero(group.judgeable)
        values = np.stack([group.values[name][where] for name in columns], axis=1)
        values[~np.isfinite(values)] = np.nan
        found = cls.none(columns)
        found = replace(
            found,
            number=group.values[RANDOM][where],
            places=np.stack([np.full(len(where), group.shard_index), group.row_index[where], where], axis=1),
            status=group.status[where],
            reason=group.reason[where],
            rest=group.rest[where],
            values=values,
            lows=np.fmin.reduce(values, axis=0, initial=np.inf),
            highs=np.fmax.reduce(values, axis=0, initial=-np.inf),
        )
        return found._thinned()

    def __add__(self, other: "Drawn") -> "Drawn":
        """Of the rows of both."""
        both = Drawn(
            self.columns,
            np.concatenate([self.number, other.number]),
            np.concatenate([self.places, other.places]),
            np.concatenate([self.status, other.status]),
            np.concatenate([self.reason, other.reason]),
            np.concatenate([self.rest, other.rest]),
            np.concatenate([self.values, other.values]),
            np.fmin(self.lows, other.lows),
            np.fmax(self.highs, other.highs),
        )
        return both._thinned() if len(both.number) > _LAZY * MAX_ROWS else both

    def drawn(self) -> Chances:
        """The rows that count, at most MAX_ROWS, in the order of their numbers, and their chances.

        A row of a stratum with more rows than are taken of it has as chance the lowest number there that was not taken; of its
        several strata the best one counts.
        """
        rows = self._take(np.lexsort((self.places[:, 1], self.places[:, 0], self.number)))
        chances = np.zeros(len(rows.number))
        for strata, most in rows._strata():
            rank, order, firsts = _ranks(strata)
            ends = np.append(firsts, len(order))[1:]
            after = np.array(
                [
                    rows.number[order[first + most]] if first + most < end else 1.0
                    for first, end in zip(firsts, ends, strict=True)
                ]
            )
            own = np.empty(len(order))
            own[order] = np.repeat(after, ends - firsts)
            chances = np.maximum(chances, np.where(rank < most, own, 0.0))
        taken = np.flatnonzero(chances > 0)
        return Chances(rows._take(taken), chances[taken])

    def spread(self, size: int) -> list[Found]:
        """So many of the rows at most, in turn from all strata: those of few samples are seen as well as those of many."""
        rows = self._thinned()
        rows = rows._take(np.lexsort((rows.places[:, 1], rows.places[:, 0], rows.number)))
        best = np.full(len(rows.number), len(rows.number))
        for strata, _ in list(rows._strata())[1:]:
            best = np.minimum(best, _ranks(strata)[0])
        return [rows._found(at) for at in np.argsort(best, kind="stable")[:size].tolist()]

    def _found(self, at: int) -> Found:
        shard_index, row_index, place = self.places[at].tolist()
        values = dict(zip(self.columns, self.values[at].tolist(), strict=True))
        reason, rest = self.reason[at] or "", bool(self.rest[at])
        return Found(shard_index, row_index, place, self.status[at], reason, rest, values)

    def _take(self, where: npt.NDArray[np.int64]) -> "Drawn":
        names = ("number", "places", "status", "reason", "rest", "values")
        return replace(self, **{name: getattr(self, name)[where] for name in names})

    def _thinned(self) -> "Drawn":
        """Without the rows that cannot be drawn any more, and with one more of each stratum: its number is a chance."""
        rows = self._take(np.argsort(self.number, kind="stable"))
        keep = np.zeros(len(rows.number), bool)
        for strata, most in rows._strata():
            keep |= _ranks(strata)[0] <= most
        return rows._take(np.flatnonzero(keep))

    def _strata(self) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
        """By what rows are drawn: the number of the stratum of each row, and how many are taken of each stratum."""
        rows = min(MAX_ROWS, MAX_VALUES // max(1, len(self.columns)))
        of_all = round(_OF_ALL * rows) if self.columns else rows
        yield np.zeros(len(self.number), np.uint8), of_all
        for column, low, high in zip(self.values.T, self.lows, self.highs, strict=True):
            yield _strata(column, float(low), float(high)), (rows - of_all) // (len(self.columns) * (STRATA + 1))


def _strata(values: Floats, low: float, high: float) -> npt.NDArray[np.uint8]:
    """The stratum of each value, 0 to STRATA; the last one is that of no value."""
    strata = np.full(len(values), STRATA, np.uint8)
    present = ~np.isnan(values)
    if low < high:
        level = _level(low, high)
        first = math.floor(math.ldexp(low, -level))  # exact: a power of two
        strata[present] = (np.floor(np.ldexp(values[present], -level)) - first).astype(np.uint8)
    else:
        strata[present] = 0
    return strata


def _level(low: float, high: float) -> int:
    """The least power of two of which STRATA ranges hold all values: it does not fall when there are more values."""
    level = math.frexp((high - low) / STRATA)[1] - 2
    while math.floor(math.ldexp(high, -level)) - math.floor(math.ldexp(low, -level)) >= STRATA:
        level += 1
    return level


def _ranks(strata: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The place of each row in its stratum, rows being in order; the rows by strata; and where the strata begin in these."""
    order = np.argsort(strata, kind="stable")
    ordered = strata[order]
    firsts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(order) else np.zeros(0, np.int64)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(firsts, np.diff(np.append(firsts, len(order))))
    return rank, order, firsts
