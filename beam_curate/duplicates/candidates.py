"""The rows of a score table among which duplicates are looked for, and which of two duplicates is the better one.

A row has an id, (shard index << 32) + index, and a rank. Of two rows the one of the higher rank is better, and of two of the same
rank the one of the lower id, which comes first in the input: so any two rows are in order, and the choice is the same each time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.scores.top import sort_keys
from beam_curate.selection.rejudging import Selection, passing, read_rows

Ids = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.void]
"""(N,) records, with the fields `id` and `rank` at least."""
Nearness: TypeAlias = Callable[[npt.NDArray[np.float16]], Floats]
"""How near (N, D) embeddings are to the centres of their clusters, (N,); NaN for those without a direction."""

LARGEST: Final = "largest"
FIRST: Final = "first"
HARD: Final = "hard"
EASY: Final = "easy"
RULES: Final = (LARGEST, FIRST, HARD, EASY)
"""What may stand in place of a score: most pixels, first in the input, farthest from and nearest to the cluster's centre."""

FOREIGN: Final = np.uint64(1 << 62)
"""The bit of an id of the other dataset; there are never a billion shards. An id is a signed number of 64 bits for Beam."""
_BEST: Final = np.uint64((1 << 64) - 1)
_BLOCK: Final = 4096  # embeddings at once


@dataclass(frozen=True)
class Candidates:
    """Rows of one part, in its order.

    Attributes:
        ids: (N,) uint64.
        ranks: (N,) uint64, higher is better.
        table: The columns that were asked for, of these rows.
    """

    ids: Ids
    ranks: Ids
    table: pa.Table

    def slice(self, start: int, count: int) -> "Candidates":
        """So many of them from one on."""
        rows = slice(start, start + count)
        return Candidates(self.ids[rows], self.ranks[rows], self.table.slice(start, count))


@dataclass(frozen=True)
class CandidateRows:
    """Which rows of which table, and how they are ranked.

    Attributes:
        selection: The rows that pass its rules on each row.
        keep_by: The better of two duplicates has the higher value of this number of the table, or is chosen by one of RULES.
        foreign: They are of the dataset to compare with: none is removed, and each is better than any of ours.
    """

    selection: Selection
    keep_by: str = "aesthetic"
    foreign: bool = False

    def read(self, shard_index: int, columns: Sequence[str], nearness: Nearness | None = None) -> Candidates:
        """Reads the rows of a part.

        Args:
            shard_index: The part.
            columns: Columns wanted beside those that the ranks need.
            nearness: For `hard` and `easy`.
        """
        found = self.read_unranked(shard_index, list(dict.fromkeys([*columns, *self._ranked_by])))
        ranks = np.full(len(found.ids), _BEST) if self.foreign else self._ranks(found.table, nearness)
        return Candidates(found.ids, ranks, found.table.select(list(columns)))

    def read_unranked(self, shard_index: int, columns: Sequence[str]) -> Candidates:
        """Likewise, without the ranks, which are all 0."""
        rows = passing(self.selection, shard_index)
        table = read_rows(self.selection, shard_index, [*columns, "index"]).take(rows)
        ids = ids_of(shard_index, table.column("index").to_numpy())
        if self.foreign:
            ids = ids | FOREIGN
        return Candidates(ids, np.zeros(len(ids), np.uint64), table.select(list(columns)))

    @property
    def _ranked_by(self) -> Sequence[str]:
        if self.foreign or self.keep_by == FIRST:
            return ()
        return {LARGEST: ("width", "height"), HARD: ("embedding",), EASY: ("embedding",)}.get(
            self.keep_by, (self.keep_by,)
        )

    def _ranks(self, table: pa.Table, nearness: Nearness | None) -> Ids:
        if self.keep_by == FIRST:
            return np.zeros(table.num_rows, np.uint64)
        if self.keep_by == LARGEST:
            values = pc.multiply(pc.cast(table.column("width"), pa.int64()), table.column("height"))
        elif self.keep_by in (HARD, EASY):
            if nearness is None:
                raise ValueError(f"keep_by {self.keep_by!r} needs the clusters")
            near = nearness(embeddings(table))
            values = pa.array(-near if self.keep_by == HARD else near)
        else:
            values = table.column(self.keep_by)
        keys, present = sort_keys(values)
        return np.where(present, keys, np.uint64(0))  # a row without a value is the worst


