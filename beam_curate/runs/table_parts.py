"""Reading the parts of a score table with the verdicts that count: the one door for whoever reads a run's rows.

A run of `curate` has its rows in `scores/`. A rule that is carried out later, on a finished table, does not write them
again: it writes *overlays*, `verdicts/part-00000.parquet`, …, with a row for each row of the part of the same number, in the
same order and in the same row groups. An overlay has the columns that tell the rows apart, the verdict, and the scores that
were added; the other columns are read from `scores/`, of the same run or of the run that `run.json` names under `scores`.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.records import KEPT, ScorePart
from beam_curate.runs.named_sources import check_footer, check_rows
from beam_curate.runs.own_parts import open_own_part
from beam_curate.runs.part_files import damage_named, footprint, group_rows, part_counts
from beam_curate.runs.score_table import (
    IDENTITY,
    SCHEMA_VERSION,
    SOURCE_METADATA,
    VERDICT,
    VERDICTS,
    ScoreTableError,
    part_name,
    with_later_fields,
)
from beam_curate.storage.files import exists, join
from beam_curate.storage.parquet_reading import ParquetFile
from beam_curate.storage.retrying import StorageError

_OVERLAY_REMEDY: Final = "it holds verdicts on the score table; restore it, or repeat the run with `overwrite`"


@dataclass(frozen=True)
class TablePlace:
    """Where a run's score table lies.

    Attributes:
        scores: The folder whose subfolder `scores` holds the parts.
        verdicts: The folder whose subfolder `verdicts` holds the overlays that count; empty if there are none.
    """

    scores: str
    verdicts: str = ""

    @contextlib.contextmanager
    def open(self, shard_index: int) -> Iterator["Part"]:
        """Opens the part of an input shard.

        Raises:
            ScoreTableError: It is missing, is none, is of another run, or is no longer the one that its overlay was made for.
        """
        with contextlib.ExitStack() as stack:
            yield Part(self, shard_index, stack)


class Part:
    """An open part, see `TablePlace.open`: a file is opened when one of its columns is wanted.

    Attributes:
        name: The path of the part below its folder.
    """

    def __init__(self, place: TablePlace, shard_index: int, stack: contextlib.ExitStack) -> None:
        self.name = part_name(shard_index)
        self._shard_index = shard_index
        self._overlay_path = join(place.verdicts, part_name(shard_index, VERDICTS))
        self._place, self._stack = place, stack
        self._stored: ParquetFile | None = None
        self._overlay: ParquetFile | None = None
        if place.verdicts:
            self._overlay = self._open(place.verdicts, self._overlay_path, _OVERLAY_REMEDY)

    @property
    def scores(self) -> ParquetFile:
        """The part itself, without the overlay."""
        if self._stored is None:
            self._stored = self._open(
                self._place.scores, join(self._place.scores, self.name), moved_remedy(self._place)
            )
            if self._overlay is not None:
                self._check_fit(self._stored, self._overlay)
        return self._stored

    @property
    def _first(self) -> ParquetFile:
        return self.scores if self._overlay is None else self._overlay

    @property
    def _first_path(self) -> str:
        return join(self._place.scores, self.name) if self._overlay is None else self._overlay_path

    def check_sources(self) -> None:
        """Checks that all rows name the input shard of this part, of its table and of its verdicts, by their footers.

        Raises:
            ScoreTableError: One names another file.
        """
        path = join(self._place.scores, self.name)
        with damage_named(path):
            check_footer(self._place.scores, path, self._shard_index, self.scores)
        if self._overlay is not None:
            with damage_named(self._overlay_path):
                check_footer(self._place.scores, self._overlay_path, self._shard_index, self._overlay)

    @property
    def counts(self) -> ScorePart:
        """The rows by verdict."""
        first = self._first
        return part_counts(first.schema_arrow, self._first_path, footprint(first.schema_arrow, first.metadata))

    @property
    def scores_footprint(self) -> str:
        """The footprint of the part itself, without the overlay."""
        return footprint(self.scores.schema_arrow, self.scores.metadata)

    @property
    def group_rows(self) -> list[int]:
        """The number of rows of each row group."""
        return group_rows(self._first.metadata)

    @property
    def num_row_groups(self) -> int:
        """The number of row groups."""
        return int(self._first.num_row_groups)

    @property
    def added(self) -> list[str]:
        """The names of the scores that the overlay adds."""
        names = self._overlay.schema_arrow.names if self._overlay is not None else []
        return [name for name in names if name not in (*IDENTITY, *VERDICT)]

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """All columns: scores that were added come before the embedding."""
        schema: pa.Schema = with_later_fields(self.scores.schema_arrow)
        for name in self.added:
            schema = schema.insert(schema.get_field_index("embedding"), pa.field(name, pa.float32()))
        return schema.with_metadata({"beam_curate.schema_version": SCHEMA_VERSION})

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads all rows; the columns come in the order of the schema.

        Raises:
            ScoreTableError: There is no such column.
        """
        return self._read(columns, lambda file, names: file.read(names))

    def read_row_group(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads the rows of a row group, as `read` does."""
        return self._read(columns, lambda file, names: file.read_row_group(group, names))

    def _read(self, columns: Sequence[str] | None, read: Callable[[ParquetFile, list[str]], pa.Table]) -> pa.Table:
        above = self._overlay.schema_arrow.names if self._overlay is not None else []
        known = above if columns is not None and set(columns) <= set(above) else self.schema.names
        names = known if columns is None else [name for name in known if name in columns]
        if columns is not None and len(names) < len(set(columns)):
            missing = min(set(columns) - set(known))
            raise ScoreTableError(f"{join(self._place.scores, self.name)} has no column {missing!r}")
        found: dict[str, pa.ChunkedArray] = {}
        upper, lower = ([name for name in names if (name in above) is there] for there in (True, False))
        if self._overlay is not None and upper:
            with damage_named(self._overlay_path):
                table = read(self._overlay, upper)
            check_rows(self._place.scores, self._overlay_path, self._shard_index, table)
            found |= dict(zip(table.column_names, table.columns, strict=True))
        if lower:
            stored = self.scores.schema_arrow.names
            with damage_named(join(self._place.scores, self.name)):
                table = read(self.scores, [name for name in lower if name in stored])
            check_rows(self._place.scores, join(self._place.scores, self.name), self._shard_index, table)
            found |= dict(zip(table.column_names, table.columns, strict=True))
            # Columns that there were none of when the part was written.
            later = {name: self.schema.field(name).type for name in lower if name not in stored}
            found |= {name: pa.chunked_array([pa.nulls(table.num_rows, kind)]) for name, kind in later.items()}
        return pa.table({name: found[name] for name in names})

    def read_kept(self, ranks: npt.NDArray[np.int64], columns: Sequence[str] | None = None) -> pa.Table:
        """The kept rows with these ranks (ascending, counted from 0) among the part's kept rows.

        Reads the status column, and of the other columns only the row groups that hold these rows; if there is one group, all
        at once. Ranks that the part does not have are left out.
        """
        tables = []
        rank = 0
        together = None if columns is None else list({*columns, "status"})
        for group in range(self.num_row_groups):
            if rank > ranks[-1]:
                break
            rows = self.read_row_group(group, together if self.num_row_groups == 1 else ["status"])
            kept = np.flatnonzero(pc.equal(rows.column("status"), KEPT).to_numpy(zero_copy_only=False))
            inside = ranks[np.searchsorted(ranks, rank) : np.searchsorted(ranks, rank + len(kept))]
            if len(inside):
                if self.num_row_groups > 1:
                    rows = self.read_row_group(group, columns)
                elif columns is not None:
                    rows = rows.select([name for name in rows.column_names if name in columns])
                tables.append(rows.take(pa.array(kept[inside - rank])))
            rank += len(kept)
        if tables:
            return pa.concat_tables(tables)
        empty = self.schema.empty_table()
        return empty if columns is None else empty.select([name for name in empty.column_names if name in columns])

    def kept_groups(self) -> npt.NDArray[np.int64]:
        """The row group of each kept row."""
        status = self.read(["status"]).column("status")
        kept = np.flatnonzero(pc.equal(status, KEPT).to_numpy(zero_copy_only=False))
        return np.searchsorted(np.cumsum(self.group_rows), kept, side="right")

    def kept_column(self, column: str) -> list[str]:
        """One column of the kept rows, in order."""
        table = self.read([column, "status"])
        return table.filter(pc.equal(table.column("status"), KEPT)).column(column).to_pylist()

    def _open(self, run: str, path: str, remedy: str) -> ParquetFile:
        try:
            return self._stack.enter_context(open_own_part(run, path))
        except StorageError as error:
            if exists(path):
                raise
            raise ScoreTableError(f"{path} is missing: {remedy}") from error

    def _check_fit(self, scores: ParquetFile, overlay: ParquetFile) -> None:
        expected = (overlay.schema_arrow.metadata or {}).get(SOURCE_METADATA.encode(), b"").decode()
        if footprint(scores.schema_arrow, scores.metadata) != expected:
            raise ScoreTableError(
                f"{join(self._place.scores, self.name)} was written again after {self._place.verdicts} was selected from it; "
                f"repeat the selection with `overwrite`"
            )


def moved_remedy(place: TablePlace) -> str:
    """What to do about a part of the score table that is missing."""
    if place.verdicts in ("", place.scores):
        return "it is a part of the score table; restore it"
    return (
        f"{place.verdicts} was selected from the score table there and holds only its verdicts; put it back or, if it "
        f"was moved, repeat the selection with `resume`, and with the new folder as `scores`"
    )
