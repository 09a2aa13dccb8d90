"""The rows of a score table for a report, a part at a time: the columns that are asked for, with a selection's verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.records import STATUSES, Removed
from beam_curate.runs import score_table
from beam_curate.runs.table_parts import TablePlace
from beam_curate.scores.judging import Flags, Texts
from beam_curate.scores.rules import Condition
from beam_curate.scores.top import Cutoff
from beam_curate.selection.rejudging import Selection, judge_rows, judgeable, read_rows, rule_columns, verdict_texts

Floats = npt.NDArray[np.float64]

RANDOM: Final = ""
"""The column of the numbers that samples are drawn by."""


class Place(NamedTuple):
    """What tells a row from all others: its shard's index, its index in the shard, and whether it is of another dataset."""

    shard_index: int
    row_index: int
    other: bool = False


class Found(NamedTuple):
    """A row that may be shown: where it is, its place among the rows of its part, its verdict, and its values by column.

    `rest` is whether it passes the rules that no slider stands for.
    """

    shard_index: int
    row_index: int
    place: int
    status: str
    reason: str
    rest: bool
    values: dict[str, float]

    @property
    def at(self) -> Place:
        """Where it is."""
        return Place(self.shard_index, self.row_index)


class Group(NamedTuple):
    """Rows of a part: (N,) arrays; `statuses` says by status which rows have it, `values` by column are NaN for none.

    `judgeable` are the rows on which rules decide, and `rest` those that pass the rules that no slider stands for.
    """

    shard_index: int
    row_index: npt.NDArray[np.int64]
    status: Texts
    reason: Texts
    statuses: Mapping[str, Flags]
    values: Mapping[str, Floats]
    judgeable: Flags
    rest: Flags

    def found(self, at: int) -> Found:
        """The row at a place."""
        values = {name: float(values[at]) for name, values in self.values.items() if name != RANDOM}
        reason, rest = self.reason[at] or "", bool(self.rest[at])
        return Found(self.shard_index, int(self.row_index[at]), at, self.status[at], reason, rest, values)


class Rows(NamedTuple):
    """Rows of a part that are judged: their numbers, and what else was read of them."""

    group: Group
    table: pa.Table


def read_group(
    selection: Selection,
    shard_index: int,
    columns: Sequence[str],
    removed: Iterable[Removed] | None = None,
    cutoff: Cutoff | None = None,
    *,
    rest: Sequence[Condition] = (),
    more: Sequence[str] = (),
) -> Rows:
    """Reads these columns of a part, and judges its rows; see `selection.rejudging.judge_rows`.

    Args:
        selection: The table and the rules; without rules the table's own verdicts count.
        shard_index: The part.
        columns: Names of numbers; `side` is the shorter of width and height.
        removed: The part's duplicates.
        cutoff: Where the top rule cuts in the part.
        rest: Rules to try beside the verdicts.
        more: Other columns to read.
    """
    asked = [name for rule in rest for name in rule.columns]
    table = read_rows(selection, shard_index, ["index", "reason", *columns, *selection.columns, *asked, *more])
    texts = verdict_texts(table, judge_rows(selection, table, removed, cutoff))
    group = make_group(shard_index, table, columns, texts["status"], texts["reason"])
    passed = group.rest
    for rule in rest:
        kept = rule.keeps(rule_columns(rule.columns, table), table.num_rows)
        passed = passed & kept.to_numpy(zero_copy_only=False)
    return Rows(group._replace(rest=passed), table)


def make_group(shard_index: int, rows: pa.Table, columns: Sequence[str], status: Texts, reason: Texts) -> Group:
    """Makes a group of rows with `index`, `status`, `step` and the columns, and draws its numbers."""
    index = rows.column("index").to_numpy().astype(np.int64)
    values = {name: _floats(rows, name) for name in columns}
    values[RANDOM] = _drawn(shard_index, index)
    statuses = {name: status == name for name in STATUSES}
    return Group(shard_index, index, status, reason, statuses, values, judgeable(rows), np.ones(len(index), bool))


def stored_scores(table: TablePlace, shard_index: int) -> tuple[str, ...]:
    """The names of the scores in a part of a score table that are numbers."""
    with table.open(shard_index) as part:
        schema = part.schema
    kinds = {name: schema.field(name).type for name in score_table.score_names(schema)}
    return tuple(name for name, kind in kinds.items() if pa.types.is_floating(kind) or pa.types.is_integer(kind))


def read_stored(table: TablePlace, shard_index: int, names: Sequence[str], places: Sequence[int]) -> pa.Table:
    """Stored columns of the rows at some places of a part, ascending, of those row groups alone that hold one."""
    found: list[pa.Table] = []
    with table.open(shard_index) as part:
        first = 0
        for group, rows in enumerate(part.group_rows):
            inside = [place - first for place in places if first <= place < first + rows]
            if inside:
                found.append(part.read_row_group(group, names).take(pa.array(inside)))
            first += rows
    return pa.concat_tables(found)


def _floats(rows: pa.Table, name: str) -> Floats:
    if name == "side":
        column = pc.min_element_wise(rows.column("width"), rows.column("height"), skip_nulls=False)
    else:
        column = rows.column(name)
    values: Floats = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _drawn(shard_index: int, index: npt.NDArray[np.int64]) -> Floats:
    """A number within 0 to 1 for each row, by its place alone. Source of the mixing: Steele et al., SplitMix, OOPSLA 2014."""
    mixed = index.astype(np.uint64) + np.uint64((shard_index << 32) + 0x9E3779B97F4A7C15 & (1 << 64) - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))).astype(np.float64) / 2.0**64
