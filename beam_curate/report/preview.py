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

from beam_curate import reasons
from beam_curate.duplicates.candidates import FOREIGN, firsts
from beam_curate.duplicates.removal import REASONS, Duplicates
from beam_curate.duplicates.search import DROP, KEEP
from beam_curate.duplicates.table import among, read_part
from beam_curate.records import FAILED
from beam_curate.scores import top
from beam_curate.scores.top import Cutoff, TopRule
from beam_curate.selection.rejudging import Selection, judgeable, read_rows, rule_columns
from beam_curate.tars.headers import BLOCK

_THREADS: Final = 8  # reading is waiting, where the table lies on an object store

Flags = npt.NDArray[np.bool_]
Reasons = tuple[npt.NDArray[np.int64], npt.NDArray[np.object_]]
"""(N,) places of rows in a part, and (N,) why each is rejected."""


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
        removed: The places of the rows that are rejected as duplicates, and their reasons, by shard index.
        cutoffs: Of the top rule after all others, by shard index; empty where there is none.
    """

    failed: int
    screened: int
    everything: Tally
    lines: list[Line]
    removed: dict[int, Reasons] = field(default_factory=dict)
    cutoffs: dict[int, Cutoff] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """The rows of a part that did not fail: bytes, what each rule says, and the sort keys of the top rule's column.

    `places` are those of the rows in the part, and `members` the rows in groups of duplicates, `at` their number among these.
    """

    failed: int
    screened: int
    sizes: npt.NDArray[np.int64]
    verdicts: Sequence[Flags]
    keys: npt.NDArray[np.uint64]
    present: Flags
    places: npt.NDArray[np.int64]
    members: pa.Table | None
    at: npt.NDArray[np.int64]


def preview(selection: Selection, shards: Sequence[int], duplicates: Duplicates | None = None) -> Preview:
    """Tries the rules on all parts of the table.

    Reads the columns that the rules need, and the members' sizes. Memory: about 30 bytes a row, and a byte a rule.

    Args:
        selection: The source and the rules.
        shards: The indexes of its parts.
        duplicates: The duplicates to reject.
    """
    selection.set_up()
    threads = 1 if selection.own else _THREADS  # a scorer of the user's own need not bear several
    with ThreadPoolExecutor(threads, thread_name_prefix="preview") as pool:
        parts = list(pool.map(lambda shard: _read(selection, shard, duplicates), shards))
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
    if duplicates is not None:
        line = Line("not a duplicate" if duplicates.action == DROP else "in the other dataset")
        lines.append(line)
        whole = [np.ones(len(part.sizes), np.bool_) for part in parts]
        for tally, flags in ((line.alone, whole), (line.together, left)):
            removed = _remove(parts, flags, duplicates.action)
            for part, keeps, rows in zip(parts, flags, removed, strict=True):
                keeps[rows[0]] = False
                tally.add(keeps, part.sizes)
        places = ((part.places[rows[0]], rows[1]) for part, rows in zip(parts, removed, strict=True))
        found.removed = dict(zip(shards, places, strict=True))
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


def _read(selection: Selection, shard: int, duplicates: Duplicates | None) -> _Part:
    table = read_rows(selection, shard, [*selection.columns, "members", *(["index"] if duplicates else [])])
    good = judgeable(table)
    rows = table.filter(pa.array(good))
    columns = rule_columns(selection.columns, rows)
    verdicts = [rule.keeps(columns, rows.num_rows).to_numpy(zero_copy_only=False) for rule in selection.rules or ()]
    keys, present = np.zeros(rows.num_rows, np.uint64), np.ones(rows.num_rows, np.bool_)
    if selection.top is not None:
        keys, present = top.sort_keys(columns[selection.top.column])
    failed = pc.sum(pc.equal(table.column("status"), FAILED)).as_py() or 0
    screened = table.num_rows - rows.num_rows - failed
    members, at = None, np.zeros(0, np.int64)
    if duplicates is not None:
        members, at = among(read_part(duplicates.folder, shard), rows.column("index"))
    return _Part(failed, screened, _sizes(rows), verdicts, keys, present, np.flatnonzero(good), members, at)


def _remove(parts: Sequence[_Part], flags: Sequence[Flags], action: str) -> list[Reasons]:
    """The flagged rows of each part that are rejected as duplicates, and why, as `removal` decides."""
    if action == KEEP:
        found = []
        for part, flag in zip(parts, flags, strict=True):
            shared = np.zeros(len(flag), np.bool_)
            shared[part.at] = True
            rows = np.flatnonzero(flag & ~shared)
            found.append((rows, np.full(len(rows), reasons.NOT_IN_OTHER, object)))
        return found
    tables = [part.members for part in parts if part.members is not None]
    members = pa.concat_tables(tables)
    owner = np.repeat(np.arange(len(parts)), [table.num_rows for table in tables])
    at = np.concatenate([one.at for one in parts])
    left = np.concatenate([flag[one.at] for one, flag in zip(parts, flags, strict=True)])
    group, place = (members.column(name).to_numpy() for name in ("group", "place"))
    order = np.lexsort((place, group, ~left))[: int(left.sum())]
    best = firsts(group[order]) & ((group[order] & FOREIGN) == 0)
    gone = order[~best]
    why = np.array([REASONS[method or "exact"] for method in members.column("method").take(gone).to_pylist()], object)
    return [(at[gone[owner[gone] == number]], why[owner[gone] == number]) for number in range(len(parts))]


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
