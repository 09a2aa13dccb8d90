"""One output file of a run or an export: what its format writes, the Parquet table of its samples, and its statistics."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import BinaryIO, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.records import LeftOut, WrittenShard
from beam_curate.runs import score_table
from beam_curate.runs.packing import shard_name
from beam_curate.runs.part_files import damage_named
from beam_curate.runs.placed_rows import SOURCE_RANK
from beam_curate.runs.row_sources import LINKS, SOURCE_PART
from beam_curate.runs.run_files import INDEX
from beam_curate.storage.files import atomic_output, delete, exists, join, status_of, write_atomic, write_json
from beam_curate.storage.json_files import DamagedFileError, read_object
from beam_curate.storage.parquet_reading import open_parquet

LIST_OF_FILES: Final = INDEX
"""The file for which `Format.index` gives the content."""


@dataclass(frozen=True)
class Written:
    """What a format has written of a file's samples.

    Attributes:
        table: A row for each sample that was written, in their order, for the Parquet file beside.
        members: The extensions of the samples' members as they stand in the file, ascending: to `datasets` JPG is not jpg.
        alike: Whether each sample has all of them.
        reencoded: How many images were encoded again.
        failures: The samples that could not be written.
        beside: The content of further files, by the ends of their names, see `Format.beside`.
    """

    table: pa.Table
    members: Sequence[str]
    alike: bool
    reencoded: int = 0
    failures: Sequence[LeftOut] = ()
    beside: Mapping[str, bytes] = field(default_factory=dict)


class Format(Protocol):
    """How samples are written: frozen, and pickled to the workers. A new one is one file, in `export.formats`.

    Attributes:
        name: As options, the dataset card and summary.json call it.
        extension: Of its files.
        beside: The ends of the names of further files for each, such as `.tfindex`.
        columns: What it needs of a row; None: all columns. The embedding travels only if it is one of them.
        may_fail: Whether there are samples that it cannot write.
        indexed: Whether wids reads the files.
        threads: How many files a process writes side by side; 0 for `threads.default_threads`.
        prepared: Whether it may change samples or leave out what is in them.
        table_schema: Columns of the tables beside the files; None: whatever the rows have.
        reading: Lines of Python that read the files, for the dataset card.
        described: Lines of the card on what the files hold.
        images: What is done to images, if anything, as sentences that the number of them ends.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def extension(self) -> str: ...  # noqa: D102

    @property
    def beside(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def columns(self) -> Sequence[str] | None: ...  # noqa: D102

    @property
    def may_fail(self) -> bool: ...  # noqa: D102

    @property
    def indexed(self) -> bool: ...  # noqa: D102

    @property
    def threads(self) -> int: ...  # noqa: D102

    @property
    def prepared(self) -> bool: ...  # noqa: D102

    @property
    def table_schema(self) -> pa.Schema | None: ...  # noqa: D102

    @property
    def reading(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def described(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def images(self) -> Sequence[str]: ...  # noqa: D102

    def index(self, files: Sequence[WrittenShard]) -> Mapping[str, object] | None:
        """What index.json says of all files, for their readers; None: there is none."""

    def write(self, out: "HashingWriter", rows: pa.Table) -> Written:
        """Writes the samples of a file.

        All bytes depend on the rows and their sources alone.

        Args:
            out: Takes the file.
            rows: The samples in their order, see `placed_rows.Meeting`.

        Raises:
            SourceChangedError: A source is no longer what was scored.
            StorageError: A source cannot be read.
        """


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
_FINISHED: Final = {
    **{"plan": str, "index": int, "name": str, "samples": int, "size": int, "md5": str, "reencoded": int},
    **{"members": [str], "alike": bool},
    "failures": [{"shard_index": int, "row": int, "key": str, "reason": str, "message": str}],
}


def write_file(format: Format, output: str, index: int, rows: pa.Table, plan: str = "") -> WrittenShard:
    """Writes the file `<index>.<extension>`, those beside it, `<index>.parquet` and `<index>_stats.json`, in this order.

    A sample that cannot be written leaves the file shorter: the caller plans again without it.

    Args:
        format: How the samples are written.
        output: Folder of the run or export.
        index: Of the file.
        rows: Its samples, see `placed_rows.Meeting`.
        plan: Names what decides the rows (`Packing.plan`); it is noted, so that a continued run knows the file again.

    Raises:
        SourceChangedError: A source is no longer what was scored.
        StorageError: A file cannot be read or written.
    """
    name = shard_name(index)
    data_name = f"{name}.{format.extension}"

    def write(stream: BinaryIO) -> tuple[Written, int, str]:
        out = HashingWriter(stream)
        written = format.write(out, rows)
        return written, out.size, out.finish()

    written, size, md5 = write_atomic(output, data_name, write)
    for end in format.beside:
        with atomic_output(output, f"{name}{end}") as stream:
            stream.write(written.beside[end])
    with atomic_output(output, f"{name}.parquet") as stream:
        score_table.write_table(stream, written.table)
    shard = WrittenShard(
        index,
        data_name,
        written.table.num_rows,
        size,
        md5,
        written.reencoded,
        written.members,
        written.alike,
        written.failures,
    )
    write_json(output, f"{name}_stats.json", {**asdict(shard), **shard_stats(written.table), "plan": plan})
    return shard


def finished_file(format: Format, output: str, index: int, plan: str) -> WrittenShard | None:
    """An output file that an earlier try finished by this plan.

    All its files are there, the first in its length, the table with a row for each of its samples, and none was written after the
    statistics, which are written last: what took a file's place later is not what they vouch for.
    Each is looked for by its own name: a listing of the folder for each file would take a time that grows with their square.
    Arguments as for `write_file`.
    """
    name = shard_name(index)
    said = join(output, f"{name}_stats.json")
    if not exists(said):
        return None
    try:
        stats = read_object(said, _FINISHED, "")
    except DamagedFileError:
        return None  # it is written again, as all that is not surely finished
    data, table, *others = [
        join(output, f"{name}{end}") for end in (f".{format.extension}", ".parquet", *format.beside)
    ]
    if stats["plan"] != plan or not all(map(exists, (data, table, *others))):
        return None
    found = [status_of(path) for path in (data, table, *others)]
    if found[0].size != stats["size"] or (stats["samples"] and not all(each.size for each in found)):
        return None
    if max(each.changed for each in found) > status_of(said).changed or not _has_rows(table, stats["samples"]):
        return None
    facts = {key: stats[key] for key in ("index", "name", "samples", "size", "md5", "reencoded", "members", "alike")}
    return WrittenShard(**facts, failures=[LeftOut(**one) for one in stats["failures"]])


def _has_rows(path: str, samples: int) -> bool:
    """Whether a table is whole, as its footer tells."""
    with contextlib.suppress(score_table.ScoreTableError), damage_named(path), open_parquet(path) as table:
        return bool(table.metadata.num_rows == samples)
    return False


def delete_file(format: Format, output: str, index: int) -> None:
    """Deletes an output file with those beside it, its statistics, which vouch for it, first."""
    name = shard_name(index)
    for end in ("_stats.json", f".{format.extension}", ".parquet", *format.beside):
        path = join(output, f"{name}{end}")
        if exists(path):
            delete([path])


def held_bytes(rows: pa.Table) -> int:
    """What writing these rows may hold in memory: in the order of their sources only the members of those with links."""
    order = np.lexsort((rows.column(SOURCE_RANK).to_numpy(), rows.column(SOURCE_PART).to_numpy()))
    if (np.diff(order) > 0).all():
        linked = rows.column(LINKS) if LINKS in rows.column_names else pa.nulls(rows.num_rows)
        rows = rows.filter(pc.is_valid(linked))
    return pc.sum(pc.struct_field(pc.list_flatten(rows.column("members")), "size")).as_py() or 0


def shard_stats(rows: pa.Table) -> dict[str, object]:
    """What a person or a loader wants to know of a file's samples without opening it."""
    scores = [field.name for field in rows.schema if pa.types.is_floating(field.type)]
    return {
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
