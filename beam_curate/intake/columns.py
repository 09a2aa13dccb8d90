"""Which columns of a table say what (image, key, caption): by name and type, and asked for where these do not tell."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from beam_curate.intake.text_rows import HEADERS, lines_of
from beam_curate.storage.parquet_reading import open_parquet

PARQUET: Final = ".parquet"
TABLES: Final = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt", PARQUET)
"""The ends of the names of files that are tables; `.txt` has a path in each line."""
PATH_NAMES: Final = ("file_name", "filename", "path", "image_path", "filepath", "file_path", "file", "image")
"""What columns of paths are called. `file_name` is what Hugging Face's ImageFolder has."""


class ColumnError(ValueError):
    """A table has not the columns that are wanted; the message says which it has."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the columns of a table are for.

    Attributes:
        path: Holds paths of images; empty in a table with bytes.
        image: Holds the bytes of images, alone or in a struct with a path; empty in a table of paths.
        key: Gives the samples' keys; empty: they are numbered.
        caption: Becomes the member `.txt`; empty: none.
    """

    path: str = ""
    image: str = ""
    key: str = ""
    caption: str = ""


def is_table(path: str) -> bool:
    """Whether a file is a table by its name."""
    return path.lower().endswith(TABLES)


def find_columns(table: str, path: str, image: str, key: str, caption: str) -> Columns:
    """The columns of a table, as they are named or as the table tells.

    Args:
        table: The path of the first table.
        path: --path_column, or empty.
        image: --image_column, or empty.
        key: --key_column, or empty.
        caption: --caption_column, or empty.

    Raises:
        ColumnError: One is not there, or cannot be told.
        StorageError: The table cannot be read.
    """
    names, holding_bytes = _names(table)
    for option, name in (("path", path), ("image", image), ("key", key), ("caption", caption)):
        if name and name not in names:
            raise ColumnError(f"`{option}_column` {name}: {table} has no such column; there are: {', '.join(names)}")
    if image and image not in holding_bytes:
        raise ColumnError(
            f"`image_column` {image}: it holds no bytes of images in {table}; give `path_column` if it holds paths"
        )
    if path in holding_bytes:
        raise ColumnError(f"`path_column` {path}: it holds the bytes of images in {table}; give `image_column` {path}")
    if image and path:
        raise ColumnError("`path_column` and `image_column` exclude each other; give the one that has the images")
    if not image and not path:
        known = [name for name in PATH_NAMES if name in names and name not in holding_bytes]
        found = [*(("image", name) for name in holding_bytes), *(("path", name) for name in known)]
        if len(holding_bytes) == 1:  # the path column of such a table is where its images came from
            found = found[:1]
        if len(found) != 1:
            which = "several columns may" if found else "no column is known to"
            raise ColumnError(
                f"{table}: {which} hold the images; give `path_column` or `image_column`, one of {', '.join(names)}"
            )
        ((kind, name),) = found
        path, image = (name, "") if kind == "path" else ("", name)
    return Columns(path, image, key, caption)


def _names(table: str) -> tuple[list[str], list[str]]:
    """The columns of a table, and those of them that hold bytes."""
    lower = table.lower()
    if lower.endswith(PARQUET):
        try:
            with open_parquet(table) as file:
                schema = file.schema_arrow
        except pa.ArrowInvalid as error:
            raise ColumnError(f"{table} is not a Parquet file, or only a part of one: {error}") from error
        return schema.names, [field.name for field in schema if holds_bytes(field.type)]
    if lower.endswith(".txt"):
        return ["path"], []
    first = next(lines_of(table), None)
    if first is None:
        raise ColumnError(f"`input` {table} is empty; give a table with a row for each image")
    if lower.endswith(tuple(HEADERS)):
        names = next(csv.reader([first.text], delimiter=HEADERS[lower[-4:]]))
        return _once(table, names), []
    try:
        row = json.loads(first.text)
    except ValueError as error:
        raise ColumnError(f"{table}: its first line is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ColumnError(f"{table}: its first line is not a JSON object; give one for each image")
    return list(row), []


def _once(table: str, names: Sequence[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ColumnError(f"{table}: its header has {twice[0]!r} twice; rename one of the two columns")
    return list(names)


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column's type is bytes, or a struct of `bytes` and `path` as Hugging Face datasets stores images."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))
