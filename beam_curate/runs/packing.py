"""Where each kept sample goes: exactly N per output shard, contiguous, in source order or shuffled by a seed.

Kept rows are counted per input shard; the counts, summed over the sorted shards, give every kept row its global
position, and position // N its output shard. With a seed the positions are permuted first, by a bijection that is
computed and never stored, so that the order of a billion samples needs no memory and no sort.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from beam_curate.records import Piece


@dataclass(frozen=True)
class Packing:
    """The arithmetic of a run: kept rows per input shard, in shard order, and the number of samples per output shard.

    Attributes:
        counts: Kept rows of each input shard, in the order of the shards.
        samples_per_shard: N; every output shard holds N samples, the last one the rest.
        seed: Permutes the order of all samples; None keeps the source order.
    """

    counts: Sequence[int]
    samples_per_shard: int
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard is {self.samples_per_shard}; give at least 1")

    @property
    def total(self) -> int:
        """Number of kept samples."""
        return sum(self.counts)

    @property
    def shards(self) -> int:
        """Number of output shards."""
        return -(-self.total // self.samples_per_shard)

    def pieces(self) -> Iterator[Piece]:
        """All pieces, by output shard and then by place in it; `shard_index` is the place in `counts`."""
        ends = list(accumulate(self.counts))
        total = ends[-1] if ends else 0
        for output_index in range(-(-total // self.samples_per_shard)):
            low = output_index * self.samples_per_shard
            high = min(low + self.samples_per_shard, total)
            if self.seed is None:
                yield from _runs(ends, low, high, output_index)
            else:
                for position in range(low, high):
                    source = permuted(position, total, self.seed)
                    for piece in _runs(ends, source, source + 1, output_index):
                        yield Piece(piece.shard_index, output_index, position - low, piece.first, 1)


def _runs(ends: Sequence[int], low: int, high: int, output_index: int) -> Iterator[Piece]:
    """Splits the global positions low … high - 1 at the borders of the input shards."""
    start = low
    shard = bisect_right(ends, low)
    while start < high:
        begin = ends[shard - 1] if shard else 0
        stop = min(high, ends[shard])
        if stop > start:
            yield Piece(shard, output_index, start - low, start - begin, stop - start)
        start = stop
        shard += 1


def permuted(position: int, total: int, seed: int) -> int:
    """A bijection of 0 … total - 1 chosen by the seed: where the sample at `position` comes from.

    A four-round Feistel network on the smallest even number of bits that holds `total`, walked until it lands inside.
    Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002 (generalised Feistel, cycle walking).
    """
    half, mask = _halves(total)
    value = position
    while True:
        left, right = value >> half, value & mask
        for turn in range(_TURNS):
            left, right = right, left ^ _mixed(seed, turn, right, mask)
        value = (left << half) | right
        if value < total:
            return value


def position_of(source: int, total: int, seed: int | None) -> int:
    """The inverse of `permuted`: the position of the sample that comes from `source`; without a seed the same."""
    if seed is None:
        return source
    half, mask = _halves(total)
    value = source
    while True:
        left, right = value >> half, value & mask
        for turn in reversed(range(_TURNS)):
            left, right = right ^ _mixed(seed, turn, left, mask), left
        value = (left << half) | right
        if value < total:
            return value


_TURNS = 4


def _halves(total: int) -> tuple[int, int]:
    """Bits of half a block that holds 0 … total - 1, and their mask."""
    half = max(1, ((total - 1).bit_length() + 1) // 2)
    return half, (1 << half) - 1


def _mixed(seed: int, turn: int, half_block: int, mask: int) -> int:
    message = b"%d/%d/%d" % (seed, turn, half_block)
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little") & mask


def shard_name(output_index: int) -> str:
    """The name of an output shard without its extension, such as `00000`."""
    return f"{output_index:05d}"
