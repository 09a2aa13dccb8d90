"""Near duplicates by embedding: in each cluster, the rows that have a better one of a high cosine similarity.

Source: Abbas et al., SemDeDup, 2023 (arXiv 2303.09540): of two embeddings of a cosine similarity of at least 1 - eps, the worse
one is removed.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import FOREIGN, Floats, Ids, better, firsts, normalised
from beam_curate.duplicates.clusters import scattered
from beam_curate.duplicates.edges import EDGE, METHODS, Edges
from beam_curate.duplicates.spilling import BucketRange, Rows, RunReader, Span

METHOD: Final = "semantic"
BLOCK_ROWS: Final = 2048
"""Rows that are compared at once: 16 MB of similarities, 6 MB of vectors at 768 dimensions."""

_ROUNDING: Final = 1e-12
"""What float64 may lose in a similarity: 1e-16 for each of some hundred products, and as much in the lengths."""
_EQUAL: Final = np.float32(1 - 1e-6)

PAIR: Final = np.dtype([("similarity", "<f4"), ("first", "<u8"), ("second", "<u8")])
BANDS: Final = (0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Pairs are shown between these distances 1 - similarity, as multiples of eps: up to 1 they are duplicates."""
PAIRS_EACH: Final = 4
_SHOWN_ROWS: Final = 128  # of a cluster, among which pairs to show are looked for


def row_dtype(dim: int) -> np.dtype[Any]:
    """A row of a run: its vector, and whether the cluster is its home."""
    return np.dtype([("id", "<u8"), ("rank", "<u8"), ("home", "?"), ("vector", "<f2", (dim,))])


def make_rows(ids: Ids, ranks: Ids, vectors: npt.NDArray[np.float16], place: npt.NDArray[np.int64]) -> Rows:
    """The rows of an assignment: `place` are the places of rows, of which the first N are the homes."""
    rows = np.zeros(len(place), row_dtype(vectors.shape[1]))
    rows["id"], rows["rank"], rows["vector"] = ids[place], ranks[place], vectors[place]
    rows["home"][: len(ids)] = True
    return rows


class _Block:
    """Some rows of a cluster, homes first, and what is known of each: its best partner so far."""

    def __init__(self, load: Callable[[], Rows]) -> None:
        self.load = load
        rows = self.rows()
        self.ids, self.ranks = rows["id"].copy(), rows["rank"].copy()
        self.homes = int(rows["home"].sum())
        self.similarity = np.full(len(rows), -np.inf, np.float32)
        self.of = np.zeros(len(rows), np.uint64)
        self.of_rank = np.zeros(len(rows), np.uint64)

    def rows(self) -> Rows:
        """The rows again, in the same order."""
        rows = self.load()
        return rows[np.argsort(~rows["home"], kind="stable")]

    def vectors(self) -> Floats:
        """(N, D) of the rows."""
        return normalised(self.rows()["vector"])

    @property
    def open(self) -> npt.NDArray[np.bool_]:
        """The rows without a partner."""
        return np.isneginf(self.similarity)

    def take(self, row: npt.NDArray[np.int64], of: Ids, of_rank: Ids, similarity: Floats) -> None:
        """Takes in partners of rows, which are better than these: the most similar one counts, of these the best."""
        order = np.lexsort((of, ~of_rank, -similarity, row))
        row, of, of_rank, similarity = row[order], of[order], of_rank[order], similarity[order]
        first = firsts(row)
        row, of, of_rank, similarity = row[first], of[first], of_rank[first], similarity[first]
        nearer = similarity > self.similarity[row]
        self.similarity[row[nearer]] = similarity[nearer]
        self.of[row[nearer]], self.of_rank[row[nearer]] = of[nearer], of_rank[nearer]

    def edges(self) -> Edges:
        """An edge for each row that has a partner."""
        found = np.flatnonzero(~self.open & ((self.ids & FOREIGN) == 0))
        edges = np.zeros(len(found), EDGE)
        edges["row"], edges["row_rank"] = self.ids[found], self.ranks[found]
        edges["of"], edges["of_rank"], edges["similarity"] = (
            self.of[found],
            self.of_rank[found],
            np.minimum(self.similarity[found], 1),
        )
        edges["method"] = METHODS.index(METHOD)
        return edges


