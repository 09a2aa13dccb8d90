"""Entries from tables: each row of the table is one, with all of its values in the sample's `.json`."""

import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import pyarrow as pa

from beam_curate.intake.columns import PARQUET, Columns
from beam_curate.intake.entries import NO_GROUP, Entry, failed
from beam_curate.intake.naming import is_image, is_text, key_of, split_name
from beam_curate.intake.parquet_rows import damage, parquet_rows
from beam_curate.intake.plain_values import plain
from beam_curate.intake.reasons import BAD_ROW, IS_URL, NO_PATH, UNREADABLE_TABLE
from beam_curate.intake.text_rows import text_rows
from beam_curate.records import record
from beam_curate.storage.operations import absolute, join
from beam_curate.storage.parquet_reading import open_parquet
from beam_curate.storage.retrying import StorageError
from beam_curate.storage.schemes import SchemeError

_WEB: Final = ("http://", "https://", "ftp://")


@record
class TablePart:
    """A table of text, or a row group of one in Parquet: what one worker reads forward; `problem`: why it cannot be read."""

    table: int
    path: str
    row_group: int = NO_GROUP
    first: int = 0
    problem: str = ""


@dataclass(frozen=True)
class TableReading:
    """How rows become entries.

    Attributes:
        columns: What the columns are for.
        base: The folder that paths are relative to; empty: that of the table.
        several: Whether there is more than one table, so that a row's number does not name it.
    """

    columns: Columns
    base: str = ""
    several: bool = False

    def entries(self, part: TablePart) -> Iterator[Entry]:
        """The entries of a part, one for each of its rows; of a table that cannot be read a failed one that stands for it.

        Raises:
            StorageError: The table cannot be read.
        """
        if part.problem:
            yield failed(self._names(part, 0)[0], part.path, UNREADABLE_TABLE, part.problem)
        elif part.row_group == NO_GROUP:
            for number, row in enumerate(text_rows(part.path)):
                if row.problem:
                    yield self._failed(part, number, BAD_ROW, row.problem)
                else:
                    yield self._entry(part, number, row.values, row.json, NO_GROUP, number)
        else:
            with open_parquet(part.path) as file:
                for number, read in enumerate(parquet_rows(file, part.row_group, self.columns)):
                    if read.problem:
                        yield self._failed(part, part.first + number, read.reason, read.problem)
                    else:
                        yield self._entry(part, part.first + number, read.values, read.json, part.row_group, number)

    def _failed(self, part: TablePart, number: int, reason: str, why: str) -> Entry:
        order, source, _ = self._names(part, number)
        return failed(order, source, reason, why)

    def _names(self, part: TablePart, number: int) -> tuple[str, str, str]:
        """Order, source and key of a row by its number in its table."""
        key = f"{part.table:05d}-{number:09d}" if self.several else f"{number:09d}"
        return f"{part.table:08d}/{number:012d}", f"{part.path}#{number}", key

    def _entry(
        self, part: TablePart, number: int, values: Mapping[str, object], text: str, row_group: int, row: int
    ) -> Entry:
        columns = self.columns
        order, source, key = self._names(part, number)
        if columns.key:
            value = values.get(columns.key)
            if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
                why = f"its key must come from the column {columns.key}, {_what(values, columns.key)}"
                return failed(order, source, BAD_ROW, why)
            key = key_of(str(value).strip())
        texts = {"json": text} if text else {}
        caption = values.get(columns.caption) if columns.caption else None
        if caption is not None:
            texts["txt"] = caption if isinstance(caption, str) else json.dumps(plain(caption), ensure_ascii=False)
        path = values.get(columns.path) if columns.path else values.get(columns.image)
        if not all(is_text(str(value)) for value in (path, *texts.values())):
            return failed(order, source, BAD_ROW, "it has one half of a surrogate pair, which is not valid text")
        suffix = split_name(path).suffix if isinstance(path, str) and is_image(split_name(path)) else ""
        if columns.image:
            return Entry(order, source, key, part.path, suffix, row_group, row, texts=texts)
        if not isinstance(path, str) or not path.strip():
            why = f"its path must come from the column {columns.path}, {_what(values, columns.path)}"
            return failed(order, source, NO_PATH, why, key)
        if path.strip().lower().startswith(_WEB):
            return failed(order, source, IS_URL, f"{path} is on the web; download it with img2dataset", key)
        try:
            image = self._placed(part.path, path.strip())
        except SchemeError as error:
            return failed(order, source, BAD_ROW, str(error), key)
        return Entry(order, source, key, image, suffix, texts=texts)

    def _placed(self, table: str, path: str) -> str:
        if "://" in path or os.path.isabs(path):
            return absolute(path)
        return join(self.base or posixpath.dirname(table), path)


def _what(values: Mapping[str, object], column: str) -> str:
    """What a row has in a column, where it should have a text."""
    if column not in values:
        return f"which is not there; there are: {', '.join(values)}"
    value = values[column]
    return "which is empty" if value is None or value == "" else f"which has {str(value)[:40]!r}"


def parts_of(table: int, path: str) -> Iterator[TablePart]:
    """What of a table is read at a time.

    Raises:
        StorageError: It cannot be read.
    """
    if not path.lower().endswith(PARQUET):
        yield TablePart(table, path)
        return
    try:
        with open_parquet(path) as file:
            groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except StorageError:
        raise
    except (pa.ArrowException, OSError) as error:
        yield TablePart(table, path, problem=damage(error))
        return
    for group, first in enumerate(accumulate(groups[:-1], initial=0) if groups else ()):
        yield TablePart(table, path, group, first)
