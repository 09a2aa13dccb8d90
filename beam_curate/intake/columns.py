"""Which columns of a table say what (image, key, caption): by name and type, and asked for where these do not tell."""

import dataclasses
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

import pyarrow as pa

from beam_curate.intake.text_rows import HEADERS, TableError, check_text, header_of, text_rows
from beam_curate.storage.parquet_reading import open_parquet

PARQUET: Final = ".parquet"
TABLES: Final = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt", PARQUET)
"""The ends of the names of files that are tables; `.txt` has a path in each line."""
PATH_NAMES: Final = ("file_name", "filename", "path", "image_path", "filepath", "file_path", "file", "image")
"""What columns of paths are called, in any case. `file_name` is what Hugging Face's ImageFolder has."""
SEPARATORS: Final = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}
FIRST_ROWS: Final = 100
"""Rows of JSON lines whose names count: one may lack a caption that others have."""


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


class Found(NamedTuple):
    """The columns of a table, as it tells them.

    Attributes:
        names: All of them.
        images: Those that hold bytes, alone or in a struct with a path.
        texts: Those that may hold paths; all columns of a table of text.
        binary: Those that hold bytes at any depth, which JSON has no place for.
    """

    names: Sequence[str]
    images: Sequence[str]
    texts: Sequence[str]
    binary: Sequence[str] = ()


def find_columns(table: str, path: str, image: str, key: str, caption: str) -> Columns:
    """The columns of a table, as they are named or as the table tells.

    Args:
        table: The path of the first table.
        path: --path_column, or empty.
        image: --image_column, or empty.
        key: --key_column, or empty.
        caption: --caption_column, or empty.

    Raises:
        TableError: One is not there, or cannot be told.
        StorageError: The table cannot be read.
    """
    found = columns_of(table)
    for option, name in (("path", path), ("image", image), ("key", key), ("caption", caption)):
        if name and name not in found.names:
            raise TableError(f"`{option}_column` {name}: {table} has no such column; there are: {_listed(found.names)}")
    if image and image not in found.images:
        raise TableError(
            f"`image_column` {image}: it holds no bytes of images in {table}; give `path_column` if it holds paths"
        )
    if path in found.images:
        raise TableError(f"`path_column` {path}: it holds the bytes of images in {table}; give `image_column` {path}")
    for option, name in (("path", path), ("key", key), ("caption", caption)):
        if name in found.binary:
            raise TableError(f"`{option}_column` {name}: it holds bytes in {table}; give a column of texts")
    if image and path:
        raise TableError("`path_column` and `image_column` exclude each other; give the one that has the images")
    if not image and not path:
        path, image = _of_images(table, found)
    return Columns(path, image, key, caption)


def _of_images(table: str, found: Found) -> tuple[str, str]:
    """The column of paths, or the one of bytes."""
    known = [name for name in found.texts if name.strip().lower() in PATH_NAMES]
    if len(found.images) == 1:  # the path column of such a table is where its images came from
        return "", found.images[0]
    if len(known) == 1 and not found.images:
        return known[0], ""
    several = [*found.images, *known]
    if several:
        raise TableError(
            f"{table}: several columns may hold the images: {_listed(several)}; give one of them by "
            + ("`image_column`" if found.images else "`path_column`")
        )
    if not found.texts:
        raise TableError(
            f"{table}: no column holds paths or bytes of images (there are: {_listed(found.names)}); give a table with a "
            "column of paths, or one of bytes as Hugging Face datasets has it"
        )
    other = next((mark for mark in SEPARATORS if len(found.names) == 1 and mark in found.names[0]), "")
    if other and table.lower().endswith(tuple(HEADERS)):
        raise TableError(
            f"{table}: its header is one column, {found.names[0]!r}. Fields of a .csv are separated by commas, those of a .tsv "
            f"by tabs, and here it seems to be {SEPARATORS[other]}; save the table again, or rename it"
        )
    raise TableError(
        f"{table}: no column has a usual name for paths ({', '.join(PATH_NAMES)}); give `path_column`, one of "
        f"{_listed(found.texts)}"
    )


def columns_of(table: str) -> Found:
    """The columns of a table; of JSON lines those of the first rows.

    Raises:
        TableError: It is not what its name says, or has a column twice.
        StorageError: It cannot be read.
    """
    lower = table.lower()
    if lower.endswith(PARQUET):
        try:
            with open_parquet(table) as file:
                schema = file.schema_arrow
        except pa.ArrowException as error:
            raise TableError(f"{table} is not a Parquet file, or only a part of one: {error}") from error
        return columns_of_schema(table, schema)
    if lower.endswith(tuple(HEADERS)):
        names = _once(table, header_of(table))
        return Found(names, [], names)
    check_text(table)
    if lower.endswith(".txt"):
        return Found(["path"], [], ["path"])
    rows = list(islice(text_rows(table), FIRST_ROWS))
    if not rows:
        raise TableError(f"`input` {table} has only empty lines; give a table with a row for each image")
    if rows[0].problem:
        raise TableError(
            f"{table}: its first row cannot be read, since {rows[0].problem}; give a JSON object in each line"
        )
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    return Found(names, [], names)


def columns_of_schema(table: str, schema: pa.Schema) -> Found:
    """The columns of a table in Parquet.

    Raises:
        TableError: It has a column twice.
    """
    return Found(
        _once(table, schema.names),
        [field.name for field in schema if holds_bytes(field.type)],
        [field.name for field in schema if _may_be_text(field.type)],
        [field.name for field in schema if _any_bytes(field.type)],
    )


def _once(table: str, names: Sequence[str]) -> list[str]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice == "":
        raise TableError(f"{table}: its header has several columns without a name; name them")
    if twice is not None:
        raise TableError(f"{table}: it has the column {twice!r} twice; rename one of the two")
    return list(names)


def _listed(names: Sequence[str]) -> str:
    """Names for a message; in quotes where one could not see where they end."""
    return ", ".join(name if name and name == name.strip() and "," not in name else repr(name) for name in names)


def _may_be_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _may_be_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _any_bytes(kind: pa.DataType) -> bool:
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return _is_binary(kind) or any(_any_bytes(each) for each in inner)


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column's type is bytes, or a struct of `bytes` and `path` as Hugging Face datasets stores images."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))
