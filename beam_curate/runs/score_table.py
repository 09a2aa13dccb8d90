"""The score table: Parquet, one row per input sample, one file per input shard.

It is the product of the GPU pass: kept, rejected and failed samples, every score, the embedding, the facts of the
image, and where each member's bytes lie in the source. Thresholds, duplicates and exports are decided on it.

A part is written when its shard is complete, so a stopped run keeps the parts it has. `SCHEMA_VERSION` is in each
file's metadata; a reader refuses versions it does not know.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_curate.records import Member, ScoredSample

SCHEMA_VERSION: Final = "1"
FOLDER: Final = "scores"
VERDICTS: Final = "verdicts"
"""The folder of overlays: verdicts that stand in place of those in the score table, see `overlays`."""
# Rows of a row group: about 5 MB with 768-d embeddings; a writer that needs a few rows reads few groups.
ROW_GROUP_ROWS: Final = 4096
# The key of a part's metadata under which its counts lie, as the JSON of a ScorePart.
PART_METADATA: Final = "beam_curate.part"

RUN_METADATA: Final = "beam_curate.run"
"""The key of a part's metadata under which the mark of the run lies that wrote it, see `own_parts`."""

SOURCE_METADATA: Final = "beam_curate.scores"
"""The key of an overlay's metadata under which the footprint of the part lies that it was made for."""

