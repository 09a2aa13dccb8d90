"""Where each kept sample goes: exactly N per output file, contiguous, in source order or shuffled by a seed.

Kept rows are counted per part of the score table. The counts, summed over the parts in order, give every kept row its
position among all; position // N is its file, position % N its place there. So each part works out by itself where its rows
go, from one small list of counts. With a seed the positions are permuted first, by a bijection that is computed and never
stored, so that the order of a billion samples needs no memory and no sort.
"""

import functools
import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np
import numpy.typing as npt

from beam_curate.records import ScorePart
from beam_curate.runs.division import Division

Positions = npt.NDArray[np.int64]

_TURNS: Final = 4
_DIGEST: Final = 16  # bytes


@dataclass(frozen=True)
class Packing:
    """The arithmetic of a run.

    Attributes:
        indexes: The indexes of the parts' input shards, ascending.
        counts: The kept rows of each part, in this order.
        division: N and the seed, which permutes the order of all samples.
        prefixes: A digest of each part and all parts before it, see `of`.
        about: What else decides the content of the files, for `plan`.
        left_out: Part and rank of kept rows that are left out, ascending; `counts` has the others alone.
    """

    indexes: Sequence[int]
    counts: Sequence[int]
    division: Division = Division()
    prefixes: Sequence[bytes] = ()
    about: str = ""
    left_out: Sequence[tuple[int, int]] = ()

    @classmethod
    def of(
        cls,
        parts: Iterable[ScorePart],
        division: Division,
        about: str = "",
        left_out: Iterable[tuple[int, int]] = (),
    ) -> "Packing":
        """The packing of the kept rows of these parts, in any order; `about` and `left_out`, in any order, as above."""
        ordered = sorted(parts, key=lambda part: part.shard_index)
        digest = b""
        prefixes = []
        for part in ordered:
            said = repr((part.shard_index, part.path, part.rows, part.kept, part.footprint)).encode()
            digest = hashlib.blake2b(digest + said, digest_size=_DIGEST).digest()
            prefixes.append(digest)
        out = sorted(left_out)
        fewer = Counter(index for index, _ in out)
        indexes = [part.shard_index for part in ordered]
        counts = [part.kept - fewer[part.shard_index] for part in ordered]
        return cls(indexes, counts, division, prefixes, about, out)

    @functools.cached_property
    def _indexes(self) -> Positions:
        return np.array(self.indexes, np.int64)

    @functools.cached_property
    def _ends(self) -> Positions:
        return np.array(list(accumulate(self.counts)), np.int64)

    @property
    def total(self) -> int:
        """Number of kept samples."""
        return int(self._ends[-1]) if len(self.counts) else 0

    @property
    def rows(self) -> str:
        """A short text that names all parts with their kept rows."""
        return self.prefixes[-1].hex() if self.prefixes else ""

    @property
    def shards(self) -> int:
        """Number of output files."""
        return self.division.files(self.total)

    def places(self, shard_index: int) -> tuple[Positions, Positions]:
        """For each kept row of a part, in the order of the part: (K,) its file, and (K,) its place there."""
        at = int(np.searchsorted(self._indexes, shard_index))
        stop = int(self._ends[at])
        sources = np.arange(stop - self.counts[at], stop)
        per_file, seed = self.division.samples_per_shard, self.division.seed
        files, places = np.divmod(positions_of(sources, self.total, seed), per_file)
        return files, places

    def ranks(self, shard_index: int, kept: int) -> Positions:
        """The ranks, among the `kept` kept rows of a part, of those that have a place: all that are not left out."""
        first, last = (bisect_left(self.left_out, (shard_index + more, 0)) for more in (0, 1))
        return np.delete(np.arange(kept), [rank for _, rank in self.left_out[first:last]])

    def samples(self, index: int) -> int:
        """The number of samples of an output file."""
        per_file = self.division.samples_per_shard
        return min(per_file, self.total - index * per_file)

    def plan(self, index: int) -> str:
        """A short text that names all that decides the content of an output file: equal plans give equal bytes.

        In source order these are the parts up to the last one of which the file has a row, and what is left out before that row;
        a shuffle takes of all.
        """
        per_file, seed = self.division.samples_per_shard, self.division.seed
        stop = self.total if seed is not None else index * per_file + self.samples(index)
        last = int(np.searchsorted(self._ends, stop)) if stop else 0
        out = self._left_out_before(stop)
        decides: tuple[object, ...] = (
            *(per_file, seed, self.prefixes[last], self.samples(index), index, self.about),
            *self._digests_left_out[max(0, out - 1) : out],
        )
        return hashlib.blake2b(repr(decides).encode(), digest_size=_DIGEST).hexdigest()

    @functools.cached_property
    def _digests_left_out(self) -> Sequence[bytes]:
        """A digest of each row that is left out and all before it."""
        return list(accumulate(self.left_out, _chained, initial=b""))[1:]

    @functools.cached_property
    def _turns_left_out(self) -> Positions:
        """For each row that is left out: how many rows that have a place come before it in source order."""
        firsts = dict(zip(self.indexes, [0, *self._ends.tolist()], strict=False))
        turns = []
        number, before = -1, 0
        for index, rank in self.left_out:
            number, before = index, before + 1 if index == number else 0
            turns.append(firsts[index] + rank - before)
        return np.array(turns, np.int64)

    def _left_out_before(self, stop: int) -> int:
        """How many rows are left out before the last one of the first `stop` rows that have a place."""
        if self.division.seed is not None:
            return len(self.left_out)
        return int(np.searchsorted(self._turns_left_out, stop - 1, side="right"))


def _chained(digest: bytes, row: tuple[int, int]) -> bytes:
    return hashlib.blake2b(digest + repr(row).encode(), digest_size=_DIGEST).digest()


def positions_of(sources: Positions, total: int, seed: int | None) -> Positions:
    """The positions to which a seed sends the samples that come from `sources`, a bijection of 0 … total - 1.

    A four-round Feistel network on the smallest even number of bits that holds `total`, walked until it lands inside.
    Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002 (generalised Feistel, cycle walking).

    Args:
        sources: (K,) ranks of samples in source order.
        total: How many samples there are.
        seed: The seed; None keeps the order.
    """
    if seed is None or not len(sources):
        return sources
    half = _half(total)
    tables = _tables(seed, half)
    values = _turned_back(sources, tables, half)
    while (outside := np.flatnonzero(values >= total)).size:
        values[outside] = _turned_back(values[outside], tables, half)
    return values


def _turned_back(values: Positions, tables: Sequence[Positions], half: int) -> Positions:
    left, right = values >> half, values & ((1 << half) - 1)
    for table in reversed(tables):
        left, right = right ^ table[left], left
    result: Positions = (left << half) | right
    return result


def _half(total: int) -> int:
    """Bits of half a block that holds 0 … total - 1."""
    return max(1, ((total - 1).bit_length() + 1) // 2)


@functools.lru_cache(2)
def _tables(seed: int, half: int) -> Sequence[Positions]:
    """What each turn mixes in for each half block: 2^15 values a turn for a billion samples, 0.1 s to make."""
    mask = (1 << half) - 1
    return [
        np.array([_mixed(b"%d/%d/%d" % (seed, turn, block)) & mask for block in range(1 << half)], np.int64)
        for turn in range(_TURNS)
    ]


def _mixed(message: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little")


def shard_name(output_index: int) -> str:
    """The name of an output shard without its extension, such as `00000`."""
    return f"{output_index:05d}"
