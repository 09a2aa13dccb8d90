"""What a selection would keep, rule by rule, from a score table's columns alone: of a part, and of parts together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.duplicates.removal import Duplicates
from beam_curate.duplicates.search import DROP
from beam_curate.records import FAILED, Removed
from beam_curate.scores.judging import Flags
from beam_curate.scores.top import Cutoff
from beam_curate.selection.rejudging import Selection, judge_rows, judgeable, read_rows
from beam_curate.tars.headers import BLOCK


@dataclass(frozen=True)
class Tally:
    """Samples that are kept, and their bytes in output shards: headers and padding included, long names not."""

    samples: int = 0
    size: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.samples + other.samples, self.size + other.size)


Range = tuple[float, float]
"""The smallest and the largest value of a column."""


@dataclass(frozen=True)
class Line:
    """A rule: what it keeps alone, and what is left after it and all rules before it.

    Attributes:
        rule: The rule in words.
        alone: What it keeps of all samples that did not fail.
        together: What it and all rules before it keep.
        ranges: Of each column with numbers that it reads, over the samples that did not fail; those without a value do not count.
    """

    rule: str
    alone: Tally = Tally()
    together: Tally = Tally()
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def __add__(self, other: "Line") -> "Line":
        ranges = dict(self.ranges)
        for column, (lowest, highest) in other.ranges.items():
            low, high = ranges.get(column, (lowest, highest))
            ranges[column] = min(low, lowest), max(high, highest)
        return Line(self.rule, self.alone + other.alone, self.together + other.together, ranges)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Line":
        """What `Preview.to_json` made of it."""
        ranges = {column: (lowest, highest) for column, (lowest, highest) in found["ranges"].items()}
        return cls(found["rule"], Tally(**found["alone"]), Tally(**found["together"]), ranges)


@dataclass(frozen=True)
class Preview:
    """What a selection would keep of some parts; previews add up.

    Attributes:
        failed: Samples that failed, which no rule brings back.
        screened: Samples that were rejected before inference, which have no embedding: neither does it bring these back.
        everything: All others.
        lines: One for each rule, in the order in which they are tried.
    """

    failed: int
    screened: int
    everything: Tally
    lines: Sequence[Line]

    def __add__(self, other: "Preview") -> "Preview":
        lines = [one + two for one, two in zip(self.lines, other.lines, strict=True)]
        everything = self.everything + other.everything
        return Preview(self.failed + other.failed, self.screened + other.screened, everything, lines)

    def to_json(self) -> dict[str, object]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Preview":
        """What `to_json` gave."""
        lines = [Line.from_json(line) for line in found["lines"]]
        return cls(found["failed"], found["screened"], Tally(**found["everything"]), lines)


def empty_preview(selection: Selection, duplicates: Duplicates | None = None) -> Preview:
    """That of no part."""
    lines = [Line(_words(rule.columns, rule.wanted)) for rule in selection.rules or ()]
    if duplicates is not None:
        lines.append(Line("not a duplicate" if duplicates.action == DROP else "in the other dataset"))
    if selection.top is not None:
        lines.append(Line(selection.top.words))
    return Preview(0, 0, Tally(), lines)


def preview_part(
    selection: Selection,
    shard_index: int,
    duplicates: Duplicates | None = None,
    removed: tuple[Sequence[Removed], Sequence[Removed]] = ((), ()),
    cutoffs: tuple[Cutoff | None, Cutoff | None] = (None, None),
) -> Preview:
    """Tries the rules on a part; reads the columns that they need, and the members' sizes.

    Args:
        selection: The source and the rules, with its scorers set up.
        shard_index: The part.
        duplicates: The duplicates to reject; None for none.
        removed: The part's duplicates among what the rules on each row keep, and among all rows.
        cutoffs: Where the top rule cuts in the part, after all other rules and without them.
    """
    table = read_rows(selection, shard_index, [*selection.columns, "members"])
    rows, sizes = judgeable(table), _sizes(table)

    def tally(kept: Flags) -> Tally:
        return Tally(int(kept.sum()), int(sizes[kept].sum()))

    def alone(some: Selection, gone: Sequence[Removed] | None = None, cutoff: Cutoff | None = None) -> Tally:
        return tally(judge_rows(some, table, gone, cutoff).kept)

    bare = replace(selection, rules=(), top=None)
    by_rule = [alone(replace(bare, rules=[rule])) for rule in selection.rules or ()]
    if duplicates is not None:
        by_rule.append(alone(bare, removed[1]))
    if selection.top is not None:
        by_rule.append(alone(replace(selection, rules=()), None, cutoffs[1]))
    left = judge_rows(selection, table, None if duplicates is None else removed[0], cutoffs[0]).left
    empty = empty_preview(selection, duplicates)
    ranges = [_ranges(table.filter(rows), rule.columns) for rule in selection.rules or ()]
    ranges += [{}] * (len(empty.lines) - len(ranges))
    lines = [
        Line(line.rule, one, tally(both), found)
        for line, one, both, found in zip(empty.lines, by_rule, left, ranges, strict=True)
    ]
    failed = pc.sum(pc.equal(table.column("status"), FAILED)).as_py() or 0
    return Preview(failed, table.num_rows - int(rows.sum()) - failed, tally(rows), lines)


def _ranges(rows: pa.Table, columns: Sequence[str]) -> dict[str, Range]:
    """The ranges of those of the columns that hold numbers, as far as there are any."""
    found = {}
    for column in columns:
        values = rows.column(column) if column in rows.column_names else None
        if values is None or not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
            continue
        there = pc.cast(values, pa.float64()).drop_null().to_numpy()
        there = there[np.isfinite(there)]
        if len(there):
            found[column] = float(there.min()), float(there.max())
    return found


def _words(columns: Sequence[str], wanted: str) -> str:
    return wanted if any(column in wanted for column in columns) else f"{', '.join(columns)} {wanted}"


def _sizes(rows: pa.Table) -> npt.NDArray[np.int64]:
    """The bytes of each row's members in a tar: a header each, and the body in whole blocks."""
    members = rows.column("members").combine_chunks()
    bodies = members.flatten().field("size").to_numpy(zero_copy_only=False)
    ends = np.cumsum(np.append(0, BLOCK + -(-bodies // BLOCK) * BLOCK)).astype(np.int64)
    counts = members.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    borders = np.append(0, np.cumsum(counts))
    sizes: npt.NDArray[np.int64] = np.diff(ends[borders])
    return sizes
