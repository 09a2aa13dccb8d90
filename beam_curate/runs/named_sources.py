"""Which tars a score table may make a command read: those of its run's own list of input shards, and spans that can be.

A table's rows say where their bytes lie, and packing follows them. A row that names another file than the input shard of its
part is refused wherever its place is read, so a table that was changed leads nowhere but to what its run was given.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_curate.records import Shard
from beam_curate.runs.run_files import INPUT_SHARDS
from beam_curate.runs.score_table import AGAIN, ScoreTableError
from beam_curate.runs.state_files import input_shards
from beam_curate.storage.files import exists, join
from beam_curate.tars.headers import BLOCK

_COLUMN: Final = "shard"


def check_rows(scores: str, path: str, shard_index: int, rows: pa.Table) -> None:
    """Checks those columns of rows that say where bytes lie: `shard`, `shard_index` and `members`.

    Args:
        scores: The folder of the run that made the table. Without a list of shards, as in a pipeline of the user's own,
            nothing is checked.
        path: The file that the rows are of, for the message.
        shard_index: Of the part.
        rows: Some of its rows.

    Raises:
        ScoreTableError: A row names another shard than its part's, or a place that no member has; with file, row and path.
    """
    names = rows.column_names
    if not {_COLUMN, "shard_index", "members"} & set(names) or _listed(scores) is None:
        return
    if _COLUMN in names:
        _check_shards(scores, shard_index, path, rows)
    if "shard_index" in names:
        wrong = pc.not_equal(rows.column("shard_index"), shard_index)
        _refuse(
            wrong, path, rows, lambda at: f"is of the input shard {rows.column('shard_index')[at]}, not {shard_index}"
        )
    if "members" in names:
        members = rows.column("members").combine_chunks()
        spans = pc.list_flatten(members)
        low = pc.or_(
            pc.less(pc.struct_field(spans, "offset"), BLOCK), pc.less(pc.struct_field(spans, "size"), 0)
        ).fill_null(True)
        if pc.any(low).as_py():
            at = pc.list_parent_indices(members)[pc.index(low, True).as_py()].as_py()
            raise ScoreTableError(
                _message(path, rows, at, f"has a member at a place where no member can be: {members[at]}")
            )


def check_footer(scores: str, path: str, shard_index: int, part: pq.ParquetFile) -> None:
    """Checks the shards that all rows of a part name by what its footer says; reads the column only where that is not enough.

    Raises:
        ScoreTableError: As `check_rows`.
    """
    place = part.schema_arrow.get_field_index(_COLUMN)
    if place < 0:
        raise ScoreTableError(f"{path} has no column {_COLUMN!r}; {AGAIN}")
    # The columns before it are flat, so their places among the leaves are the same.
    leaves = [part.metadata.row_group(number).column(place) for number in range(part.num_row_groups)]
    said = {
        (leaf.statistics.min, leaf.statistics.max, leaf.statistics.null_count)
        for leaf in leaves
        if leaf.path_in_schema == _COLUMN and leaf.is_stats_set and leaf.statistics.has_min_max
    }
    known = len(leaves) == sum(leaf.is_stats_set and leaf.statistics.has_min_max for leaf in leaves)
    listed = _listed(scores)
    if known and listed is not None and all(_is_listed(listed, shard_index, *each) for each in said):
        return
    check_rows(scores, path, shard_index, part.read(columns=["key", _COLUMN, "index"], use_threads=False))


def _is_listed(listed: Sequence[Shard], shard_index: int, low: object, high: object, nulls: object) -> bool:
    return shard_index < len(listed) and low == high == listed[shard_index].path and nulls == 0


def _first_other(rows: pa.Table, shard: str) -> int | None:
    wrong = pc.fill_null(pc.not_equal(rows.column(_COLUMN), shard), True)
    return int(pc.index(wrong, True).as_py()) if pc.any(wrong).as_py() else None


def _check_shards(scores: str, shard_index: int, path: str, rows: pa.Table) -> None:
    for is_second_look in (False, True):
        listed = _listed(scores) or ()
        expected = listed[shard_index].path if shard_index < len(listed) else ""
        at = _first_other(rows, expected)
        if at is None:
            return
        if is_second_look:
            named = rows.column(_COLUMN)[at].as_py()
            there = f"the input shard of this part is {expected}" if expected else "the run has no such input shard"
            list_path = join(scores, INPUT_SHARDS)
            raise ScoreTableError(_message(path, rows, at, f"names {named!r} as its shard, and by {list_path} {there}"))
        _listed.cache_clear()  # the run may have been made anew since the list was read


@functools.lru_cache(maxsize=4)
def _listed(scores: str) -> Sequence[Shard] | None:
    return input_shards(scores) if exists(join(scores, INPUT_SHARDS)) else None


def _refuse(wrong: pa.ChunkedArray, path: str, rows: pa.Table, how: Callable[[int], str]) -> None:
    wrong = pc.fill_null(wrong, True)
    if pc.any(wrong).as_py():
        at = pc.index(wrong, True).as_py()
        raise ScoreTableError(_message(path, rows, at, how(at)))


def _message(path: str, rows: pa.Table, at: int, how: str) -> str:
    index = rows.column("index")[at].as_py() if "index" in rows.column_names else at
    return f"{path}: row {index} {how:.500}: the table was changed, or is of another run; {AGAIN}"
