"""Rows of Parquet tables, read forward by row groups: all columns but those with bytes, as JSON has them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pyarrow as pa

from beam_curate.intake.columns import Columns, columns_of_schema
from beam_curate.intake.plain_values import plain, plain_row
from beam_curate.intake.reasons import BAD_ROW, UNREADABLE_TABLE
from beam_curate.intake.text_rows import TableError
from beam_curate.storage.parquet_reading import ParquetFile
from beam_curate.storage.retrying import StorageError

_ROWS: Final = 256
"""Rows that are held at a time; their images are not read here."""


class ParquetRow(NamedTuple):
    """A row: its values by column, the text that stands for all of it; or the reason and the message why it cannot be read."""

    values: Mapping[str, Any]
    json: str = ""
    reason: str = ""
    problem: str = ""


def parquet_rows(file: ParquetFile, row_group: int, columns: Columns) -> Iterator[ParquetRow]:
    """The rows of a row group, each exactly once, also those that cannot be read.

    Of a column of images with their paths the path alone is read.

    Args:
        file: The table.
        row_group: Its number.
        columns: What the columns are for.

    Raises:
        StorageError: The table cannot be read.
    """
    rows = file.metadata.row_group(row_group).num_rows
    schema, image = file.schema_arrow, columns.image
    try:
        found = columns_of_schema("the table", schema)
    except TableError as error:
        yield from [ParquetRow({}, reason=BAD_ROW, problem=str(error))] * rows
        return
    if image and image not in found.images:
        has = (
            f"its type is {schema.field(image).type}"
            if image in found.names
            else f"there are: {', '.join(found.names)}"
        )
        why = f"the image must come from the column {image}, and the table has no such column with bytes; {has}"
        yield from [ParquetRow({}, reason=BAD_ROW, problem=why)] * rows
        return
    wanted = [name for name in found.names if name not in found.binary]
    if image and pa.types.is_struct(schema.field(image).type) and schema.field(image).type.get_field_index("path") >= 0:
        wanted.append(f"{image}.path")
    read = 0
    try:
        for batch in file.iter_batches(_ROWS, [row_group], columns=wanted, use_threads=False):
            for at in range(batch.num_rows):
                yield _row(batch.slice(at, 1), image)
                read += 1
    except StorageError:
        raise  # not the table's fault
    except (pa.ArrowException, OSError) as error:
        yield from [ParquetRow({}, reason=UNREADABLE_TABLE, problem=damage(error))] * (rows - read)
        return
    yield from [ParquetRow({})] * (rows - read)  # no other column: the table is of images alone


def damage(error: Exception) -> str:
    """What pyarrow says of a table that it cannot read, in one line."""
    return f"the table is damaged, or not Parquet: {' '.join(str(error).split())}"


def _row(row: pa.RecordBatch, image: str) -> ParquetRow:
    try:
        values = plain_row(row)
        if image:
            name = (values.pop(image, None) or {}).get("path")
            values = {**values, **({image: name} if name else {})}
        return ParquetRow(values, json.dumps(plain(values), ensure_ascii=False) if values else "")
    except (TypeError, ValueError, OverflowError) as error:  # such as a date that Python has no place for
        return ParquetRow({}, reason=BAD_ROW, problem=f"a value of it cannot be written as JSON: {error}")
