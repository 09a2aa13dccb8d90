"""Rows of text tables: CSV and TSV with a header, JSON lines, and lists of paths, read forward and never held as a whole.

Values are taken as they stand: a CSV says nothing of types, so all of its values are texts.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Final, NamedTuple

from beam_curate.storage.operations import open_read

HEADERS: Final[Mapping[str, str]] = {".csv": ",", ".tsv": "\t"}
"""Tables with a header, and what separates their fields."""
MAX_LINE_BYTES: Final = 1 << 24
"""The longest row that is read, 16 MiB."""


class TableError(ValueError):
    """A table cannot be read, or has not the columns that are wanted; the message names it, what is wrong, and the remedy."""


class Line(NamedTuple):
    """A line of a file, and what is wrong with it, if anything."""

    text: str
    problem: str = ""


class TextRow(NamedTuple):
    """A row: its values by column, the text that stands for all of it, and what is wrong with it, if anything."""

    values: Mapping[str, object]
    json: str
    problem: str = ""


class Fields(NamedTuple):
    """The fields of a row with separators, and what is wrong with it, if anything."""

    fields: Sequence[str]
    problem: str = ""


def lines_of(path: str) -> Iterator[Line]:
    """The lines of a text file in UTF-8, with their ends; a byte order mark is left out, and so is a line that is too long.

    Raises:
        StorageError: It cannot be read.
    """
    with open_read(path) as stream:
        mark = b"\xef\xbb\xbf"
        while data := stream.readline(MAX_LINE_BYTES):
            yield _line(data.removeprefix(mark)) if _ends(data) else _skipped(stream)
            mark = b""


def _ends(data: bytes) -> bool:
    return len(data) < MAX_LINE_BYTES or data.endswith(b"\n")


def _line(data: bytes) -> Line:
    try:
        return Line(data.decode())
    except UnicodeDecodeError:
        return Line(data.decode(errors="replace"), _NOT_TEXT)


def _skipped(stream: BinaryIO) -> Line:
    """What stands for a line that is too long, whose rest is passed over: a second row would be made of it."""
    while not _ends(stream.readline(MAX_LINE_BYTES)):
        pass
    return Line("", f"its line has {MAX_LINE_BYTES:,} bytes or more")


def check_text(path: str) -> None:
    """Looks at the first line of a text file.

    Raises:
        TableError: The file is empty, or its first line is not UTF-8.
        StorageError: It cannot be read.
    """
    with open_read(path) as stream:
        data = stream.readline(MAX_LINE_BYTES)
    if not data:
        raise TableError(f"`input` {path} is empty; give a table with a row for each image")
    what = next((what for magic, what in _NOT_TABLES.items() if data.startswith(magic)), "")
    if what:
        raise TableError(f"`input` {path} {what}")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise TableError(f"`input` {path}: its first line is not UTF-8; save the table as UTF-8")


_NOT_TABLES: Final = {
    b"\x1f\x8b": "is compressed with gzip; unpack it first: gunzip",
    b"PK\x03\x04": "is a zip file or a spreadsheet; save it as a table of text, such as CSV",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
}
"""What text files are often mistaken for, by their first bytes."""


def header_of(path: str) -> list[str]:
    """The columns of a table with a header: the fields of its first row that is not empty.

    Raises:
        TableError: There is no such row, or it cannot be read.
        StorageError: The table cannot be read.
    """
    check_text(path)
    first = next(_fields(path), None)
    if first is None:
        raise TableError(f"`input` {path} has only empty lines; give a table with a row for each image")
    if first.problem:
        raise TableError(f"`input` {path}: its header cannot be read: {first.problem}")
    return list(first.fields)


def text_rows(path: str) -> Iterator[TextRow]:
    """The rows of a table, each exactly once, also those that cannot be read; empty lines are not rows.

    Raises:
        StorageError: It cannot be read.
    """
    lower = path.lower()
    if lower.endswith(tuple(HEADERS)):
        yield from _separated(path)
    elif lower.endswith(".txt"):
        for line in lines_of(path):
            text = line.text.strip()
            if text or line.problem:
                yield TextRow({"path": text}, "", line.problem)
    else:
        for line in lines_of(path):
            if line.text.strip() or line.problem:
                yield _json_row(line)


_NOT_TEXT: Final = "it is not UTF-8"
_CSV_ERRORS: Final = {
    "unexpected end": "a quote is not closed",
    "new-line character": "lines end with a carriage return only; save the table with line feeds",
}
"""What Python's errors say to somebody who has the table before them."""


def _fields(path: str) -> Iterator[Fields]:
    """The rows of a table with separators that are not empty.

    A quote that stands where it may not makes a row wrong: what is meant cannot be told (Source: RFC 4180, section 2).
    """
    problem = ""

    def texts() -> Iterator[str]:
        nonlocal problem
        for line in lines_of(path):
            problem = problem or line.problem
            yield line.text

    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))  # of the whole process, which may want more
    reader = csv.reader(texts(), delimiter=HEADERS[path.lower()[-4:]], strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            lines = f"line {begin}" if reader.line_num <= begin else f"lines {begin} to {reader.line_num}"
            why = next((said for told, said in _CSV_ERRORS.items() if told in str(error)), str(error))
            yield Fields((), f"{lines}: {why}")
            problem = ""
            continue
        if fields is None:
            return
        if fields or problem:
            yield Fields(fields, problem)
            problem = ""


def _separated(path: str) -> Iterator[TextRow]:
    rows = _fields(path)
    header = next(rows, Fields(()))
    for fields, problem in rows:
        values = dict(zip(header.fields, fields, strict=False))
        yield TextRow(values, json.dumps(values, ensure_ascii=False), problem or _misfit(header, fields))


def _misfit(header: Fields, fields: Sequence[str]) -> str:
    if header.problem:
        return f"the header of its table cannot be read: {header.problem}"
    if len(fields) != len(header.fields):
        return f"it has {len(fields)} fields, and the header {len(header.fields)}"
    return ""


def _json_row(line: Line) -> TextRow:
    text = line.text.strip()
    if line.problem:
        return TextRow({}, "", line.problem)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return TextRow({}, "", f"it is not JSON: {error}")
    if not isinstance(values, dict):
        return TextRow({}, "", "it is not a JSON object")
    return TextRow(values, text)
