"""Perceptual hashes of 64 bits that differ in at most a few of them.

The bits are cut into m parts. Hashes that differ in at most d bits are equal in at least m - d of them (the pigeonhole
principle), so whoever goes to a bucket for each choice of m - d parts, by what stands in these, misses no pair. With m = d + 1
that is d + 1 buckets a row, each by 64 / (d + 1) bits: few, and full where there are many rows. A larger m makes more copies and
emptier buckets; m is what costs least for the number of rows.

In a bucket the rows of one value are compared from the best one on, and a row that has found a partner asks no more. Where all
are alike, as in pictures of one plain colour, the first block answers nearly all: the cost is that of the rows, not of the pairs.

Source: Norouzi, Punjani and Fleet, Fast Exact Search in Hamming Space with Multi-Index Hashing, 2014 (arXiv 1307.2982), for the
parts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_curate.duplicates.candidates import Candidates, Flags, Ids, Places, Rows, firsts, scattered
from beam_curate.duplicates.edges import Edges, edges_between, may_be_removed, may_stand
from beam_curate.duplicates.method import Compared, Method, Plan, Spread, read_pieces, similar
from beam_curate.duplicates.pairs import Pairs, chosen_of_few, no_pairs, pairs_of

BITS: Final = 64
MOST_DISTANCE: Final = 8
"""More differing bits than this are not near duplicates, and take so many copies that nearly all is compared."""

_COPY: Final = 500
"""What a copy of a row costs to write, group and sort, in comparisons: about 1 microsecond, at 2 nanoseconds each."""
_BUCKET_ROWS: Final = 1 << 17  # of 24 bytes
_ROW: Final = np.dtype([("id", "<u8"), ("rank", "<u8"), ("hash", "<u8")])
_FACE: Final = np.dtype([*_ROW.descr, ("other", "<u8")])
"""A row as it is, or as its mirror image, with the hash of the other one."""
_SMALL: Final = 32  # rows of one value that are compared all at once with those of the other values
_ASKED: Final = 512  # partners at once
_ASKING: Final = 4096  # rows at once: 16 MB of differing bits
_BELOW: Final = 6  # bits beyond the distance up to which pairs are shown


@dataclass(frozen=True)
class Buckets:
    """The buckets of a search.

    Attributes:
        masks: For each choice of parts the bits in them.
        each: Buckets of a choice.
    """

    masks: Sequence[int]
    each: int

    @staticmethod
    def of(total: int, distance: int) -> "Buckets":
        """Those that cost least for so many rows."""

        def cost(parts: int) -> float:
            copies = comb(parts, distance)
            return copies * (_COPY + total / 2 / 2.0 ** (BITS * (parts - distance) / parts))

        parts = min(range(distance + 1, distance + 5), key=cost)
        ends = [BITS * part // parts for part in range(parts + 1)]
        bits = [(1 << stop) - (1 << start) for start, stop in pairwise(ends)]
        masks = [sum(chosen) for chosen in combinations(bits, parts - distance)]
        return Buckets(masks, -(-total // _BUCKET_ROWS) or 1)


@dataclass(frozen=True)
class Perceptual(Method):
    """Images whose pHashes differ in few bits.

    Attributes:
        distance: They differ in at most so many of 64 bits.
        mirrored: A picture is also compared as its mirror image: of two rows the hash of one or the other's, either way round.

    Raises:
        ValueError: `distance` is below 0 or above MOST_DISTANCE.
    """

    distance: int = 4
    mirrored: bool = False

    name: ClassVar[str] = "perceptual"
    place: ClassVar[int] = 30
    alike: ClassVar[str] = "the pHashes differ in few of 64 bits"
    columns: ClassVar[tuple[str, ...]] = ("perceptual", "mirrored")
    block_rows: ClassVar[int | None] = 1 << 20
    option: ClassVar[str] = "max_distance"
    measure: ClassVar[str] = "difference"

    def __post_init__(self) -> None:
        if not 0 <= self.distance <= MOST_DISTANCE:
            raise ValueError(f"`distance` is {self.distance}; give 0 to {MOST_DISTANCE} bits")

    @property
    def noted(self) -> Mapping[str, float]:
        """See Method."""
        return {**super().noted, "mirrored": self.mirrored}

    @property
    def value(self) -> float:
        """See Method."""
        return self.distance

    @classmethod
    def limit(cls, value: float) -> float:
        """See Method."""
        return 1 - value / BITS

    @classmethod
    def measured(cls, similarity: float, value: float) -> str:
        """See Method."""
        del value
        return f"{round(BITS * (1 - similarity))} bits"

    @property
    def bands(self) -> Sequence[float]:
        """A band for each number of bits."""
        return [2.0, *(1 - bits / BITS for bits in range(self.distance + _BELOW + 1))]

    def plan(self, total: int, sample: pa.Table) -> Plan:
        """See Method."""
        del sample
        buckets = Buckets.of(total * (2 if self.mirrored else 1), self.distance)
        return Plan(len(buckets.masks) * buckets.each, buckets, buckets)

    def spread(self, found: Candidates, spreading: Any) -> Spread:
        """See Method."""
        faces = self._faces(found)
        buckets = [
            spreading.each * number
            + (scattered(faces["hash"] & np.uint64(mask)) % np.uint64(spreading.each)).astype(np.int64)
            for number, mask in enumerate(spreading.masks)
        ]
        return Spread(np.concatenate(buckets), np.tile(faces, len(buckets)))

    def dtype(self, comparing: Any) -> np.dtype[Any]:
        """See Method."""
        del comparing
        return _FACE if self.mirrored else _ROW

    def compare(self, bucket: int, pieces: Iterable[Rows], comparing: Any) -> Compared:
        """See Method."""
        rows = read_pieces(pieces, self.dtype(comparing))
        everyone = np.ones(len(rows), np.bool_)
        return self._edges(bucket, rows, everyone, everyone, comparing)

    def compare_blocks(self, bucket: int, asking: Rows, answering: Rows, comparing: Any) -> Compared:
        """See Method."""
        # A row that is in both is compared as two, and is not a partner of its own: mirrored pictures are two in any case.
        asks = np.arange(len(asking) + len(answering)) < len(asking)
        return self._edges(bucket, np.concatenate([asking, answering]), asks, ~asks, comparing)

    def pairs(self, few: Rows, rows: Rows, comparing: Any) -> Pairs:
        """See Method."""
        del comparing
        found = [no_pairs()]
        for start in range(0, len(rows), _ASKING):  # of a crowd all are near the few
            some = rows[start : start + _ASKING]
            bits = _apart(few[:, None], some[None, :])
            row, column = np.divmod(np.flatnonzero(bits <= self.distance + _BELOW), bits.shape[1])
            if self.between:
                wanted = may_be_removed(few[row]) != may_be_removed(some[column])
                row, column = row[wanted], column[wanted]
            pairs = pairs_of(few["id"][row], some["id"][column], similar(1 - bits[row, column] / BITS))
            found.append(pairs[chosen_of_few(pairs, self.bands)])
        return np.concatenate(found)

    @classmethod
    def told(cls, similarity: float) -> str:
        """See Method."""
        return f"{similarity:.4f} of the perceptual hash's bits as in"

    def _faces(self, found: Candidates) -> Rows:
        """The rows of a part that have a hash; with `mirrored` each as it is, and as its mirror image."""
        table = found.table
        there = table.column("perceptual").is_valid().to_numpy()
        rows = np.zeros(int(there.sum()), self.dtype(None))
        rows["id"], rows["rank"] = found.ids[there], found.ranks[there]
        rows["hash"] = table.column("perceptual").drop_null().to_numpy()
        if not self.mirrored:
            return rows
        rows["other"] = table.column("mirrored").drop_null().to_numpy()
        turned = rows.copy()
        turned["hash"], turned["other"] = rows["other"], rows["hash"]
        return np.concatenate([rows, turned])

    def _edges(self, bucket: int, rows: Rows, asks: Flags, answers: Flags, buckets: Buckets) -> Compared:
        """The edges of rows, in the bucket of a choice of parts."""
        mask = np.uint64(buckets.masks[bucket // buckets.each])
        order = np.lexsort((rows["id"], ~rows["rank"], rows["hash"] & mask))
        rows, asks, answers = rows[order], asks[order], answers[order]
        search = _Search(rows, self.distance, asks & may_be_removed(rows), answers & may_stand(rows, self.between))
        for start, stop in _runs(firsts(rows["hash"] & mask)):
            search.compare(start, stop)
        search.compare_small(firsts(rows["hash"] & mask))
        return Compared(search.edges(), search.comparisons)


def _apart(left: Rows, right: Rows) -> npt.NDArray[np.uint8]:
    """In how many bits rows differ, of whatever shape both give together: of faces those of the nearest ones."""
    found: npt.NDArray[np.uint8] = np.bitwise_count(left["hash"] ^ right["hash"])
    if "other" in (left.dtype.names or ()):
        for one, other in (("hash", "other"), ("other", "hash"), ("other", "other")):
            np.minimum(found, np.bitwise_count(left[one] ^ right[other]), out=found)
    return found


def _runs(first: Flags) -> Iterator[tuple[int, int]]:
    """The large runs of one value."""
    starts = np.append(np.flatnonzero(first), len(first))
    large = np.flatnonzero(np.diff(starts) > _SMALL)
    yield from zip(starts[large].tolist(), starts[large + 1].tolist(), strict=True)


class _Search:
    """Rows, by value and from the best one on, and the best partner of each so far."""

    def __init__(self, rows: Rows, distance: int, asks: Flags, answers: Flags) -> None:
        self._rows, self._distance = rows, distance
        self._hash: Ids = np.ascontiguousarray(rows["hash"])
        self._id: Ids = np.ascontiguousarray(rows["id"])
        self._asks, self._answers = asks, answers
        self._of: Places = np.full(len(rows), -1, np.int64)
        self.comparisons = 0

    def compare(self, start: int, stop: int) -> None:
        """Compares the rows of a large run."""
        answering = start + np.flatnonzero(self._answers[start:stop])
        asking = start + np.flatnonzero(self._asks[start:stop])
        for block in range(0, len(answering), _ASKED):
            of = answering[block : block + _ASKED]
            asking = asking[self._of[asking] < 0]
            asking = asking[np.searchsorted(asking, of[0], side="right") :]  # only for worse ones
            for some in range(0, len(asking), _ASKING):
                self._ask(asking[some : some + _ASKING], of)

    def _ask(self, row: Places, of: Places) -> None:
        self.comparisons += len(row) * len(of)
        near: npt.NDArray[Any] = np.bitwise_count(self._hash[row][:, None] ^ self._hash[of][None, :]) <= self._distance
        near &= of[None, :] < row[:, None]
        near &= self._id[of][None, :] != self._id[row][:, None]
        first = near.argmax(axis=1)
        found = near[np.arange(len(row)), first]
        self._of[row[found]] = of[first[found]]

    def compare_small(self, first: Flags) -> None:
        """Compares the rows of all small runs: each with the one before it, the one before that, and so on."""
        starts = np.flatnonzero(first)
        size = np.diff(np.append(starts, len(first)))
        place = np.arange(len(first)) - np.repeat(starts, size)
        left = np.flatnonzero(np.repeat(size <= _SMALL, size) & self._asks)
        for back in range(1, _SMALL):
            left = left[place[left] >= back]
            if not len(left):
                break
            of = left - back
            self.comparisons += len(of)
            near = np.bitwise_count(self._hash[left] ^ self._hash[of]) <= self._distance
            near &= self._answers[of] & (self._id[of] != self._id[left])
            self._of[left[near]] = of[near]  # farther back is better

    def edges(self) -> Edges:
        """An edge for each row that has a partner."""
        row = np.flatnonzero(self._of >= 0)
        of = self._of[row]
        bits = _apart(self._rows[row], self._rows[of])
        return edges_between(self._rows, row, of, similar(1 - bits / BITS))
