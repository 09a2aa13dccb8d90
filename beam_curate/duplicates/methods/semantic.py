"""Near embeddings: a cosine similarity of at least 1 - eps.

Rows meet in the clusters of a sample, an embedding in its home and in those whose border with it is near (`clusters`, `cells`),
and are compared there (`near_vectors`). With a border of 0.5 no pair is missed, and what is found does not depend on the sample,
the clusters, or the rounding of a processor. By default the sample decides: the border is as narrow as it may be to miss less
than one near pair in a thousand. The more rows there are, the smaller are the clusters, and the narrower it is.

Source: Abbas et al., SemDeDup, 2023 (arXiv 2303.09540): of two embeddings of a cosine similarity of at least 1 - eps, the worse
one is removed; the pairs inside single k-means clusters are those looked at there.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_curate.duplicates.candidates import (
    Candidates,
    Flags,
    Floats,
    Nearness,
    Rows,
    embeddings,
    normalised,
    with_direction,
)
from beam_curate.duplicates.clusters import Clusters, directions
from beam_curate.duplicates.edges import (
    Edges,
    best_edges,
    edges_between,
    may_be_removed,
    may_stand,
    no_edges,
    partners_places,
)
from beam_curate.duplicates.method import Compared, Method, Plan, Spread, similar
from beam_curate.duplicates.near_vectors import Bucket, Who, best_partners, is_near, similarities
from beam_curate.duplicates.pairs import Pairs, chosen_of_few, no_pairs, pairs_of
from beam_curate.duplicates.settling import EXACT, SAMPLE, Settling, Spreading, once, project
from beam_curate.duplicates.vector_rows import in_order, vector_row

_BANDS: Final = (0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Pairs are shown between these distances 1 - similarity, as multiples of eps: up to 1 they are duplicates."""
_MOST_CENTRES: Final = 4096
_DIRECTIONS: Final = 64  # in which these are found
_BLOCK: Final = 4096


