"""The duplicates table: Parquet, a part for each input shard, a row for each sample that is in a group of duplicates.

Beside a score table it tells, without the embeddings, which samples are alike: `select --duplicates` keeps the best one of
each group among those that its rules keep.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.duplicates.candidates import FOREIGN, places_of
from beam_curate.duplicates.groups import Members
from beam_curate.duplicates.methods import all_methods
from beam_curate.runs.part_files import damage_named
from beam_curate.runs.score_table import ScoreTableError
from beam_curate.storage.files import atomic_output, exists, join
from beam_curate.storage.parquet_reading import open_parquet

FOLDER: Final = "duplicates"
VERSION: Final = "1"

_METADATA: Final = "beam_curate.duplicates_version"
SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("shard_index", pa.int32()),
        ("index", pa.int32()),
        ("group", pa.uint64()),
        ("place", pa.int32()),
        ("method", pa.string()),
        ("similarity", pa.float32()),
        ("duplicate_of_key", pa.string()),
        ("duplicate_of_shard", pa.string()),
        ("duplicate_of_shard_index", pa.int32()),
        ("duplicate_of_index", pa.int32()),
        ("duplicate_of_other", pa.bool_()),
    ],
    metadata={_METADATA: VERSION},
)
"""`group` is a number for each group, `place` 0 for its best sample, 1 for the next. What a sample is a duplicate of, how that
was found (`exact`, `pixels`, `perceptual`, `semantic`) and how similar the two are (cosine for `semantic`, the share of equal
bits for `perceptual`) is null for the best one. `duplicate_of_other` says that it is a sample of the other dataset."""


AGAIN: Final = (
    "restore it, or make it again: delete duplicates/summary.json, and summary.json beside that folder if there is one, and "
    "repeat the command of that run with `resume`"
)
"""What to do about a damaged file of a duplicates table."""


class DuplicatesError(ValueError):
    """A duplicates table that cannot be read."""


def part_name(shard_index: int) -> str:
    """The path of a shard's part below the output folder."""
    return f"{FOLDER}/part-{shard_index:05d}.parquet"


def to_table(
    members: Members, keys: list[str], shard: str, of_keys: list[str | None], of_shards: list[str | None]
) -> pa.Table:
    """The rows of a part.

    Args:
        members: (M,) of one shard, by row.
        keys: Their keys.
        shard: Their shard.
        of_keys: The keys of what they are duplicates of; None for the best one of a group.
        of_shards: The shards of these.
    """
    shard_index, index = places_of(members["row"])
    of_shard_index, of_index = places_of(members["of"])
    other = (members["of"] & FOREIGN) != 0
    root = members["of"] == members["row"]
    method = np.array([kind.name for kind in all_methods()], object)[members["method"]]
    columns = [
        pa.array(keys, pa.string()),
        pa.array([shard] * len(members), pa.string()),
        pa.array(shard_index, pa.int32()),
        pa.array(index, pa.int32()),
        pa.array(members["group"], pa.uint64()),
        pa.array(members["place"], pa.int32()),
        pa.array(method, pa.string(), mask=root),
        pa.array(members["similarity"], pa.float32(), mask=root),
        pa.array(of_keys, pa.string()),
        pa.array(of_shards, pa.string()),
        pa.array(of_shard_index, pa.int32(), mask=root),
        pa.array(of_index, pa.int32(), mask=root),
        pa.array(other),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def write_part(output: str, shard_index: int, table: pa.Table) -> None:
    """Writes a part, atomically."""
    with atomic_output(output, part_name(shard_index)) as stream:
        pq.write_table(table, stream, compression="zstd", compression_level=1)


def read_part(folder: str, shard_index: int) -> pa.Table:
    """Reads a part.

    Raises:
        DuplicatesError: It is missing, damaged, or of another version.
        StorageError: It cannot be read.
    """
    path = join(folder, part_name(shard_index))
    if not exists(path):
        raise DuplicatesError(f"{path} is missing: {AGAIN}")
    try:
        with damage_named(path), open_parquet(path) as file:
            part = file.read()
    except ScoreTableError as error:
        raise DuplicatesError(f"{path} is damaged, or not a Parquet file: {AGAIN}") from error
    version = (part.schema.metadata or {}).get(_METADATA.encode(), b"none").decode()
    if version != VERSION or not part.schema.equals(SCHEMA):
        raise DuplicatesError(
            f"{path}: duplicates table version {version} is not read by this version of beam_curate, which reads {VERSION}: "
            f"{AGAIN}"
        )
    return part
