"""What is looked for, and how: the settings of a search for duplicates, and its methods as the pipeline runs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates import exact, perceptual, semantic
from beam_curate.duplicates.candidates import CandidateRows, Candidates, Floats, embeddings, normalised
from beam_curate.duplicates.clusters import Clustering, assign
from beam_curate.duplicates.edges import Edges
from beam_curate.duplicates.image_hashes import read_hashes
from beam_curate.duplicates.spilling import BucketRange, Rows, RunReader
from beam_curate.images.decoding import MAX_PIXELS
from beam_curate.runs.table_parts import TablePlace
from beam_curate.selection.rejudging import Selection

DROP: Final = "drop"
KEEP: Final = "keep"
"""What is done with samples that are in the other dataset too: they are dropped, or only they are kept."""

_RUN_ROWS: Final = 1 << 15
_MOST_RUNS: Final = 4000
_SMALL: Final = 32  # digests and hashes take that many times fewer bytes than an embedding


@dataclass(frozen=True)
class DuplicateSearch:
    """What is looked for.

    Attributes:
        selection: Where the score table lies, and among which of its rows.
        keep_by: See CandidateRows.
        exact: Equal bytes of the image.
        pixels: Equal pixels of the decoded image.
        perceptual: Perceptual hashes that differ in at most so many of 64 bits; None: not looked for.
        clustering: Near embeddings; None: not looked for.
        against: The table of another run; then duplicates are looked for between the two datasets only, of what was kept.
        action: What is done with samples that are in `against` too, DROP or KEEP.
        max_pixels: Larger images are not decoded for `pixels` and `perceptual`.
        threads: Images that are decoded at once for these, in a process.
    """

    selection: Selection
    keep_by: str = "aesthetic"
    exact: bool = True
    pixels: bool = False
    perceptual: int | None = None
    clustering: Clustering | None = None
    against: TablePlace | None = None
    action: str = DROP
    max_pixels: int = MAX_PIXELS
    threads: int = 2

    @property
    def methods(self) -> "list[Method]":
        """The methods, surest first."""
        between = self.against is not None
        found: list[Method] = []
        if self.exact:
            found.append(Method("exact", between))
        if self.pixels:
            found.append(Method("pixels", between))
        if self.perceptual is not None:
            found.append(Method(perceptual.METHOD, between, distance=self.perceptual))
        if self.clustering is not None:
            found.append(Method(semantic.METHOD, between, clustering=self.clustering))
        return found

    @property
    def hashes(self) -> bool:
        """Whether images are to be decoded."""
        return self.pixels or self.perceptual is not None

    def rows(self, foreign: bool) -> CandidateRows:
        """The candidates of ours, or of the other dataset."""
        if foreign:
            return CandidateRows(Selection(self.table(foreign), None), foreign=True)
        return CandidateRows(self.selection, self.keep_by)

    def table(self, foreign: bool) -> TablePlace:
        """The score table of ours, or of the other dataset.

        Raises:
            ValueError: There is no other dataset.
        """
        if not foreign:
            return self.selection.table
        if self.against is None:
            raise ValueError("there is no other dataset to compare with")
        return self.against


def rows_of_run(total: int) -> int:
    """Rows of a run, and of a range of buckets: what a worker has in memory, so many times 4 KB with 768 dimensions.

    32,768 up to 131 million rows; beyond, so many that there are 4,000 runs, as every range is read from each of them.
    """
    return max(_RUN_ROWS, -(-total // _MOST_RUNS))


class Spilled(NamedTuple):
    """Rows to write, each with its bucket; `cut` as in Assignment."""

    buckets: npt.NDArray[np.int64]
    rows: Rows
    cut: int = 0


@dataclass(frozen=True)
class Method:
    """A way to find duplicates: what is put into which bucket, and what the rows of a bucket are to each other."""

    name: str
    between: bool
    distance: int = 0
    clustering: Clustering | None = None

    @property
    def columns(self) -> Sequence[str]:
        """The columns of the score table that it reads."""
        return {"exact": ["sha256"], semantic.METHOD: ["embedding"]}.get(self.name, [])

    def n_buckets(self, centroids: Floats | None) -> int:
        """How many buckets there are."""
        if self.name == semantic.METHOD:
            return len(_there(centroids))
        return perceptual.n_buckets(self.distance) if self.name == perceptual.METHOD else exact.BUCKETS

    def row_dtype(self, centroids: Floats | None) -> np.dtype[Any]:
        """The records of its runs."""
        if self.name == semantic.METHOD:
            return semantic.row_dtype(_there(centroids).shape[1])
        return perceptual.row_dtype() if self.name == perceptual.METHOD else exact.row_dtype()

    def spill(self, found: Candidates, output: str, hashes: str, centroids: Floats | None) -> Spilled:
        """The rows of a part.

        Args:
            found: Its candidates, with `columns`.
            output: Folder of the search.
            hashes: The file of the image hashes, see `image_hashes`.
            centroids: (K, D) for `semantic`.
        """
        if self.name == "exact":
            return Spilled(*exact.make_rows(found.ids, found.ranks, found.table.column("sha256").to_pylist()))
        if self.name == semantic.METHOD:
            return self._spill_embeddings(found, _there(centroids))
        table = read_hashes(output, hashes)
        if table.num_rows != len(found.ids):
            raise RuntimeError(f"{hashes} is not of these rows: the score table changed")
        if self.name == "pixels":
            return Spilled(*exact.make_rows(found.ids, found.ranks, table.column("pixels").to_pylist()))
        column = table.column("perceptual")
        there = column.is_valid().to_numpy()
        values = column.drop_null().to_numpy()
        return Spilled(*perceptual.make_rows(found.ids[there], found.ranks[there], values, self.distance))

    def _spill_embeddings(self, found: Candidates, centroids: Floats) -> Spilled:
        clustering = self.clustering or Clustering(0.0)
        vectors = embeddings(found.table)
        assigned = assign(normalised(vectors), centroids, clustering.border * clustering.distance)
        return Spilled(
            assigned.cluster, semantic.make_rows(found.ids, found.ranks, vectors, assigned.row), assigned.cut
        )

    def most_rows(self, total: int) -> int:
        """The rows of a range of buckets."""
        return rows_of_run(total) * (1 if self.name == semantic.METHOD else _SMALL)

    def compare(self, reader: RunReader, wanted: BucketRange, total: int) -> tuple[Edges, npt.NDArray[np.void]]:
        """The edges of a range of buckets, and pairs to show."""
        none = np.zeros(0, semantic.PAIR)
        if self.name == semantic.METHOD:
            comparison = semantic.Comparison((self.clustering or Clustering(0.0)).eps, self.between)
            return semantic.compare_range(reader, wanted, comparison, self.most_rows(total))
        if self.name == perceptual.METHOD:
            return perceptual.near_edges(reader, wanted, self.distance, self.between), none
        return exact.equal_edges(reader, wanted, self.name, self.between), none


def _there(centroids: Floats | None) -> Floats:
    if centroids is None:
        raise ValueError("semantic duplicates need the clusters")
    return centroids
