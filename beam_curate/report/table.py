"""The rows of a score table for a report, a row group at a time: the columns that are asked for, as arrays."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.runs import score_table
from beam_curate.runs.score_table import FOLDER
from beam_curate.runs.table_parts import TablePlace, finished_table
from beam_curate.threads import in_threads

Floats = npt.NDArray[np.float64]

RANDOM: Final = ""
"""The column of the numbers that samples are drawn by."""


class Group(NamedTuple):
    """Some rows, all of one part: (N,) arrays; `values` by column are NaN where there is none.

    `details` reads stored columns of the rows at these positions, ascending: names and positions in, a dict each out.
    """

    shard_index: npt.NDArray[np.int64]
    row_index: npt.NDArray[np.int64]
    status: npt.NDArray[np.object_]
    reason: npt.NDArray[np.object_]
    values: dict[str, Floats]
    details: Callable[[Sequence[str], Sequence[int]], list[dict[str, Any]]]


class Rows(Protocol):
    """What a report tells of: a score table with its verdicts."""

    @property
    def parts(self) -> int:
        """The number of the table's parts."""

    @property
    def scores(self) -> Sequence[str]:
        """The names of the scores, all of them numbers."""

    def groups(self, columns: Sequence[str]) -> Iterator[Group]:
        """Reads these columns of all rows, in the order of the parts; `side` is the shorter of width and height."""


class Table:
    """The score table of a run, a row group at a time.

    Attributes:
        place: Where it lies.
        numbers: The input shards' indexes.
        scores: The names of the scores.
    """

    def __init__(self, run: str) -> None:
        """Finds the table.

        Args:
            run: The run's folder, or the folder of the score table's parts.
        """
        self.place, found = finished_table(run)
        if not found and os.path.basename(run.rstrip("/")) == FOLDER:
            self.place, found = finished_table(run.rstrip("/")[: -len(FOLDER)])
        self.numbers = sorted(found)
        self.scores: tuple[str, ...] = stored_scores(self.place, self.numbers[0]) if found else ()

    @property
    def parts(self) -> int:
        """The number of parts."""
        return len(self.numbers)

    def groups(self, columns: Sequence[str]) -> Iterator[Group]:
        """Reads these columns of all row groups, in order."""
        for groups in in_threads(lambda number: self._read_part(number, columns), self.numbers):
            yield from groups

    def _read_part(self, number: int, columns: Sequence[str]) -> list[Group]:
        wanted = sorted(stored_columns(columns))
        found = []
        with self.place.open(number) as part:
            for group in range(part.num_row_groups):
                rows = part.read_row_group(group, wanted)
                status, reason = (rows.column(name).to_numpy(zero_copy_only=False) for name in ("status", "reason"))
                details = functools.partial(_details, self.place, number, group)
                found.append(make_group(rows, columns, status, reason, details))
        return found


def stored_scores(table: TablePlace, shard_index: int) -> tuple[str, ...]:
    """The names of the scores in a part of a score table that are numbers."""
    with table.open(shard_index) as part:
        schema = part.schema
    kinds = {name: schema.field(name).type for name in score_table.score_names(schema)}
    return tuple(name for name, kind in kinds.items() if pa.types.is_floating(kind) or pa.types.is_integer(kind))


def stored_columns(columns: Sequence[str]) -> list[str]:
    """The columns of a score table from which `make_group` makes these."""
    return [*({"shard_index", "index", "status", "reason", "width", "height", *columns} - {"side"})]


def make_group(
    rows: pa.Table,
    columns: Sequence[str],
    status: npt.NDArray[np.object_],
    reason: npt.NDArray[np.object_],
    details: Callable[[Sequence[str], Sequence[int]], list[dict[str, Any]]],
) -> Group:
    """Makes a group of rows with `stored_columns`, and draws its numbers."""
    shard_index, index = (rows.column(name).to_numpy().astype(np.int64) for name in ("shard_index", "index"))
    side = pc.min_element_wise(rows.column("width"), rows.column("height"), skip_nulls=False)
    values = {name: _floats(side if name == "side" else rows.column(name)) for name in columns}
    values[RANDOM] = _drawn(shard_index, index)
    return Group(shard_index, index, status, reason, values, details)


def _details(
    table: TablePlace, number: int, group: int, names: Sequence[str], positions: Sequence[int]
) -> list[dict[str, Any]]:
    with table.open(number) as part:
        found: list[dict[str, Any]] = part.read_row_group(group, list(names)).take(pa.array(positions)).to_pylist()
    return found


def _floats(column: Any) -> Floats:
    values: Floats = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _drawn(shard_index: npt.NDArray[np.int64], index: npt.NDArray[np.int64]) -> Floats:
    """A number within 0 to 1 for each row, by its place alone. Source of the mixing: Steele et al., SplitMix, OOPSLA 2014."""
    mixed = (shard_index.astype(np.uint64) << np.uint64(32)) + index.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))).astype(np.float64) / 2.0**64
