"""The rows of a score table for a report, a row group at a time: the columns that are asked for, as arrays."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate import score_table
from beam_curate.records import FAILED, KEPT, REJECTED
from beam_curate.rules import Condition, all_keep
from beam_curate.score_table import FOLDER
from beam_curate.table_parts import Part, finished_table
from beam_curate.threads import in_threads

Floats = npt.NDArray[np.float64]

RANDOM: Final = ""
"""The column of the numbers that samples are drawn by."""


class Group(NamedTuple):
    """A row group: (N,) arrays; `values` by column are NaN where there is none."""

    shard_index: npt.NDArray[np.int64]
    row_index: npt.NDArray[np.int64]
    status: npt.NDArray[np.object_]
    reason: npt.NDArray[np.object_]
    values: dict[str, Floats]


class Table:
    """The parts of a score table in the order of their shards.

    Attributes:
        parts: The input shards' indexes.
        scores: The names of the scores.
        rules: What decides on kept and rejected; None: the column `status`.
    """

    def __init__(self, run: str, rules: "Sequence[Condition] | None") -> None:
        """Finds the table.

        Args:
            run: The run's folder, or the folder of the score table's parts.
            rules: See above.
        """
        self._place, found = finished_table(run)
        if not found and os.path.basename(run.rstrip("/")) == FOLDER:
            self._place, found = finished_table(run.rstrip("/")[: -len(FOLDER)])
        self.parts = sorted(found)
        self.scores: tuple[str, ...] = ()
        self.rules = rules
        if self.parts:
            with self._place.open(self.parts[0]) as part:
                schema = part.schema
            names = score_table.score_names(schema)
            kinds = {name: schema.field(name).type for name in names}
            self.scores = tuple(n for n in names if pa.types.is_floating(kinds[n]) or pa.types.is_integer(kinds[n]))

    def groups(self, columns: Sequence[str]) -> Iterator[tuple[int, int, Group]]:
        """Reads these columns of all row groups: the part's index, the row group's number, and its rows, in order."""
        for number, groups in in_threads(lambda number: (number, self._read_part(number, columns)), self.parts):
            for place, group in enumerate(groups):
                yield number, place, group

    def details(self, part: int, group: int, positions: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Reads more columns of a few rows of a row group."""
        with self._place.open(part) as opened:
            return opened.read_row_group(group, columns).take(pa.array(positions)).to_pylist()

    def _read_part(self, number: int, columns: Sequence[str]) -> list[Group]:
        with self._place.open(number) as part:
            return [self._read(part, group, columns) for group in range(part.num_row_groups)]

    def _read(self, part: Part, group: int, columns: Sequence[str]) -> Group:
        """Reads these columns of a row group, decides its status by the rules, and draws its numbers."""
        wanted = {"shard_index", "index", "status", "reason", *columns}
        for rule in self.rules or ():
            wanted |= set(rule.columns)
        if "side" in wanted:
            wanted |= {"width", "height"}
        rows = part.read_row_group(group, sorted(wanted - {"side"}))
        known = {name: rows.column(name) for name in rows.column_names}
        if "side" in wanted:
            known["side"] = pc.min_element_wise(rows.column("width"), rows.column("height"), skip_nulls=False)
        status = rows.column("status").to_numpy(zero_copy_only=False)
        if self.rules is not None:
            keeps = all_keep(self.rules, known, rows.num_rows)
            status = np.where(status == FAILED, FAILED, np.where(keeps, KEPT, REJECTED)).astype(object)
        shard_index, index = (rows.column(name).to_numpy().astype(np.int64) for name in ("shard_index", "index"))
        values = {name: _floats(known[name]) for name in columns}
        values[RANDOM] = _drawn(shard_index, index)
        return Group(shard_index, index, status, rows.column("reason").to_numpy(zero_copy_only=False), values)


def _floats(column: Any) -> Floats:
    values: Floats = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _drawn(shard_index: npt.NDArray[np.int64], index: npt.NDArray[np.int64]) -> Floats:
    """A number within 0 to 1 for each row, by its place alone. Source of the mixing: Steele et al., SplitMix, OOPSLA 2014."""
    mixed = (shard_index.astype(np.uint64) << np.uint64(32)) + index.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))).astype(np.float64) / 2.0**64