class Comparison:
    """Compares the rows of clusters.

    Attributes:
        least: The lowest similarity of a duplicate, less what float64 may lose.
        between: Only rows of ours with rows of the other dataset.
    """

    def __init__(self, eps: float, between: bool = False) -> None:
        self.eps = eps
        self.least = 1 - eps - _ROUNDING
        self.between = between

    def similarities(self, left: Floats, right: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Compares (N, D) with (M, D) rows of length 1.

        In float32 a vector's similarity to itself may come out as 0.9999999, and does for every fourth vector or so, another
        fourth with each kernel of BLAS. So what is as near the limit as rounding reaches is computed again in float64.

        Returns:
            (N, M) cosine similarities, 1 where that is more than float32 can tell, and where they are at least 1 - eps.
        """
        similarity = left @ right.T
        # Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1: D roundings of 2^-24 in whatever
        # order, and as much again for those of the vectors.
        unsure = np.abs(similarity - np.float32(self.least)) <= np.float32(left.shape[1] * 2.0**-23)
        rows, columns = np.flatnonzero(unsure.any(axis=1)), np.flatnonzero(unsure.any(axis=0))
        near = similarity >= np.float32(self.least)
        if len(rows):
            exact = _exact(left[rows]) @ _exact(right[columns]).T
            place = np.ix_(rows, columns)
            similarity[place], near[place] = exact, exact >= self.least
        similarity[similarity > _EQUAL] = 1  # so that of equal partners rounding does not choose
        return similarity, near

    def cluster(self, loads: Sequence[Callable[[], Rows]]) -> Edges:
        """The edges of a cluster, given in blocks.

        Of several blocks, rows that have a partner already are compared only as partners of others from then on: a cluster full
        of copies of one image costs a block's width for each row and not all rows. Their partner is then the most similar one of
        the blocks that were compared with them.
        """
        blocks = [_Block(load) for load in loads]
        for number, left in enumerate(blocks):
            vectors = left.vectors()
            for right in blocks[: number + 1]:
                self._compare(left, vectors, right, vectors if right is left else None)
        return np.concatenate([np.zeros(0, EDGE), *(block.edges() for block in blocks)])

    def _compare(self, left: _Block, left_vectors: Floats, right: _Block, right_vectors: Floats | None) -> None:
        """Compares all homes with all, each pair once; two visitors meet in another cluster."""
        same = right is left
        if not same and not left.open.any() and not right.open.any():
            return
        wide = right.vectors() if right_vectors is None else right_vectors
        everything = np.arange(len(left.ids)), np.arange(len(right.ids))
        if same:
            self._pairs(left, left_vectors, everything[0], right, wide, everything[1][: right.homes])
            return
        for some, others in _halves(left.open, right.open):
            homes = others[others < right.homes]
            self._pairs(left, left_vectors, some, right, wide, homes)
            visitors, own = others[others >= right.homes], some[some < left.homes]
            self._pairs(left, left_vectors, own, right, wide, visitors)

    def _pairs(
        self, left: _Block, left_vectors: Floats, some: npt.NDArray[np.int64], right: _Block, right_vectors: Floats,
        others: npt.NDArray[np.int64],
    ) -> None:  # fmt: skip
        if not len(some) or not len(others):
            return
        similarity, duplicates = self.similarities(left_vectors[some], right_vectors[others])
        row, column = np.nonzero(duplicates)
        near, a, b = similarity[row, column], some[row], others[column]
        wanted = left.ids[a] != right.ids[b]
        if self.between:
            wanted &= (left.ids[a] & FOREIGN) != (right.ids[b] & FOREIGN)
        near, a, b = near[wanted], a[wanted], b[wanted]
        down = better(right.ranks[b], right.ids[b], left.ranks[a], left.ids[a])
        left.take(a[down], right.ids[b[down]], right.ranks[b[down]], near[down])
        right.take(b[~down], left.ids[a[~down]], left.ranks[a[~down]], near[~down])

    def pairs_to_show(self, rows: Rows, edges: Edges) -> npt.NDArray[np.void]:
        """A few pairs of a cluster of several similarities, for a person to look at: of those of a sample, and of its edges."""
        rows = rows[np.argsort(scattered(rows["id"]), kind="stable")][:_SHOWN_ROWS]
        vectors = normalised(rows["vector"])
        similarity, duplicates = self.similarities(vectors, vectors)
        row, column = np.nonzero(np.triu(~duplicates & (similarity >= np.float32(1 - BANDS[-1] * self.eps)), 1))
        pairs = np.zeros(len(row), PAIR)
        pairs["similarity"] = np.minimum(similarity[row, column], 1)
        pairs["first"], pairs["second"] = rows["id"][row], rows["id"][column]
        if self.between:
            pairs = pairs[(pairs["first"] & FOREIGN) != (pairs["second"] & FOREIGN)]
        near = np.zeros(len(edges), PAIR)
        near["similarity"], near["first"], near["second"] = edges["similarity"], edges["row"], edges["of"]
        return choose_pairs(np.concatenate([pairs, near]), self.eps)


def _exact(vectors: Floats) -> npt.NDArray[np.float64]:
    """(N, D) with lengths of 1 to the last bits."""
    wide = vectors.astype(np.float64)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return wide


def _halves(
    left: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """The pairs of which at least one is open: the left open rows with all, and the left others with the right open ones."""
    yield np.flatnonzero(left), np.arange(len(right))
    yield np.flatnonzero(~left), np.flatnonzero(right)


def choose_pairs(pairs: npt.NDArray[np.void], eps: float) -> npt.NDArray[np.void]:
    """Of each band PAIRS_EACH, drawn by their ids; a pair that met in several clusters is one."""
    pairs = _once(pairs)
    band = np.searchsorted(np.array(BANDS[1:-1]) * eps, 1 - pairs["similarity"], side="right")
    drawn = scattered(pairs["first"] ^ scattered(pairs["second"]))
    order = np.lexsort((drawn, band))
    band, pairs = band[order], pairs[order]
    place = np.arange(len(band)) - np.searchsorted(band, band)
    return pairs[place < PAIRS_EACH]


def _once(pairs: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Each pair once, by its ids, the lower one first."""
    low, high = np.minimum(pairs["first"], pairs["second"]), np.maximum(pairs["first"], pairs["second"])
    order = np.lexsort((pairs["similarity"], high, low))
    low, high, pairs = low[order], high[order], pairs[order]
    pairs["first"], pairs["second"] = low, high
    new = firsts(low, high)
    return pairs[new]


class BlockCache:
    """Blocks of a cluster that is larger than memory allows: those read last are kept."""

    def __init__(self, reader: RunReader, most_rows: int) -> None:
        self._reader = reader
        self._most = max(2, most_rows // BLOCK_ROWS)
        self._held: OrderedDict[int, Rows] = OrderedDict()

    def loads(self, bucket: int) -> list[Callable[[], Rows]]:
        """A function for each block of a bucket, which gives its rows."""
        blocks = self._reader.blocks(bucket, BLOCK_ROWS)
        return [partial(self._load, number, spans) for number, spans in enumerate(blocks)]

    def _load(self, number: int, spans: Sequence[Span]) -> Rows:
        if number not in self._held:
            self._held[number] = self._reader.read(spans)
        self._held.move_to_end(number)
        while len(self._held) > self._most:
            self._held.popitem(last=False)
        return self._held[number]


def _itself(rows: Rows) -> Rows:
    return rows


def compare_range(
    reader: RunReader, wanted: BucketRange, comparison: Comparison, most_rows: int
) -> tuple[Edges, npt.NDArray[np.void]]:
    """The edges of all clusters of a range, and pairs to show; one of more than `most_rows` is one cluster, read in blocks."""
    if wanted.rows > most_rows:
        loads = BlockCache(reader, most_rows).loads(wanted.first)
        found = comparison.cluster(loads)
        return found, comparison.pairs_to_show(loads[0](), found)
    edges, pairs = [np.zeros(0, EDGE)], [np.zeros(0, PAIR)]
    for rows in reader.buckets(wanted):
        blocks = [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
        edges.append(comparison.cluster([partial(_itself, block) for block in blocks]))
        pairs.append(comparison.pairs_to_show(rows, edges[-1]))
    return np.concatenate(edges), choose_pairs(np.concatenate(pairs), comparison.eps)
