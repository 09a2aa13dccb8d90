"""One shard of packed images: the tar, and beside it a table with a row for each row of the input, packed or failed."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.intake.entries import Entry, PackedShard, ShardEntries
from beam_curate.intake.images import CannotPackError, Images
from beam_curate.progress import PROGRESS
from beam_curate.runs.division import Division
from beam_curate.runs.output_files import HashingWriter
from beam_curate.runs.packing import shard_name
from beam_curate.runs.run import Run
from beam_curate.storage.files import atomic_output, delete, exists, join, status_of, write_atomic
from beam_curate.storage.json_files import misfit
from beam_curate.storage.json_records import of_json, shape_of
from beam_curate.storage.parquet_reading import open_parquet
from beam_curate.tars.writing import write_end, write_member

PACKED: Final = "packed"
FAILED: Final = "failed"
SCHEMA: Final = pa.schema(
    [("key", pa.string()), ("status", pa.string()), ("reason", pa.string()), ("error_message", pa.string()),
     ("source", pa.string()), ("image", pa.string()), ("size", pa.int64()), ("sha256", pa.string())]
)  # fmt: skip
_SAID: Final = b"beam_curate.pack"
"""The key in the table's own metadata under which stands what the shard is, and the plan that it was written by."""


class _Row(NamedTuple):
    """A row of the table beside a shard: SCHEMA."""

    key: str
    status: str
    reason: str
    error_message: str
    source: str
    image: str | None = None
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class ShardWriting:
    """How shards are written.

    Attributes:
        output: The folder.
        samples_per_shard: How many rows a shard is made of.
        column: The column with the bytes, of tables that have them.
        max_member_bytes: Larger images fail.
    """

    output: str
    samples_per_shard: int
    column: str = ""
    max_member_bytes: int = 1 << 27

    def __post_init__(self) -> None:
        Division(self.samples_per_shard)  # refuses a wrong number

    def write(self, shards: Sequence[ShardEntries]) -> Iterator[PackedShard]:
        """Writes shards whose images follow each other in the input, those that are finished left out.

        A row that cannot be packed leaves its shard shorter, and is in its table.

        Raises:
            StorageError: A file cannot be read or written.
        """
        with Images(self.max_member_bytes) as images:
            for shard in shards:
                plan = self._plan(shard)
                yield self._finished(shard.index, plan) or self._written(shard, plan, images)

    def _written(self, shard: ShardEntries, plan: str, images: Images) -> PackedShard:
        name = f"{shard_name(shard.index)}.tar"

        def write(stream: BinaryIO) -> tuple[list[_Row], int, str]:
            out = HashingWriter(stream)
            rows = [self._counted(out, entry, images) for entry in shard.entries]
            write_end(out)
            return rows, out.size, out.finish()

        if any(entry.failure is None for entry in shard.entries):
            rows, size, md5 = write_atomic(self.output, name, write)
        else:
            rows, size, md5 = [_row(entry) for entry in shard.entries], 0, ""
            PROGRESS.add(samples=len(rows), failed=len(rows))
        reasons = Counter(row.reason for row in rows if row.reason)
        failed = sum(reasons.values())
        if size and failed == len(rows):
            delete([join(self.output, name)])  # a tar without a sample
            size, md5 = 0, ""
        done = PackedShard(shard.index, name if size else "", len(rows) - failed, failed, size, md5, dict(reasons))
        said = json.dumps({"plan": plan, **asdict(done)})
        table = pa.table([list(column) for column in zip(*rows, strict=True)], SCHEMA.with_metadata({_SAID: said}))
        with atomic_output(self.output, _table(shard.index)) as stream:
            pq.write_table(table, stream)
        return done

    def _counted(self, out: HashingWriter, entry: Entry, images: Images) -> _Row:
        row = self._pack(out, entry, images)
        PROGRESS.add(samples=1, failed=row.status == FAILED)
        return row

    def _pack(self, out: HashingWriter, entry: Entry, images: Images) -> _Row:
        """Writes the members of an entry, if all of them are there, and gives its row."""
        if entry.failure is not None:
            return _row(entry)
        try:
            data, suffix = images.read(entry, self.column)
            beside = {extension: images.beside(path) for extension, path in sorted(entry.beside.items())}
        except CannotPackError as error:
            return _row(entry)._replace(status=FAILED, reason=error.reason, error_message=error.message)
        texts = {extension: text.encode() for extension, text in sorted(entry.texts.items())}
        for extension, content in ((suffix, data), *beside.items(), *texts.items()):
            write_member(out, f"{entry.key}.{extension}", content)
        sha256 = hashlib.sha256(data).hexdigest()
        return _row(entry)._replace(image=f"{entry.key}.{suffix}", size=len(data), sha256=sha256)

    def _plan(self, shard: ShardEntries) -> str:
        """Names all that decides the content of a shard: equal plans give equal bytes, as long as the files stay as they are."""
        said = (self.samples_per_shard, self.column, self.max_member_bytes, shard.index)
        digest = hashlib.blake2b(repr(said).encode(), digest_size=16)
        for entry in shard.entries:
            digest.update(repr([_sorted(value) for value in vars(entry).values()]).encode(errors="surrogatepass"))
        return digest.hexdigest()

    def _finished(self, index: int, plan: str) -> PackedShard | None:
        """The shard, if an earlier try finished it by this plan.

        Its table, which is written last, is there, and its tar in its length, and not written after the table.
        """
        path = join(self.output, _table(index))
        if not exists(path):
            return None
        try:
            with open_parquet(path) as file:
                said = json.loads((file.schema_arrow.metadata or {}).get(_SAID, b"{}"))
        except (pa.ArrowInvalid, ValueError):
            return None
        if misfit(said, shape_of(PackedShard)) or said.get("plan") != plan:
            return None
        shard = of_json(PackedShard, said)
        tar = join(self.output, shard.name)
        if not shard.name:
            return shard
        if not exists(tar):
            return None
        found = status_of(tar)
        return shard if found.size == shard.size and found.changed <= status_of(path).changed else None


def _row(entry: Entry) -> _Row:
    failure = entry.failure
    if failure is None:
        return _Row(entry.key, PACKED, "", "", entry.source)
    return _Row(entry.key, FAILED, failure.reason, failure.message, entry.source)


def _table(index: int) -> str:
    return f"{Run.packed_rows}/{shard_name(index)}.parquet"


def _sorted(value: Any) -> Any:
    return sorted(value.items()) if isinstance(value, Mapping) else value
