"""What a way to find duplicates is: what is compared, which buckets a row goes to, and how a bucket is compared."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_curate.duplicates.candidates import Candidates, Flags, Nearness, Places, Rows
from beam_curate.duplicates.edges import Edges
from beam_curate.duplicates.pairs import Pairs, no_pairs

HASHES: Final = ("pixels", "perceptual", "mirrored")
"""Columns that are not in the score table: hashes of the decoded images, see `image_hashes`."""


class Spread(NamedTuple):
    """Rows, each in one or more buckets: (M,) buckets, 0 to 2^40, and (M,) records."""

    buckets: Places
    rows: Rows


class Estimate(NamedTuple):
    """What a search will cost, by its sample: buckets that a row goes to, pairs that are compared, bytes that are shuffled.

    And the part of the pairs that are alike which it will miss at most, by how pairs of the sample differ.
    """

    visits: float
    comparisons: float
    shuffled: float
    missed: float = 0.0


class Plan(NamedTuple):
    """What is settled before the search: where rows go, what a comparison needs to know, and what it will cost if that varies.

    What a comparison needs goes to every worker: it should be small. There are so many `buckets`, of which some may be empty.
    """

    buckets: int
    spreading: Any
    comparing: Any = None
    estimate: Estimate | None = None


class Compared(NamedTuple):
    """The edges of a bucket, of each row one at most, and how many pairs were compared for them."""

    edges: Edges
    comparisons: int = 0


@dataclass(frozen=True)
class Method(ABC):
    """A way to find duplicates: one file of `methods`, of which nothing else knows.

    A plan is made from a sample of the rows, if it asks for one. By it each row goes to some buckets, such that of two rows that
    are alike both are in one of them. A bucket is compared by one worker, or, if more rows are at home in it than half of
    `block_rows`, in blocks of those that ask and those that answer (`blocks`). Of each row comparing gives one edge at most, to
    the best row among those compared that is better and alike.

    Attributes:
        name: As users know it.
        place: Of two methods that find an edge the one of the lower place counts: it is the surer one.
        alike: What is alike, in a few words.
        columns: What it reads: columns of the score table, or of HASHES.
        block_rows: So many rows are in memory at once; None: a bucket of any size streams by.
        option: The name of the option that says how near duplicates are; empty if they are equal.
        measure: What a report shows of a pair, see `measured`.
        bands: Similarities, falling, between which pairs are shown.
        between: Only rows of ours are compared with rows of the other dataset; set by the search that has one.
    """

    between: bool = field(default=False, kw_only=True)

    name: ClassVar[str]
    place: ClassVar[int]
    alike: ClassVar[str]
    columns: ClassVar[Sequence[str]]
    block_rows: ClassVar[int | None] = None
    option: ClassVar[str] = ""
    measure: ClassVar[str] = "similarity"

    @property
    def value(self) -> float:
        """The value of the option."""
        return 0

    @property
    def noted(self) -> Mapping[str, float]:
        """By option, what a duplicates table says of the search."""
        return {self.option: self.value} if self.option else {}

    @classmethod
    def limit(cls, value: float) -> float:
        """The least similarity of duplicates, by the value of the option."""
        del value
        return 1

    @classmethod
    def measured(cls, similarity: float, value: float) -> str:
        """A similarity as a report shows it, beside the value of the option."""
        del value
        return f"{similarity:.4f}"

    @property
    def bands(self) -> Sequence[float]:
        """See above."""
        return ()

    def sampled(self, total: int) -> int:
        """How many of so many rows the plan needs to see."""
        del total
        return 0

    @abstractmethod
    def plan(self, total: int, sample: pa.Table) -> Plan:
        """Settles the search.

        Args:
            total: The number of rows.
            sample: `columns` of those that were sampled, by id.
        """

    @abstractmethod
    def spread(self, found: Candidates, spreading: Any) -> Spread:
        """Puts rows of a part into buckets; a row without a value to compare goes nowhere.

        Args:
            found: With `columns`.
            spreading: Of the plan.
        """

    @abstractmethod
    def dtype(self, comparing: Any) -> np.dtype[Any]:
        """The records of its rows."""

    @abstractmethod
    def compare(self, bucket: int, pieces: Iterable[Rows], comparing: Any) -> Compared:
        """The edges inside a bucket.

        Args:
            bucket: Its number.
            pieces: Its rows; they can be gone through again.
            comparing: Of the plan.
        """

    def at_home(self, bucket: int, rows: Rows, comparing: Any) -> Flags:
        """Which rows of a bucket are compared with all of it. The others are compared with these alone: they may stream by."""
        del bucket, comparing
        return np.ones(len(rows), np.bool_)

    def compare_blocks(self, bucket: int, asking: Rows, answering: Rows, comparing: Any) -> Compared:
        """The edges from rows of a bucket that ask to better ones of those that answer; a row may be in both blocks."""
        raise NotImplementedError(f"{self.name} compares buckets of any size")

    def pairs(self, few: Rows, rows: Rows, comparing: Any) -> Pairs:
        """Pairs to show of some rows with others of the same bucket, whose similarity is in one of `bands`.

        Those may be left out that `choose_pairs` leaves out.
        """
        del few, rows, comparing
        return no_pairs()

    def nearness(self, total: int, sample: pa.Table) -> Nearness | None:
        """How near embeddings are to the centres of clusters, if it has any; the arguments are those of `plan`."""
        del total, sample
        return None

    @classmethod
    @abstractmethod
    def told(cls, similarity: float) -> str:
        """What a removed sample is to another one, in words that its key follows."""


def read_pieces(pieces: Iterable[Rows], dtype: np.dtype[Any]) -> Rows:
    """All rows of a bucket."""
    return np.concatenate([np.zeros(0, dtype), *pieces])


def similar(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Similarities as edges hold them."""
    return np.minimum(np.asarray(values, np.float32), np.float32(1))
