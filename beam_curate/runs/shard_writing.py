"""One output shard: its tar, the Parquet table of its samples, and its statistics."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.records import WrittenShard
from beam_curate.runs import score_table
from beam_curate.runs.packing import shard_name
from beam_curate.runs.placed_rows import SOURCE_KEY
from beam_curate.storage.files import atomic_output, exists, join, size_of, write_atomic, write_json
from beam_curate.storage.json_files import DamagedFileError, read_object
from beam_curate.tars import writing
from beam_curate.tars.sources import SourceReader, check_sha256, name_parts


class HashingWriter:
    """Passes writes on to a stream, in large pieces, and keeps their number and md5 (the wids index wants both).

    Attributes:
        size: Bytes written so far.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.size = 0

    def write(self, data: bytes) -> int:
        """Takes all of the data."""
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self.size += len(data)
        if self._waiting_bytes >= _PIECE_BYTES:
            self._pass_on()
        return len(data)

    def _pass_on(self) -> None:
        # Hashing and writing give up Python's lock and wait for it again: once a piece rather than three times a member.
        piece = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._md5.update(piece)
        self._stream.write(piece)

    def finish(self) -> str:
        """Passes on what is left; returns the md5 of all that was written, as hex digits."""
        self._pass_on()
        return self._md5.hexdigest()


_PIECE_BYTES = 1 << 20
_FINISHED = {"plan": str, "name": str, "samples": int, "size": int, "md5": str}


def write_shard(output: str, index: int, rows: pa.Table, plan: str = "") -> WrittenShard:
    """Writes `<index>.tar`, `<index>.parquet` and `<index>_stats.json`, in this order.

    Every member of every sample is copied byte for byte from its source, under the row's key, in the order of the rows
    and, within a sample, of its source. The three files' bytes depend on the rows, the sources and the plan alone.

    Args:
        output: Folder of the run.
        index: Of the shard.
        rows: Its samples, see `placed_rows.Meeting`.
        plan: Names what decides the rows (`Packing.plan`); it is noted, so that a continued run knows the shard again.

    Raises:
        SourceChangedError: A source is no longer what was scored.
    """
    name = shard_name(index)

    def write_tar(stream: BinaryIO) -> tuple[int, str]:
        tar = HashingWriter(stream)
        for member_name, data in _members(rows):
            writing.write_member(tar, member_name, data)
        writing.write_end(tar)
        return tar.size, tar.finish()

    size, md5 = write_atomic(output, f"{name}.tar", write_tar)
    rows = rows.drop_columns([SOURCE_KEY])
    with atomic_output(output, f"{name}.parquet") as stream:
        score_table.write_table(stream, rows)
    shard = WrittenShard(index, f"{name}.tar", rows.num_rows, size, md5)
    write_json(output, f"{name}_stats.json", {**shard_stats(shard, rows), "plan": plan})
    return shard


def finished_shard(output: str, index: int, plan: str) -> WrittenShard | None:
    """An output shard that an earlier try finished by this plan: its three files are there, the tar in its length.

    Args:
        output: Folder of the run.
        index: Of the shard.
        plan: See `write_shard`.
    """
    tar, table, said = (join(output, f"{shard_name(index)}{ending}") for ending in (".tar", ".parquet", "_stats.json"))
    if not exists(said):  # written last
        return None
    try:
        stats = read_object(said, _FINISHED, "")
    except DamagedFileError:
        return None  # it is written again, as all that is not surely finished
    if stats["plan"] != plan or not exists(table) or not exists(tar) or size_of(tar) != stats["size"]:
        return None
    return WrittenShard(index, stats["name"], stats["samples"], stats["size"], stats["md5"])


def held_bytes(rows: pa.Table) -> int:
    """What writing these rows may hold in memory: in the order of their sources only the members of those with links."""
    order = np.lexsort((rows.column("index").to_numpy(), rows.column("shard_index").to_numpy()))
    if (np.diff(order) > 0).all():
        rows = rows.filter(pc.is_valid(rows.column("links")))
    return pc.sum(pc.struct_field(pc.list_flatten(rows.column("members")), "size")).as_py() or 0


def _members(rows: pa.Table) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all members, in the order of the rows.

    A source is read forward. Rows in another order (a shuffle), and members that are links, are read in source order all the
    same, and held in memory until their turn comes: one output shard at most.
    """
    columns = rows.select(
        ["key", SOURCE_KEY, "shard", "shard_index", "image", "sha256", "members", "links"]
    ).to_pylist()
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    order: list[
        tuple[int, int, int, int]
    ] = []  # where a member lies, and whose it is: the row's place, the member's number
    for place, row in enumerate(columns):
        spans[row["shard"]] += [(member["offset"], member["size"]) for member in row["members"]]
        shard_index = row["shard_index"]
        order += [(shard_index, member["offset"], place, number) for number, member in enumerate(row["members"])]
    held: dict[int, dict[int, bytes]] = defaultdict(dict)
    turn = 0
    with SourceReader() as source:
        for shard, members in spans.items():
            source.expect(shard, members)
        for _, _, place, number in sorted(order):
            held[place][number] = _read_member(source, columns[place], number)
            while turn < len(columns) and len(held[turn]) == len(columns[turn]["members"]):
                row, bodies = columns[turn], held.pop(turn)
                for at, member in enumerate(row["members"]):
                    yield f"{row['key']}.{member['suffix']}", bodies[at]
                turn += 1


def _read_member(source: SourceReader, row: Mapping[str, Any], number: int) -> bytes:
    member = row["members"][number]
    suffix, key = name_parts(row[SOURCE_KEY], member["suffix"], row["links"] and row["links"][number])
    data = source.read(row["shard"], member["offset"], member["size"], suffix, key)
    if member["suffix"] == row["image"]:
        check_sha256(data, row["sha256"], row["key"], row["shard"])
    return data


def shard_stats(shard: WrittenShard, rows: pa.Table) -> dict[str, Any]:
    """What a person or a loader wants to know of a shard without opening it."""
    scores = [field.name for field in rows.schema if pa.types.is_floating(field.type)]
    return {
        "name": shard.name,
        "samples": shard.samples,
        "size": shard.size,
        "md5": shard.md5,
        "source_shards": sorted(pc.unique(rows.column("shard")).to_pylist()),
        "formats": dict(sorted(Counter(rows.column("format").to_pylist()).items())),
        "image_bytes": pc.sum(rows.column("size")).as_py(),
        "scores": {name: _summary(rows.column(name).to_numpy()) for name in scores},
    }


def _summary(values: np.ndarray) -> dict[str, float] | None:
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return {
        "min": float(np.min(values)),
        "mean": float(np.mean(values, dtype=np.float64)),
        "max": float(np.max(values)),
    }
