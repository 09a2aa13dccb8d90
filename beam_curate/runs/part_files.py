"""The files of a score table's parts, as they are read: damage named, versions checked, and what their footers count."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.records import ScorePart
from beam_curate.runs.score_table import (
    AGAIN,
    IDENTITY,
    NEEDED_COLUMNS,
    PART_METADATA,
    SCHEMA_VERSION,
    SOURCE_METADATA,
    VERDICT,
    ScoreTableError,
)
from beam_curate.storage.parquet_reading import ParquetFile, open_parquet
from beam_curate.storage.retrying import StorageError


@contextlib.contextmanager
def damage_named(path: str) -> Iterator[None]:
    """Names the file where pyarrow finds a Parquet file damaged: a block that reads it.

    Raises:
        ScoreTableError: The file is damaged, or none.
    """
    try:
        yield
    except StorageError:
        raise  # not the file's fault; it has the path
    except (pa.ArrowException, OSError) as error:
        message = " ".join(str(error).split())
        raise ScoreTableError(f"{path} is damaged, or not a Parquet file: {message}; {AGAIN}") from error


@contextlib.contextmanager
def open_part(path: str) -> Iterator[ParquetFile]:
    """Opens a part for reading.

    Raises:
        ScoreTableError: It is not a score table, is of a version that is not read, lacks a column, or does not have the rows
            that it counts.
        StorageError: It cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        with damage_named(path):
            part = stack.enter_context(open_parquet(path))
        _check_version(part, path)
        _check_columns(part, path)
        _check_rows(part, path)
        yield part


def _check_version(part: ParquetFile, path: str) -> None:
    version = (part.schema_arrow.metadata or {}).get(b"beam_curate.schema_version", b"none").decode()
    if version != SCHEMA_VERSION:
        raise ScoreTableError(
            f"{path} has score table version {version}; this version of beam_curate reads {SCHEMA_VERSION}; {AGAIN}"
        )


def _check_columns(part: ParquetFile, path: str) -> None:
    overlay = SOURCE_METADATA.encode() in (part.schema_arrow.metadata or {})
    there = set(part.schema_arrow.names)
    missing = next((name for name in ((*IDENTITY, *VERDICT) if overlay else NEEDED_COLUMNS) if name not in there), None)
    if missing is not None:
        raise ScoreTableError(f"{path} has no column {missing!r}; {AGAIN}")


def _check_rows(part: ParquetFile, path: str) -> None:
    """Holds a part to its own counts: rows that another program left out would be missing from all that follows."""
    if PART_METADATA.encode() in (part.schema_arrow.metadata or {}):
        counted, there = part_counts(part.schema_arrow, path).rows, part.metadata.num_rows
        if counted != there:
            raise ScoreTableError(f"{path} is damaged: it counts {counted} rows and has {there}; {AGAIN}")


def part_counts(part_schema: pa.Schema, path: str = "the file", footprint: str = "") -> ScorePart:
    """What a part's writer counted, from the schema's metadata alone; its footprint is the caller's to give.

    Raises:
        ScoreTableError: The counts are missing or damaged.
    """
    text = (part_schema.metadata or {}).get(PART_METADATA.encode())
    if text is None:
        raise ScoreTableError(f"{path} is a score table but not a part of one: its counts are missing; {AGAIN}")
    try:
        scored = (part_schema.metadata or {}).get(SOURCE_METADATA.encode(), footprint.encode()).decode()
        counts = ScorePart(**{**json.loads(text), "footprint": footprint, "scored": scored})
        numbers = [
            counts.shard_index,
            counts.rows,
            counts.kept,
            counts.rejected,
            counts.failed,
            *counts.reasons.values(),
        ]
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError("a count is not a number")
    except (ValueError, TypeError, AttributeError) as error:
        raise ScoreTableError(f"{path} is damaged: its counts are {text[:200]!r}; {AGAIN}") from error
    return counts


def footprint(part_schema: pa.Schema, footer: pq.FileMetaData) -> str:
    """A short text that tells a part, or an overlay, from another one that was written in its place.

    It depends on the counts, and on the columns, compressed sizes and statistics that the footer tells: reading the whole part
    would take the time that overlays save. That of an overlay also depends on the footprint of the part it was made for.
    """
    found: list[object] = [part_counts(part_schema), *part_schema.names, *group_rows(footer)]
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            found.append(column.total_compressed_size)
            if column.is_stats_set and column.statistics.has_min_max:
                found += [column.statistics.min, column.statistics.max]
    below = (part_schema.metadata or {}).get(SOURCE_METADATA.encode())
    return hashlib.sha256(repr(found if below is None else [*found, below]).encode()).hexdigest()[:32]


def table_digest(parts: Iterable[tuple[int, str]]) -> str:
    """Tells a table from another one, by the numbers and footprints of its parts in order."""
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()


def group_rows(footer: pq.FileMetaData) -> list[int]:
    """The number of rows of each row group."""
    return [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
