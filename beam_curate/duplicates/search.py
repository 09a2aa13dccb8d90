"""What is looked for, and how: the settings of a search for duplicates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_curate.duplicates.candidates import EASY, HARD, CandidateRows, Candidates, Flags, Ids, Nearness, scattered
from beam_curate.duplicates.image_hashes import COLUMNS, hashes_name, make_hashes
from beam_curate.duplicates.method import HASHES, Estimate, Method, Plan
from beam_curate.duplicates.methods.exact import Exact
from beam_curate.images.decoding import MAX_PIXELS
from beam_curate.runs.table_parts import TablePlace
from beam_curate.selection.rejudging import Selection

DROP: Final = "drop"
KEEP: Final = "keep"
"""What is done with samples that are in the other dataset too: they are dropped, or only they are kept."""

MOST_COMPARISONS: Final = 1e14
"""More comparisons are refused: some 280 hours of a core."""
SECONDS_EACH: Final = 1e-8
"""Of a core for a comparison, with all that belongs to comparing a bucket: 7.3 nanoseconds were measured at an eps of 0.01 and
7.8 at 0.05, in the steps that compare the 300,000 rows of `benchmarks/dedup.py`, with one thread on an AMD EPYC."""
MOST_MISSED: Final = 1e-3
"""A search that will miss a larger part of the near pairs warns."""


class TooManyComparisonsError(ValueError):
    """A search that would cost more than was allowed."""


class Learned(NamedTuple):
    """What is settled before the search, from a sample: the plan of each method, and what `hard` and `easy` rank by."""

    plans: Sequence[Plan]
    nearness: Nearness | None


@dataclass(frozen=True)
class DuplicateSearch:
    """What is looked for.

    Attributes:
        selection: Where the score table lies, and among which of its rows.
        methods: What a duplicate is, see `duplicates.methods`.
        keep_by: See CandidateRows.
        against: The table of another run; then duplicates are looked for between the two datasets only, of what was kept.
        action: What is done with samples that are in `against` too, DROP or KEEP.
        max_comparisons: A method that needs more, by its estimate, is refused before the search.
        max_pixels: Larger images are not decoded, for methods that compare pixels.
        threads: Images that are decoded at once for these, in a process.
    """

    selection: Selection
    methods: Sequence[Method] = field(default_factory=lambda: (Exact(),))
    keep_by: str = "aesthetic"
    against: TablePlace | None = None
    action: str = DROP
    max_comparisons: float = MOST_COMPARISONS
    max_pixels: int = MAX_PIXELS
    threads: int = 2

    def __post_init__(self) -> None:
        between = self.against is not None
        object.__setattr__(self, "methods", tuple(replace(method, between=between) for method in self.methods))

    @property
    def columns(self) -> list[str]:
        """The columns that the methods compare, each once."""
        return list(dict.fromkeys(name for method in self.methods for name in method.columns))

    @property
    def decodes(self) -> bool:
        """Whether images are to be decoded."""
        return any(name in HASHES for name in self.columns)

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

    def sampled(self, total: int) -> int:
        """How many of so many rows are looked at before the search."""
        return max((method.sampled(total) for method in self.methods), default=0)

    def learn(self, total: int, sample: pa.Table) -> Learned:
        """Settles the search.

        Args:
            total: The number of rows.
            sample: `columns` of those that were sampled, but HASHES, by id.

        Raises:
            TooManyComparisonsError: It would cost too much.
        """
        plans = [method.plan(total, sample) for method in self.methods]
        for method, plan in zip(self.methods, plans, strict=True):
            if plan.estimate is not None and plan.estimate.comparisons > self.max_comparisons:
                raise TooManyComparisonsError(
                    f"{told(method, total, plan.estimate)}; that is more than `max_comparisons` {self.max_comparisons:g}: give "
                    "a smaller `eps` or fewer samples, or raise it"
                )
        nearness = None
        if self.keep_by in (HARD, EASY):
            found = (method.nearness(total, sample) for method in self.methods)
            nearness = next((one for one in found if one is not None), None)
        return Learned(plans, nearness)

    def read(self, shard_index: int, foreign: bool, output: str, nearness: Nearness | None) -> Candidates:
        """The candidates of a part, with the columns that the methods compare; images are decoded where they need it.

        Args:
            shard_index: The part.
            foreign: Whether it is of the other dataset.
            output: Folder of the search, where the hashes of images lie.
            nearness: What `hard` and `easy` rank by.
        """
        stored = [name for name in self.columns if name not in HASHES]
        wanted = [*stored, *(name for name in COLUMNS if self.decodes and name not in stored)]
        found = self.rows(foreign).read(shard_index, wanted, nearness)
        if not self.decodes:
            return found
        name = hashes_name(shard_index, foreign)
        hashes = make_hashes(output, name, found.table.select(list(COLUMNS)), self.max_pixels, self.threads)
        table = found.table.select(stored)
        for column in HASHES:
            table = table.append_column(column, hashes.column(column))
        return Candidates(found.ids, found.ranks, table)


def in_sample(ids: Ids, wanted: int, total: int) -> Flags:
    """Says which rows are in the sample: by their id alone, about so many of all."""
    share = min(1.0, wanted / max(total, 1))
    found: npt.NDArray[np.bool_] = scattered(ids) <= np.uint64(min(int(share * 2.0**64), (1 << 64) - 1))
    return found


def told(method: Method, total: int, estimate: Estimate) -> str:
    """What a search by a method will cost, in words."""
    hours = estimate.comparisons * SECONDS_EACH / 3600
    seconds = math.ceil(hours * 3600)
    time = f"{hours:,.1f} hours" if hours >= 1 else f"{seconds:,} second{'' if seconds == 1 else 's'}"
    many = f"up to {estimate.missed:.1%}" if estimate.missed > MOST_MISSED else "less than one in a thousand"
    return (
        f"{method.name}: {total:,} rows in {estimate.visits:.1f} buckets each, {estimate.shuffled / 1e9:,.1f} GB to shuffle, "
        f"about {estimate.comparisons:.2g} comparisons ({time} of one core); it misses {many} of the near pairs"
    )
