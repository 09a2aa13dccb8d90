"""The best k, or the best fraction, of a whole score table: exact, in bounded memory, in parts that never meet.

The value of the k-th best row is found digit by digit, as in a radix sort: a pass over the parts counts the rows by the
highest 16 bits of their value, which tells in which of the 65,536 ranges the k-th best lies; the next passes do the same with
the next 16 bits inside that range. After four passes all 64 bits are known. Rows of exactly that value are taken in the
order of the shards until there are k.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate import reasons

Keys = npt.NDArray[np.uint64]

BITS: Final = 16  # of a digit
PASSES: Final = 64 // BITS
_SIGN: Final = np.uint64(1 << 63)


@dataclass(frozen=True)
class TopRule:
    """Keeps the rows with the highest values of a column, of those that all other rules keep.

    Attributes:
        column: A score, or another number.
        count: How many; None if `fraction` says it.
        fraction: Which part of the rows that the other rules keep and that have a value, greater than 0, at most 1, as a
            decimal number or a ratio (`1/3`): taken as written, so `0.3` of 10 rows are 3; halves are rounded up.
        reason: The stable name that a rejected row carries.
    """

    column: str
    count: int | None = None
    fraction: str | None = None
    reason: str = reasons.BELOW_TOP

    def wanted(self, rows: int) -> int:
        """How many of so many rows are kept."""
        if self.count is not None:
            return min(self.count, rows)
        return int(Fraction(self.fraction or "1") * rows + Fraction(1, 2))

    @property
    def words(self) -> str:
        """What keeps a row, in words."""
        return f"among the top {self.count if self.count is not None else self.fraction} by {self.column}"


@dataclass(frozen=True)
class Cutoff:
    """What is known of the k-th best value: its highest `known` bits.

    Attributes:
        prefix: These bits, as a number.
        known: How many; 64 when it is found.
        missing: How many of the rows that have this prefix are still to be taken.
    """

    prefix: int = 0
    known: int = 0
    missing: int = 0


def parse_top(count: str, fraction: str) -> TopRule | None:
    """Reads the options `top` and `top_fraction`, of which one may be given, as `column=number`.

    Raises:
        ValueError: It names the option, what is wrong, and the remedy.
    """
    if count and fraction:
        raise ValueError("`top` and `top_fraction` exclude each other; give one of them")
    option, text = ("`top`", count) if count else ("`top_fraction`", fraction)
    if not text:
        return None
    column, _, number = (word.strip() for word in text.partition("="))
    example = "aesthetic=1000000" if count else "aesthetic=0.3"
    try:
        share = Fraction(number)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if count and column and share >= 1 and share.denominator == 1:
        return TopRule(column, count=int(share))
    if fraction and column and 0 < share <= 1:
        return TopRule(column, fraction=number)
    limits = "a whole number of at least 1" if count else "a number above 0 and at most 1"
    raise ValueError(f"{option} is {text!r}; give a column and {limits}, such as {option} {example}")


def sort_keys(values: pa.Array | pa.ChunkedArray) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """Turns numbers into integers of the same order.

    Args:
        values: (N,) numbers of any type.

    Returns:
        (N,) keys, and (N,) whether there is a value at all (not null, not NaN).
    """
    present = pc.invert(pc.is_null(values, nan_is_null=True)).to_numpy(zero_copy_only=False)
    numbers = pc.fill_null(pc.cast(values, pa.float64(), safe=False), 0.0).to_numpy(zero_copy_only=False) + 0.0  # no -0
    bits = np.ascontiguousarray(numbers).view(np.uint64)
    # IEEE 754: positive numbers are ordered as their bits are, negative ones the other way round.
    return np.where(bits & _SIGN, ~bits, bits | _SIGN), present


def count_digits(keys: Keys, cutoff: Cutoff) -> dict[int, int]:
    """Counts the keys with the cutoff's prefix by their next digit."""
    if cutoff.known:
        keys = keys[keys >> np.uint64(64 - cutoff.known) == np.uint64(cutoff.prefix)]
    digits = (keys >> np.uint64(64 - cutoff.known - BITS)) & np.uint64((1 << BITS) - 1)
    found, counts = np.unique(digits, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def narrow(cutoff: Cutoff, counts: Mapping[int, int], rule: TopRule) -> Cutoff:
    """Learns the next digit from the counts of all parts.

    Where no row is wanted, the cutoff is above all of them; where there are no more rows than wanted, it is the lowest. With
    nothing known, the counts are those of all rows, of which the rule says how many are wanted.
    """
    left = cutoff.missing if cutoff.known else rule.wanted(sum(counts.values()))
    chosen = (1 << BITS) - 1
    for digit in sorted(counts, reverse=True):
        chosen = digit
        if counts[digit] >= left:
            break
        left -= counts[digit]
    return Cutoff(cutoff.prefix << BITS | chosen, cutoff.known + BITS, left)


def ties(keys: Keys, cutoff: Cutoff) -> int:
    """Counts the keys that equal a found cutoff."""
    return int((keys == np.uint64(cutoff.prefix)).sum())


def allot(cutoff: Cutoff, tied: Iterable[tuple[int, int]]) -> dict[int, Cutoff]:
    """Gives each part its share of the rows that equal the cutoff.

    Args:
        cutoff: The cutoff that was found.
        tied: (shard index, number of rows that equal it) of the parts that have any.

    Returns:
        By shard index, the cutoff with `missing` of that part; see `share` for the parts that are not there.
    """
    left = cutoff.missing
    found = {}
    for shard, count in sorted(tied):
        taken = min(left, count)
        found[shard] = replace(cutoff, missing=taken)
        left -= taken
    return found


def share(cutoff: Cutoff, shares: Mapping[int, Cutoff], shard: int) -> Cutoff:
    """Gives a part's share by its shard's index: of those that `allot` did not name, none."""
    return shares.get(shard, replace(cutoff, missing=0))


def among_top(keys: Keys, cutoff: Cutoff) -> npt.NDArray[np.bool_]:
    """Says for each key of a part whether it is above the cutoff, or among the first that equal it."""
    equal = keys == np.uint64(cutoff.prefix)
    above: npt.NDArray[np.bool_] = keys > np.uint64(cutoff.prefix)
    return above | (equal & (np.cumsum(equal) <= cutoff.missing))
