"""What a selection would keep, rule by rule, from a score table's columns alone."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate import top
from beam_curate.records import FAILED
from beam_curate.rejudging import Selection, judgeable, read_rows, rule_columns
from beam_curate.tar_format import BLOCK
from beam_curate.top import Cutoff, TopRule

_THREADS: Final = 8  # reading is waiting, where the table lies on an object store

Flags = npt.NDArray[np.bool_]


@dataclass
class Tally:
    """Samples that are kept, and their bytes in output shards: headers and padding included, long names not."""

    samples: int = 0
    size: int = 0

    def add(self, kept: Flags, sizes: npt.NDArray[np.int64]) -> None:
        """Counts the rows that are kept."""
        self.samples += int(kept.sum())
        self.size += int(sizes[kept].sum())


@dataclass
class Line:
    """A rule: what it keeps alone, and what is left after it and all rules before it."""

    rule: str
    alone: Tally = field(default_factory=Tally)
    together: Tally = field(default_factory=Tally)


@dataclass
class Preview:
    """What a selection would keep.

    Attributes:
        failed: Samples that failed, which no rule brings back.
        screened: Samples that were rejected before inference, which have no embedding: neither does it bring these back.
        everything: All others.
        lines: One for each rule, in the order in which they are tried.
        cutoffs: Of the top rule after all others, by shard index; empty where there is none.
    """

    failed: int
    screened: int
    everything: Tally
    lines: list[Line]
    cutoffs: dict[int, Cutoff] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """The rows of a part that did not fail: bytes, what each rule says, and the sort keys of the top rule's column."""

    failed: int
    screened: int
    sizes: npt.NDArray[np.int64]
    verdicts: Sequence[Flags]
    keys: npt.NDArray[np.uint64]
    present: Flags


def preview(selection: Selection, shards: Sequence[int]) -> Preview:
    """Tries the rules on all parts of the table.

    Reads the columns that the rules need, and the members' sizes. Memory: about 20 bytes a row, and a byte a rule.

    Args:
        selection: The source and the rules.
        shards: The indexes of its parts.
    """
    selection.set_up()
    threads = 1 if selection.own else _THREADS  # a scorer of the user's own need not bear several
    with ThreadPoolExecutor(threads, thread_name_prefix="preview") as pool:
        parts = list(pool.map(lambda shard: _read(selection, shard), shards))
    lines = [Line(_words(rule.columns, rule.wanted)) for rule in selection.rules or ()]
    failed, screened = sum(part.failed for part in parts), sum(part.screened for part in parts)
    found = Preview(failed, screened, Tally(), lines)
    left = []
    for part in parts:
        keeps = np.ones(len(part.sizes), np.bool_)
        found.everything.add(keeps, part.sizes)
        for line, verdict in zip(lines, part.verdicts, strict=True):
            keeps = keeps & verdict
            line.alone.add(verdict, part.sizes)
            line.together.add(keeps, part.sizes)
        left.append(keeps)
    if selection.top is not None:
        line = Line(selection.top.words)
        lines.append(line)
        for tally, flags in ((line.alone, [part.present for part in parts]), (line.together, left)):
            cutoffs, chosen = _best(selection.top, parts, flags)
            for part, best in zip(parts, chosen, strict=True):
                tally.add(best, part.sizes)
        found.cutoffs = dict(zip(shards, cutoffs, strict=True))
    return found


def _words(columns: Sequence[str], wanted: str) -> str:
    return wanted if any(column in wanted for column in columns) else f"{', '.join(columns)} {wanted}"


def _read(selection: Selection, shard: int) -> _Part:
    table = read_rows(selection, shard, [*selection.columns, "members"])
    rows = table.filter(pa.array(judgeable(table)))
    columns = rule_columns(selection.columns, rows)
    verdicts = [rule.keeps(columns, rows.num_rows).to_numpy(zero_copy_only=False) for rule in selection.rules or ()]
    keys, present = np.zeros(rows.num_rows, np.uint64), np.ones(rows.num_rows, np.bool_)
    if selection.top is not None:
        keys, present = top.sort_keys(columns[selection.top.column])
    failed = pc.sum(pc.equal(table.column("status"), FAILED)).as_py() or 0
    return _Part(failed, table.num_rows - rows.num_rows - failed, _sizes(rows), verdicts, keys, present)


def _sizes(rows: pa.Table) -> npt.NDArray[np.int64]:
    """The bytes of each row's members in a tar: a header each, and the body in whole blocks."""
    members = rows.column("members").combine_chunks()
    bodies = members.flatten().field("size").to_numpy(zero_copy_only=False)
    ends = np.cumsum(np.append(0, BLOCK + -(-bodies // BLOCK) * BLOCK)).astype(np.int64)
    counts = members.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    borders = np.append(0, np.cumsum(counts))
    sizes: npt.NDArray[np.int64] = np.diff(ends[borders])
    return sizes


def _best(rule: TopRule, parts: Sequence[_Part], flags: Sequence[Flags]) -> tuple[list[Cutoff], list[Flags]]:
    """The top rule's cutoff and the rows that it keeps of those flagged, part by part."""
    chosen = [flag & part.present for part, flag in zip(parts, flags, strict=True)]
    keys = [part.keys[choice] for part, choice in zip(parts, chosen, strict=True)]
    cutoff = Cutoff()
    for _ in range(top.PASSES):
        counts: Counter[int] = Counter()
        for one in keys:
            counts.update(top.count_digits(one, cutoff))
        cutoff = top.narrow(cutoff, counts, rule)
    shares = top.allot(cutoff, [(number, count) for number, one in enumerate(keys) if (count := top.ties(one, cutoff))])
    cutoffs = [top.share(cutoff, shares, number) for number in range(len(parts))]
    for choice, one, own in zip(chosen, keys, cutoffs, strict=True):
        choice[choice] = top.among_top(one, own)
    return cutoffs, chosen
