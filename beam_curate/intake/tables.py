"""Entries from tables: each row of the table is one, with all of its values in the sample's `.json`."""

import datetime
import decimal
import json
import math
import os
import posixpath
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from beam_curate.intake.columns import PARQUET, Columns, holds_bytes
from beam_curate.intake.entries import NO_GROUP, Entry, failed
from beam_curate.intake.naming import is_image, is_text, key_of, split_name
from beam_curate.intake.reasons import BAD_ROW, IS_URL, NO_PATH
from beam_curate.intake.text_rows import text_rows
from beam_curate.records import record
from beam_curate.storage.operations import absolute, join
from beam_curate.storage.parquet_reading import open_parquet
from beam_curate.storage.schemes import SchemeError

_ROWS: Final = 256
"""Rows of a Parquet table that are held at a time; their images are not read here."""
_WEB: Final = ("http://", "https://", "ftp://")


@record
class TablePart:
    """A table of text, or a row group of one in Parquet: what one worker reads forward."""

    table: int
    path: str
    row_group: int = NO_GROUP
    first: int = 0


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
        """The entries of a part, one for each of its rows.

        Raises:
            StorageError: The table cannot be read.
        """
        columns = self.columns
        if part.row_group == NO_GROUP:
            for number, row in enumerate(text_rows(part.path)):
                if row.problem:
                    order, source, _ = self._names(part, number)
                    yield failed(order, source, BAD_ROW, row.problem)
                else:
                    yield self._entry(part, number, row.values, row.json, NO_GROUP, number)
            return
        with open_parquet(part.path) as file:
            schema = file.schema_arrow
            names = [field.name for field in schema if not holds_bytes(field.type)]
            wanted = [*names, *([f"{columns.image}.path"] if _has_path(schema, columns.image) else [])]
            read = 0
            for batch in file.iter_batches(_ROWS, [part.row_group], columns=wanted, use_threads=False):
                for values in batch.to_pylist():
                    yield self._parquet_entry(part, read, values)
                    read += 1
            rows = file.metadata.row_group(part.row_group).num_rows
        for number in range(read, rows):  # no other column: the table is of images alone
            yield self._parquet_entry(part, number, {})

    def _parquet_entry(self, part: TablePart, row: int, values: dict[str, Any]) -> Entry:
        image = self.columns.image
        if image:
            name = (values.pop(image, None) or {}).get("path")
            values = {**values, **({image: name} if name else {})}
        try:
            text = json.dumps(_plain(values), ensure_ascii=False) if values else ""
        except (TypeError, ValueError) as error:
            order, source, _ = self._names(part, part.first + row)
            return failed(order, source, BAD_ROW, str(error))
        return self._entry(part, part.first + row, values, text, part.row_group, row)

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
            if value is None or not str(value).strip():
                return failed(
                    order, source, BAD_ROW, f"its column {columns.key} is empty, and the key is to come from it"
                )
            key = key_of(str(value).strip())
        texts = {"json": text} if text else {}
        caption = values.get(columns.caption) if columns.caption else None
        if caption is not None:
            texts["txt"] = str(caption)
        path = values.get(columns.path) if columns.path else values.get(columns.image)
        if not all(is_text(str(value)) for value in (path, *texts.values())):
            return failed(order, source, BAD_ROW, "it has half of a surrogate pair, which no text has")
        suffix = split_name(path).suffix if isinstance(path, str) and is_image(split_name(path)) else ""
        if columns.image:
            return Entry(order, source, key, part.path, suffix, row_group, row, texts=texts)
        if not isinstance(path, str) or not path.strip():
            return failed(order, source, NO_PATH, f"its column {columns.path} is empty", key)
        if path.startswith(_WEB):
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


def parts_of(table: int, path: str) -> Iterator[TablePart]:
    """What of a table is read at a time.

    Raises:
        StorageError: It cannot be read.
    """
    if not path.lower().endswith(PARQUET):
        yield TablePart(table, path)
        return
    with open_parquet(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            yield TablePart(table, path, group, first)
            first += file.metadata.row_group(group).num_rows


def _has_path(schema: pa.Schema, image: str) -> bool:
    if not image or not pa.types.is_struct(schema.field(image).type):
        return False
    return schema.field(image).type.get_field_index("path") >= 0


def _plain(value: Any) -> Any:
    """A value of Parquet as JSON has it: dates and decimals as text, what is no number as null.

    Raises:
        TypeError: It holds bytes.
    """
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)):
        return value.isoformat() if hasattr(value, "isoformat") else str(value)
    return value
