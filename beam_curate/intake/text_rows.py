"""Rows of text tables: CSV and TSV with a header, JSON lines, and lists of paths, read forward and never held as a whole.

Values are taken as they stand: a CSV says nothing of types, so all of its values are texts.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from beam_curate.storage.operations import open_read

HEADERS: Final[Mapping[str, str]] = {".csv": ",", ".tsv": "\t"}
"""Tables with a header, and what separates their fields."""
MAX_LINE_BYTES: Final = 1 << 24
"""The longest row that is read, 16 MiB."""


class Line(NamedTuple):
    """A line of a file, and whether it is UTF-8 throughout."""

    text: str
    clean: bool


class TextRow(NamedTuple):
    """A row: its values by column, the text that stands for all of it, and what is wrong with it, if anything."""

    values: Mapping[str, object]
    json: str
    problem: str = ""


def lines_of(path: str) -> Iterator[Line]:
    """The lines of a text file in UTF-8, with their ends; a byte order mark is left out.

    Raises:
        StorageError: It cannot be read.
    """
    with open_read(path) as stream:
        first = True
        while data := stream.readline(MAX_LINE_BYTES):
            data = data.removeprefix(b"\xef\xbb\xbf") if first else data
            first = False
            try:
                yield Line(data.decode(), clean=True)
            except UnicodeDecodeError:
                yield Line(data.decode(errors="replace"), clean=False)


def text_rows(path: str) -> Iterator[TextRow]:
    """The rows of a table, each exactly once, also those that cannot be read; empty lines are none.

    Raises:
        StorageError: It cannot be read.
    """
    lower = path.lower()
    if lower.endswith(tuple(HEADERS)):
        yield from _separated(path, HEADERS[lower[-4:]])
    elif lower.endswith(".txt"):
        for line in lines_of(path):
            text = line.text.strip()
            if text:
                yield TextRow({"path": text}, "", "" if line.clean else _NOT_TEXT)
    else:
        for line in lines_of(path):
            if line.text.strip():
                yield _json_row(line)


_NOT_TEXT: Final = "it is not UTF-8"


def _separated(path: str, delimiter: str) -> Iterator[TextRow]:
    unclean = False

    def texts() -> Iterator[str]:
        nonlocal unclean
        for line in lines_of(path):
            unclean = unclean or not line.clean
            yield line.text

    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(texts(), delimiter=delimiter)
    names = next(reader, [])
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield TextRow({}, "", str(error))
            continue
        if fields is None:
            return
        if not fields:
            continue
        problem = _NOT_TEXT if unclean else ""
        if len(fields) != len(names):
            problem = f"it has {len(fields)} fields, and the header {len(names)}"
        values = dict(zip(names, fields, strict=False))
        yield TextRow(values, json.dumps(values, ensure_ascii=False), problem)
        unclean = False


def _json_row(line: Line) -> TextRow:
    text = line.text.strip()
    if not line.clean:
        return TextRow({}, "", _NOT_TEXT)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return TextRow({}, "", f"it is no JSON: {error}")
    if not isinstance(values, dict):
        return TextRow({}, "", "it is no JSON object")
    return TextRow(values, text)
