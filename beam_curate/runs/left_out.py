"""failures.parquet: the kept samples that are in no output file, since its format cannot take them.

It is written as soon as they are known, before the files are planned again without them: a run that is continued then plans
so from the start, and does not write a file twice.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.records import LeftOut
from beam_curate.runs.part_files import damage_named
from beam_curate.runs.run_files import FAILURES
from beam_curate.runs.score_table import ScoreTableError
from beam_curate.storage.files import atomic_output, exists, join, open_read

_KNOWN_FOR: Final = b"beam_curate.left_out"
"""The key of its metadata that says of which rows it tells: their digest, and the parts that its rows come from."""
_SCHEMA: Final = pa.schema(
    [("key", pa.string()), ("shard", pa.string()), ("row", pa.int32()), ("reason", pa.string()),
     ("error_message", pa.string())]
)  # fmt: skip


def write_left_out(output: str, left_out: Iterable[LeftOut], shards: Mapping[int, str], rows: str) -> None:
    """Writes the file.

    Args:
        output: Folder of the run or export.
        left_out: The samples; none gives a file without rows.
        shards: What a part is called there, by its index.
        rows: Names the rows that were packed, see `Packing.rows`.
    """
    ordered = sorted(left_out, key=lambda one: (one.shard_index, one.row))
    listed = [
        {"key": one.key, "shard": shards[one.shard_index], "row": one.row, "reason": one.reason,
         "error_message": one.message}
        for one in ordered
    ]  # fmt: skip
    known = json.dumps({"rows": rows, "parts": [one.shard_index for one in ordered]}).encode()
    table = pa.Table.from_pylist(listed, _SCHEMA.with_metadata({_KNOWN_FOR: known}))
    with atomic_output(output, FAILURES) as stream:
        pq.write_table(table, stream)


def read_left_out(output: str, rows: str) -> list[LeftOut]:
    """What an earlier try of the same run has found; nothing if its rows were others, or the file is damaged."""
    path = join(output, FAILURES)
    if not exists(path):
        return []
    try:
        with damage_named(path), open_read(path) as stream:
            table = pq.ParquetFile(stream).read(use_threads=False)
        known = json.loads((table.schema.metadata or {}).get(_KNOWN_FOR, b"{}"))
    except (ScoreTableError, ValueError):
        return []  # they are found again
    if known.get("rows") != rows:
        return []
    found = zip(known["parts"], table.to_pylist(), strict=True)
    return [LeftOut(part, row["row"], row["key"], row["reason"], row["error_message"]) for part, row in found]