_MEMBERS = pa.list_(
    pa.struct([("suffix", pa.string()), ("offset", pa.int64()), ("size", pa.int64())]),
)
_FIXED_COLUMNS: Final = [
    ("key", pa.string()),
    ("shard", pa.string()),
    ("shard_index", pa.int32()),
    ("index", pa.int32()),
    ("status", pa.string()),
    ("step", pa.string()),
    ("reason", pa.string()),
    ("error_message", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("format", pa.string()),
    ("size", pa.int64()),
    ("sha256", pa.string()),
    ("exif", pa.string()),
    ("caption", pa.string()),
    ("url", pa.string()),
    ("uid", pa.string()),
    ("image", pa.string()),
    ("members", _MEMBERS),
    ("links", pa.list_(pa.string())),
]


IDENTITY: Final = ("key", "shard", "shard_index", "index")
"""The columns that tell rows apart."""
VERDICT: Final = ("status", "step", "reason", "error_message")
EMBEDDING: Final = "embedding"
SECOND_PREFIX: Final = "embedding_"
_NONE: Final[Mapping[str, int]] = MappingProxyType({})
# Columns that came after the first tables of this version; a table without them is read as if they held nulls.
LATER_COLUMNS: Final = ("uid", "links")
NEEDED_COLUMNS: Final = (*(name for name, _ in _FIXED_COLUMNS if name not in LATER_COLUMNS), EMBEDDING)
"""Those that every part has."""


AGAIN: Final = (
    "restore it, or make it again: delete it, and summary.json in the folder of its run if there is one, and repeat the command "
    "of that run with `resume`"
)
"""What to do about a damaged file of a run's table: a part that is not there is made again."""


class ScoreTableError(ValueError):
    """A score table that cannot be read or written as asked."""


def schema(score_names: Sequence[str], embedding_dim: int, second: Mapping[str, int] = _NONE) -> pa.Schema:
    """The columns: the fixed ones, one float32 per score, `embedding` and those of second models (fixed_size_list<float16>).

    A failed row's embedding is all zeros rather than null: pyarrow (25.0) writes nulls in a fixed-size list to Parquet
    but cannot read them back. An L2-normalised embedding is never all zeros. Its scores are null.

    Args:
        score_names: The names of the scores.
        embedding_dim: The width of `embedding`.
        second: By the names of second embeddings their widths.
    """
    more = {SECOND_PREFIX + name: pa.list_(pa.float16(), dim) for name, dim in second.items()}
    taken = {*(name for name, _ in _FIXED_COLUMNS), EMBEDDING, *more, "source_key"}
    clash = sorted(set(score_names) & taken)
    if clash:
        raise ScoreTableError(f"a score cannot be named {clash[0]!r}: the score table has a column of that name")
    return pa.schema(
        [
            *_FIXED_COLUMNS,
            *((name, pa.float32()) for name in score_names),
            (EMBEDDING, pa.list_(pa.float16(), embedding_dim)),
            *more.items(),
        ],
        metadata={"beam_curate.schema_version": SCHEMA_VERSION},
    )


def to_table(
    rows: Sequence[ScoredSample], score_names: Sequence[str], embedding_dim: int, second: Mapping[str, int] = _NONE
) -> pa.Table:
    """The rows as a table of `schema(...)`, in the order given.

    Raises:
        ScoreTableError: An embedding does not have as many values as its column, or a row has other second embeddings.
    """
    facts = [row.facts for row in rows]
    columns: dict[str, list[object]] = {
        "key": [row.ref.key for row in rows],
        "shard": [row.ref.shard for row in rows],
        "shard_index": [row.ref.shard_index for row in rows],
        "index": [row.ref.index for row in rows],
        "status": [row.status for row in rows],
        "step": [row.step or None for row in rows],
        "reason": [row.reason or None for row in rows],
        "error_message": [row.message or None for row in rows],
        "width": [fact and (fact.width or None) for fact in facts],
        "height": [fact and (fact.height or None) for fact in facts],
        "format": [fact and (fact.format or None) for fact in facts],
        "size": [fact and fact.size for fact in facts],
        "sha256": [fact and (fact.sha256 or None) for fact in facts],
        "exif": [fact and (fact.exif or None) for fact in facts],
        "caption": [row.ref.caption for row in rows],
        "url": [row.ref.url for row in rows],
        "uid": [row.ref.uid for row in rows],
        "image": [row.ref.image or None for row in rows],
        "members": [
            [{"suffix": member.suffix, "offset": member.offset, "size": member.size} for member in row.ref.members]
            for row in rows
        ],
        "links": [_links(row.ref.members) for row in rows],
    }
    for name in score_names:
        values = [row.scores.get(name, math.nan) for row in rows]
        columns[name] = [None if math.isnan(value) else value for value in values]
    table_schema = schema(score_names, embedding_dim, second)
    arrays = [pa.array(columns[field.name], field.type) for field in table_schema if field.name in columns]
    _check_second(rows, second)
    arrays.append(_embeddings(rows, [row.embedding for row in rows], embedding_dim, "embedding_dim={}"))
    for name, dim in second.items():
        vectors = [row.embeddings.get(name, b"") for row in rows]
        arrays.append(_embeddings(rows, vectors, dim, f"second_embeddings[{name!r}]={{}}"))
    return pa.Table.from_arrays(arrays, schema=table_schema)


def _links(members: Sequence[Member]) -> list[str | None] | None:
    """For each member the name of the one whose bytes it links to, or None; None if no member is a link."""
    return [member.link or None for member in members] if any(member.link for member in members) else None


def _check_second(rows: Sequence[ScoredSample], second: Mapping[str, int]) -> None:
    """Refuses a row whose second embeddings are not those of the table: nothing is left out without a word."""
    for row in rows:
        if row.embedding and row.embeddings.keys() != second.keys():
            raise ScoreTableError(
                f"sample {row.ref.key!r} of {row.ref.shard} has the second embeddings {sorted(row.embeddings)}, and the score "
                f"table's are {sorted(second)}; give second_embeddings with the width of each"
            )


def _embeddings(rows: Sequence[ScoredSample], vectors: Sequence[bytes], dim: int, remedy: str) -> pa.FixedSizeListArray:
    matrix = np.zeros((len(rows), dim), "<f2")
    for position, (row, data) in enumerate(zip(rows, vectors, strict=True)):
        if data:
            vector = np.frombuffer(data, "<f2")
            if vector.shape != (dim,):
                raise ScoreTableError(
                    f"sample {row.ref.key!r} of {row.ref.shard}: its embedding has {vector.size} values and the score "
                    f"table's column {dim}; give {remedy.format(vector.size)}"
                )
            matrix[position] = vector
    return embedding_column(matrix)


def embedding_column(matrix: npt.NDArray[np.float16]) -> pa.FixedSizeListArray:
    """A column of embeddings, (N, D) float16."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def write_table(
    stream: BinaryIO,
    table: pa.Table,
    metadata: Mapping[str, str] | None = None,
    group_rows: Sequence[int] | None = None,
) -> pq.FileMetaData:
    """Writes a table as Parquet; the same table gives the same bytes. Returns what its footer says.

    zstd level 1, BYTE_STREAM_SPLIT on the scores and no dictionary for them. Embeddings are plain: DuckDB (1.4) reads that
    encoding of FLOAT and DOUBLE only, and split they are 8 % smaller and take five times as long to read.

    Args:
        stream: Takes the file.
        table: The rows.
        metadata: Added to that of the table's schema.
        group_rows: The number of rows of each row group; None: ROW_GROUP_ROWS each.
    """
    if metadata:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    dictionary = [
        name for name in ("shard", "status", "step", "reason", "format", "image") if name in table.schema.names
    ]
    footers: list[pq.FileMetaData] = []
    with pq.ParquetWriter(
        stream,
        table.schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=dictionary,
        use_byte_stream_split=floats,
        metadata_collector=footers,
    ) as writer:
        if group_rows is None:
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        start = 0
        for rows in group_rows or ():
            writer.write_table(table.slice(start, rows), row_group_size=max(1, rows))
            start += rows
    return footers[0]


def score_names(table_schema: pa.Schema) -> list[str]:
    """The names of the scores in a table's schema: all columns but the fixed ones and the embeddings."""
    fixed = {name for name, _ in _FIXED_COLUMNS}
    return [
        field.name for field in table_schema if field.name not in fixed and not pa.types.is_fixed_size_list(field.type)
    ]


def second_embeddings(table_schema: pa.Schema) -> dict[str, int]:
    """The names and widths of the second embeddings in a table's schema."""
    return {
        field.name.removeprefix(SECOND_PREFIX): field.type.list_size
        for field in table_schema
        if pa.types.is_fixed_size_list(field.type) and field.name.startswith(SECOND_PREFIX)
    }


def with_later_columns(table: pa.Table) -> pa.Table:
    """A table that was written before there were some of the columns, with these, of nulls, in their places."""
    for place, field in _later(table.schema):
        table = table.add_column(place, field, pa.nulls(table.num_rows, field.type))
    return table


def with_later_fields(table_schema: pa.Schema) -> pa.Schema:
    """The schema of a table, as `with_later_columns` gives the table."""
    for place, field in _later(table_schema):
        table_schema = table_schema.insert(place, field)
    return table_schema


def _later(table_schema: pa.Schema) -> Iterator[tuple[int, pa.Field]]:
    """The columns that a table lacks, and their places when those before them are there."""
    width = len(table_schema)
    for place, (name, kind) in enumerate(_FIXED_COLUMNS):
        if name in LATER_COLUMNS and name not in table_schema.names:
            yield min(place, width), pa.field(name, kind)
            width += 1


def part_name(shard_index: int, folder: str = FOLDER) -> str:
    """The path of a shard's part below the output folder."""
    return f"{folder}/part-{shard_index:05d}.parquet"


def count(table: pa.Table) -> tuple[Counter[str], Counter[str]]:
    """Rows by status, and rows that are not kept by reason."""
    return _counted(table.column("status")), _counted(table.column("reason"))


def _counted(texts: pa.ChunkedArray) -> Counter[str]:
    found = pc.value_counts(texts.drop_null())
    return Counter(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))