def ids_of(shard_index: int, index: npt.NDArray[np.int32]) -> Ids:
    """The ids of rows by shard index and index in the shard."""
    return (np.uint64(shard_index) << np.uint64(32)) + index.astype(np.uint64)


def places_of(ids: Ids) -> tuple[Places, Places]:
    """Shard index and index in the shard of ids, whichever dataset they are of."""
    own = ids & ~FOREIGN
    return (own >> np.uint64(32)).astype(np.int64), (own & np.uint64(0xFFFFFFFF)).astype(np.int64)


def part_of(ids: Ids) -> Places:
    """The number of the part in which ids are: the shard index, with bit 30 set where it is of the other dataset."""
    return (ids >> np.uint64(32)).astype(np.int64)


def by_part(rows: npt.NDArray[np.void], field: str) -> list[tuple[int, npt.NDArray[np.void]]]:
    """Records by the part of one of their ids, each part once."""
    parts = part_of(rows[field])
    order = np.argsort(parts, kind="stable")
    numbers, starts = np.unique(parts[order], return_index=True)
    return list(zip(numbers.tolist(), np.split(rows[order], starts[1:]), strict=False))  # without any, one is empty


def embeddings(table: pa.Table) -> npt.NDArray[np.float16]:
    """(N, D) float16: the column `embedding`."""
    vectors = table.column("embedding").combine_chunks()
    width: int = table.schema.field("embedding").type.list_size
    matrix: npt.NDArray[np.float16] = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return matrix


def with_direction(vectors: npt.NDArray[np.float16]) -> Flags:
    """Says which of (N, D) embeddings have a direction: those with NaN or infinity have none, nor has one of zeros alone."""
    largest = np.zeros(len(vectors), np.uint16)
    for start in range(0, len(vectors), _BLOCK):
        # Without signs numbers are ordered as their bits are.
        some = vectors[start : start + _BLOCK].view(np.uint16) & 0x7FFF
        largest[start : start + _BLOCK] = some.max(axis=1, initial=0)
    found: Flags = (largest > 0) & (largest < 0x7C00)
    return found


def widened(vectors: npt.NDArray[np.float16]) -> Floats:
    """Finite float16 as float32, the same numbers, in a fifth of the time that numpy takes for it.

    The bits of a float16 are moved to the places that they have in a float32: a sign, an exponent and a fraction. The exponents
    count from 15 and from 127, so what the bits say is 2^112 times too small. The product is exact, of subnormal numbers too.
    Source: IEEE 754, binary16 and binary32.
    """
    bits = vectors.view(np.int16).astype(np.int32)  # the sign is in bits 15 to 31
    bits <<= 13
    bits &= ~0x70000000  # the sign once
    found: Floats = bits.view(np.float32)
    found *= np.float32(2.0**112)
    return found


def normalised(vectors: npt.NDArray[np.float16]) -> Floats:
    """(N, D) float32, L2-normalised: float16 keeps a length of 1 to about 1e-5 only."""
    wide = widened(vectors)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.float32(1e-12))
    return wide


def best_first(rows: Rows) -> Rows:
    """Rows from the best one to the worst one."""
    return rows[np.lexsort((rows["id"], ~rows["rank"]))]


def firsts(*columns: npt.NDArray[Any]) -> Flags:
    """Says which of sorted rows are the first of their kind: those that differ from the row before in one of the columns."""
    found = np.zeros(len(columns[0]), np.bool_)
    found[:1] = True
    for column in columns:
        found[1:] |= column[1:] != column[:-1]
    return found


def scattered(ids: Ids) -> Ids:
    """Ids as evenly spread numbers of 64 bits, the same each time.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
    """
    mixed = ids + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
