"""The rows of a score table with the verdicts that a selection would give them, and with the scores that it adds."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_curate.records import KEPT, REJECTED
from beam_curate.report.preview import Preview, Reasons
from beam_curate.report.table import Group, make_group, stored_columns, stored_scores
from beam_curate.scores.top import Cutoff, among_top, sort_keys
from beam_curate.selection.rejudging import Selection, judgeable, read_rows, rule_columns

_Objects = npt.NDArray[np.object_]


class SelectedRows:
    """What a selection would make of a score table, a part at a time.

    Args:
        selection: What decides; its scorers are set up.
        shards: The indexes of the table's parts.
        found: What `preview.preview` found: duplicates, and where the top rule cuts.
    """

    def __init__(self, selection: Selection, shards: Sequence[int], found: Preview) -> None:
        self._selection = selection
        self._shards = shards
        self._found = found
        stored = stored_scores(selection.table, shards[0]) if shards else ()
        self.scores: tuple[str, ...] = (*stored, *selection.added)

    @property
    def parts(self) -> int:
        """The number of parts."""
        return len(self._shards)

    def groups(self, columns: Sequence[str]) -> Iterator[Group]:
        """Reads these columns and judges, part by part."""
        for shard in self._shards:
            rows = read_rows(
                self._selection,
                shard,
                [*stored_columns(columns), *self._selection.columns],
            )
            removed, cutoff = self._found.removed.get(shard), self._found.cutoffs.get(shard)
            status, reason = _verdicts(self._selection, rows, removed, cutoff)
            details = functools.partial(_details, self._selection, shard)
            yield make_group(rows, columns, status, reason, details)


def _verdicts(
    selection: Selection, table: pa.Table, removed: Reasons | None, cutoff: Cutoff | None
) -> tuple[_Objects, _Objects]:
    """Status and reason of each row: of rows without an embedding as they are, of the others by the rules."""
    status, reason = (np.array(table.column(name).to_pylist(), object) for name in ("status", "reason"))
    good = judgeable(table)
    rows = table.filter(pa.array(good))
    columns = rule_columns(selection.columns, rows)
    keeps = np.ones(rows.num_rows, np.bool_)
    why = np.full(rows.num_rows, None, object)
    for rule in selection.rules or ():
        passed = rule.keeps(columns, rows.num_rows).to_numpy(zero_copy_only=False)
        why[keeps & ~passed] = rule.reason
        keeps &= passed
    if removed is not None:
        rows_removed = np.searchsorted(np.flatnonzero(good), removed[0])
        keeps[rows_removed], why[rows_removed] = False, removed[1]
    if selection.top is not None and cutoff is not None:
        keys, present = sort_keys(columns[selection.top.column])
        best = keeps & present
        best[best] = among_top(keys[best], cutoff)
        why[keeps & ~best] = selection.top.reason
        keeps = best
    status[good] = np.where(keeps, KEPT, REJECTED)
    reason[good] = why
    return status, reason


def _details(selection: Selection, shard: int, names: Sequence[str], positions: Sequence[int]) -> list[dict[str, Any]]:
    rows = read_rows(selection, shard, names)
    found: list[dict[str, Any]] = rows.select(list(names)).take(pa.array(positions)).to_pylist()
    return found