def _comparable(vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
    """Those of (N, D) embeddings that have a direction; without a copy if all have."""
    there = with_direction(vectors)
    return vectors if there.all() else vectors[there]


@dataclass(frozen=True)
class _Nearness:
    """The similarity of embeddings to the centre of their cluster: the mean of its sampled ones."""

    directions: Floats
    clusters: Clusters
    centres: Floats

    def __call__(self, vectors: npt.NDArray[np.float16]) -> Floats:
        """See candidates.Nearness: of equal vectors the same, as a product of matrices does not give it."""
        found = np.zeros(len(vectors), np.float32)
        there = with_direction(vectors)
        for start in range(0, len(vectors), _BLOCK):
            block = normalised(vectors[start : start + _BLOCK])
            home = self.clusters.homes(block @ self.directions)
            found[start : start + _BLOCK] = (block * self.centres[home]).sum(axis=1, dtype=np.float64)
        return np.where(there, found, np.float32(np.nan))


@dataclass(frozen=True)
class Semantic(Method):
    """Near embeddings.

    Attributes:
        eps: Duplicates have a cosine similarity of at least 1 - eps.
        n_clusters: How many cells there are; 0: one for every 256 rows, for fewer where there are more than a million, 65,536 at
            most. The centres by which `hard` and `easy` rank are of as many, or of the square root of the number of rows, 4,096
            at most.
        border: The width of borders as a part of the distance of duplicates, 0 (each to its home alone) to 0.5 (exact). None: as
            narrow as the sample allows, see `settling.MISSED`; exact with no more than `settling.FEW` rows.

    Raises:
        ValueError: One of them is out of its range.
    """

    eps: float = 0.01
    n_clusters: int = 0
    border: float | None = None

    name: ClassVar[str] = "semantic"
    place: ClassVar[int] = 40
    alike: ClassVar[str] = "the embeddings are near each other"
    columns: ClassVar[tuple[str, ...]] = ("embedding",)
    block_rows: ClassVar[int | None] = 1 << 17
    option: ClassVar[str] = "eps"

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1:
            raise ValueError(f"`eps` is {self.eps}; give a number above 0 and below 1, such as 0.01")
        if self.n_clusters < 0:
            raise ValueError(f"`n_clusters` is {self.n_clusters}; give 0 or more")
        if self.border is not None and not 0 <= self.border <= EXACT:
            raise ValueError(f"`border` is {self.border}; give 0 to 0.5")

    @property
    def value(self) -> float:
        """See Method."""
        return self.eps

    @classmethod
    def limit(cls, value: float) -> float:
        """See Method."""
        return 1 - value

    @classmethod
    def measured(cls, similarity: float, value: float) -> str:
        """See Method."""
        return f"{similarity:.{min(6, max(4, 2 - math.floor(math.log10(value))))}f}"

    @property
    def bands(self) -> Sequence[float]:
        """See Method."""
        return [2.0, *(1 - part * self.eps for part in _BANDS)]

    @property
    def settling(self) -> Settling:
        """What is asked for, as it is settled from a sample."""
        return Settling(self.eps, self.n_clusters, self.border)

    def sampled(self, total: int) -> int:
        """See Method."""
        return self.settling.sampled(total)

    def plan(self, total: int, sample: pa.Table) -> Plan:
        """See Method."""
        spreading, estimate = self.settling.spreading(total, _comparable(embeddings(sample)))
        return Plan(spreading.cells.buckets, spreading, spreading, estimate)

    def nearness(self, total: int, sample: pa.Table) -> Nearness | None:
        """See Method."""
        vectors = _comparable(embeddings(sample))
        axes = directions(normalised(vectors[:SAMPLE]), _DIRECTIONS)
        points = project(vectors, axes)
        clusters = Clusters.train(points, self.n_clusters or min(round(math.sqrt(total)), _MOST_CENTRES))
        centres = (clusters.centroids @ axes.T).astype(np.float64)  # of those of which none is sampled
        sums = np.zeros_like(centres)
        homes = clusters.homes(points)
        for start in range(0, len(vectors), _BLOCK):
            np.add.at(sums, homes[start : start + _BLOCK], normalised(vectors[start : start + _BLOCK]))
        there = np.bincount(homes, minlength=len(clusters)) > 0
        centres[there] = sums[there]
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        return _Nearness(axes, clusters, centres.astype(np.float32))

    def spread(self, found: Candidates, spreading: Any) -> Spread:
        """See Method."""
        vectors = embeddings(found.table)
        ids, ranks, there = found.ids, found.ranks, with_direction(vectors)
        if not there.all():
            ids, ranks, vectors = ids[there], ranks[there], vectors[there]
        points = project(vectors, spreading.directions[:, : spreading.cells.directions])
        row, cell, home = spreading.cells.visits(points, spreading.width)
        homes = np.zeros(len(points), np.int64)
        homes[row[home]] = cell[home]
        row, bucket = once(row, spreading.cells.groups[cell])
        rows = np.zeros(len(row), vector_row(vectors.shape[1]))
        rows["id"], rows["rank"], rows["cell"], rows["vector"] = (
            ids[row],
            ranks[row],
            homes[row],
            vectors[row],
        )
        return Spread(bucket, rows)

    def dtype(self, comparing: Any) -> np.dtype[Any]:
        """See Method."""
        return vector_row(len(comparing.directions))

    def compare(self, bucket: int, pieces: Iterable[Rows], comparing: Any) -> Compared:
        """See Method."""
        edges, comparisons = None, 0
        for rows in self._turns(bucket, pieces, comparing):
            found = self._compared(bucket, rows, rows, comparing, edges)
            edges = found.edges if edges is None else best_edges(np.concatenate([edges, found.edges]))
            comparisons += found.comparisons
        return Compared(no_edges() if edges is None else edges, comparisons)

    def compare_blocks(self, bucket: int, asking: Rows, answering: Rows, comparing: Any) -> Compared:
        """See Method."""
        return self._compared(bucket, [asking], [answering], comparing)

    def at_home(self, bucket: int, rows: Rows, comparing: Any) -> Flags:
        """See Method."""
        home: Flags = comparing.cells.groups[rows["cell"]] == bucket
        return home

    def pairs(self, few: Rows, rows: Rows, comparing: Any) -> Pairs:
        """See Method."""
        del comparing
        if not self.between:
            return self._pairs(few, rows)
        ours, mine = may_be_removed(few), may_be_removed(rows)  # the few may all be of one of the datasets
        return np.concatenate([self._pairs(few[ours], rows[~mine]), self._pairs(few[~ours], rows[mine])])

    @classmethod
    def told(cls, similarity: float) -> str:
        """See Method."""
        return f"a cosine similarity of {similarity:.4f} to"

    def _pairs(self, few: Rows, rows: Rows) -> Pairs:
        """See `pairs`, whichever dataset rows are of."""
        limits = np.asarray(self.bands, np.float32)
        found, mine = [no_pairs()], normalised(few["vector"])
        # A product of matrices rounds by the place in it, and rows come in any order. So it only says which pairs are far from a
        # limit: of the others, and of those to show, which are few, the similarity is computed again.
        rounding = np.float32(mine.shape[1] * 2.0**-23)
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            products = mine @ normalised(some["vector"]).T
            near = (products >= limits[-1] - rounding) & (few["id"][:, None] != some["id"][None, :])
            row, column = np.divmod(np.flatnonzero(near), len(some))
            similarity = products[row, column].astype(np.float64)
            unsure = (np.abs(similarity[:, None] - limits) <= rounding).any(axis=1)
            similarity[unsure] = similarities(few["vector"], row[unsure], some["vector"], column[unsure])
            near_ones = pairs_of(few["id"][row], some["id"][column], self._similar(similarity))
            chosen = chosen_of_few(near_ones, self.bands)
            row, column = row[chosen], column[chosen]
            similarity = self._similar(similarities(few["vector"], row, some["vector"], column))
            found.append(pairs_of(few["id"][row], some["id"][column], similarity))
        return np.concatenate(found)

    def _similar(self, values: npt.NDArray[Any]) -> Floats:
        """See `similar`; on the side of the limit where they are: float32 holds a limit near 1, and what is near it, as one."""
        found, limit = similar(values), np.float32(self.limit(self.eps))
        near = is_near(values, self.eps)
        return np.where(near, np.maximum(found, limit), np.minimum(found, np.nextafter(limit, np.float32(0))))

    def _turns(self, bucket: int, pieces: Iterable[Rows], comparing: Any) -> Iterator[list[Rows]]:
        """The rows of a bucket, as many as are held at once: each time all that are at home in it, and some of the visitors."""
        most = self.block_rows or 0
        if sum(map(len, pieces)) <= most:
            yield list(pieces)
            return
        home = [piece[self.at_home(bucket, piece, comparing)] for piece in pieces]
        room = most - sum(map(len, home))
        turn: list[Rows] = []
        for piece in pieces:
            visitors = piece[~self.at_home(bucket, piece, comparing)]
            if turn and sum(map(len, turn)) + len(visitors) > room:
                yield home + turn
                turn = []
            turn.append(visitors)
        yield home + turn

    def _compared(
        self,
        number: int,
        asking: Sequence[Rows],
        answering: Sequence[Rows],
        comparing: Spreading,
        known: Edges | None = None,
    ) -> Compared:
        """Compares rows that ask with those that answer; known are the edges of those at home if these were compared before."""
        rows = in_order(asking, answering, len(comparing.directions))
        heads = rows.heads
        who = Who(rows.asks & may_be_removed(heads), rows.answers & may_stand(heads, self.between))
        bucket = Bucket(rows.vectors, project(rows.vectors, comparing.directions), comparing.first)
        points = bucket.points[:, : comparing.cells.directions]
        better = None if known is None else partners_places(heads, known)
        met = None if known is None else self.at_home(number, heads, comparing)
        meetings = comparing.cells.meetings(number, points, heads["cell"], comparing.width, met)
        found = best_partners(bucket, self.eps, meetings, who, better)
        return Compared(edges_between(heads, found.row, found.of, found.similarity), found.comparisons)
