"""The rows of a score table among which duplicates are looked for, and which of two duplicates is the better one.

A row has an id, (shard index << 32) + index, and a rank. Of two rows the one of the higher rank is better, and of two of the same
rank the one of the lower id, which comes first in the input: so any two rows are in order, and the choice is the same each time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.scores.top import sort_keys
from beam_curate.selection.rejudging import Selection, passing, read_rows

Ids = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]

LARGEST: Final = "largest"
FIRST: Final = "first"
HARD: Final = "hard"
EASY: Final = "easy"
RULES: Final = (LARGEST, FIRST, HARD, EASY)
"""What may stand in place of a score: most pixels, first in the input, farthest from and nearest to the cluster's centre."""

FOREIGN: Final = np.uint64(1 << 62)
"""The bit of an id of the other dataset; there are never a billion shards. An id is a signed number of 64 bits for Beam."""
_BEST: Final = np.uint64((1 << 64) - 1)
_BLOCK: Final = 8192


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

    def read(self, shard_index: int, columns: Sequence[str], centroids: Floats | None = None) -> Candidates:
        """Reads the rows of a part.

        Args:
            shard_index: The part.
            columns: Columns wanted beside those that the ranks need.
            centroids: (K, D) of all clusters, L2-normalised, for `hard` and `easy`.
        """
        found = self.read_unranked(shard_index, list(dict.fromkeys([*columns, *self._ranked_by])))
        ranks = np.full(len(found.ids), _BEST) if self.foreign else self._ranks(found.table, centroids)
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

    def _ranks(self, table: pa.Table, centroids: Floats | None) -> Ids:
        if self.keep_by == FIRST:
            return np.zeros(table.num_rows, np.uint64)
        if self.keep_by == LARGEST:
            values = pc.multiply(pc.cast(table.column("width"), pa.int64()), table.column("height"))
        elif self.keep_by in (HARD, EASY):
            if centroids is None:
                raise ValueError(f"keep_by {self.keep_by!r} needs the clusters")
            nearness = _nearness(embeddings(table), centroids)
            values = pa.array(-nearness if self.keep_by == HARD else nearness)
        else:
            values = table.column(self.keep_by)
        keys, present = sort_keys(values)
        return np.where(present, keys, np.uint64(0))  # a row without a value is the worst


def ids_of(shard_index: int, index: npt.NDArray[np.int32]) -> Ids:
    """The ids of rows by shard index and index in the shard."""
    return (np.uint64(shard_index) << np.uint64(32)) + index.astype(np.uint64)


def places_of(ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Shard index and index in the shard of ids, whichever dataset they are of."""
    own = ids & ~FOREIGN
    return (own >> np.uint64(32)).astype(np.int64), (own & np.uint64(0xFFFFFFFF)).astype(np.int64)


def embeddings(table: pa.Table) -> npt.NDArray[np.float16]:
    """(N, D) float16: the column `embedding`."""
    vectors = table.column("embedding").combine_chunks()
    width: int = table.schema.field("embedding").type.list_size
    matrix: npt.NDArray[np.float16] = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return matrix


def normalised(vectors: npt.NDArray[np.float16]) -> Floats:
    """(N, D) float32, L2-normalised: float16 keeps a length of 1 to about 1e-5 only."""
    wide = vectors.astype(np.float32)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.float32(1e-12))
    return wide


def better(rank: Ids, row: Ids, other_rank: Ids, other: Ids) -> npt.NDArray[np.bool_]:
    """Says where the first of two rows is the better one."""
    return (rank > other_rank) | ((rank == other_rank) & (row < other))


def firsts(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Says which of sorted rows are the first of their kind: those that differ from the row before in one of the columns."""
    found = np.zeros(len(columns[0]), np.bool_)
    found[:1] = True
    for column in columns:
        found[1:] |= column[1:] != column[:-1]
    return found


def _nearness(vectors: npt.NDArray[np.float16], centroids: Floats) -> Floats:
    """The cosine similarity to the nearest centroid: of equal vectors the same, as a product of matrices does not give it."""
    found = np.zeros(len(vectors), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = normalised(vectors[start : start + _BLOCK])
        home = (block @ centroids.T).argmax(axis=1)
        found[start : start + _BLOCK] = (block * centroids[home]).sum(axis=1, dtype=np.float64)
    return found
