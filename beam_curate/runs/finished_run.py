"""A finished run as a source: its output shards, and where in them each member of each sample lies.

The spans are computed, not read: the shards were written by `shard_writing`, so their layout follows from the names and sizes
in the Parquet table beside them, and the end must be where the shard ends.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa

from beam_curate.records import Shard
from beam_curate.runs.packing import shard_name
from beam_curate.runs.part_files import damage_named
from beam_curate.runs.run_files import INDEX, RUN, SUMMARY
from beam_curate.runs.score_table import AGAIN
from beam_curate.runs.state_files import KINDS, ended_kind, read_index, read_summary, repeat_remedy
from beam_curate.runs.summary import Summary
from beam_curate.storage.files import exists, files_under, join
from beam_curate.storage.parquet_reading import ParquetFile, open_parquet
from beam_curate.tars.headers import BLOCK, padded
from beam_curate.tars.writing import END, member_header, safe_key

_PLAIN_NAME = 100  # bytes of the name field of a ustar header
_PLAIN_SIZE = 8**11  # its size field has 11 octal digits


class RunNotUsableError(ValueError):
    """The folder holds no finished run, or one that does not fit together; the message says what to do."""


@dataclass(frozen=True)
class PackedRun:
    """A finished run of `curate`, `select` or `dedup` that has output shards.

    Attributes:
        folder: Where it lies.
        summary: Its summary.json.
        shards: Its output shards.
        counts: How many samples each shard holds.
        digests: The md5 of each shard.
        schema: The columns of the shards' tables.
    """

    folder: str
    summary: Summary
    shards: Sequence[Shard]
    counts: Sequence[int]
    digests: Sequence[str]
    schema: pa.Schema

    @property
    def total(self) -> int:
        """The number of samples."""
        return sum(self.counts)


def read_run(folder: str) -> PackedRun:
    """Looks at a run and checks that what its index and its summary say lies there.

    Raises:
        RunNotUsableError: It is none, is not finished, has no samples, or lacks a file.
        DamagedFileError: Its summary or its index is damaged.
        ScoreTableError: The first table is damaged.
    """
    if not exists(join(folder, SUMMARY)):
        started = exists(join(folder, RUN))
        remedy = "is not finished; continue it with `resume`" if started else "holds no run; give the folder of one"
        raise RunNotUsableError(f"{folder} {remedy}")
    if kind := ended_kind(folder):
        raise RunNotUsableError(
            f"{folder} holds {KINDS[kind]}, and is not a run of beam-curate curate, select or dedup; give the folder of one"
        )
    summary = read_summary(folder)
    if summary.table_only:
        raise RunNotUsableError(
            f"{folder} has a score table and no shards yet, because it was made with `table_only`: pack it with "
            "beam-curate select, or by the same command with `resume` and without `table_only`"
        )
    if summary.files is not None:
        raise RunNotUsableError(
            f"{folder} was written as {summary.files.format} for training, and lacks a part of what a run has of its samples; "
            "give the run that it was selected from, or the same selection without `format` and the options that belong to it"
        )
    if not exists(join(folder, INDEX)):
        raise RunNotUsableError(f"{join(folder, INDEX)} is missing: {repeat_remedy(folder)}")
    kept = summary.funnel.kept
    listed = read_index(folder)
    if not listed:
        raise RunNotUsableError(f"{folder} has no kept samples; select some with beam-curate select first")
    found = files_under(folder, "[0-9]*")
    shards = [Shard(index, join(folder, entry.url), entry.filesize) for index, entry in enumerate(listed)]
    for shard in shards:
        if found.get(shard.path) != shard.size:
            there = f"has {found[shard.path]} bytes" if shard.path in found else "is missing"
            raise RunNotUsableError(f"{shard.path} {there}, and {INDEX} says {shard.size} bytes; restore the file")
        if not found.get(table_path(folder, shard.index)):
            there = "is empty" if table_path(folder, shard.index) in found else "is missing"
            raise RunNotUsableError(f"{table_path(folder, shard.index)} {there}: {repeat_remedy(folder)}")
    counts = [entry.nsamples for entry in listed]
    if sum(counts) != kept:
        raise RunNotUsableError(
            f"{folder}: {INDEX} names {sum(counts)} samples and {SUMMARY} {kept}; restore both files"
        )
    with open_samples_table(folder, 0) as first:
        schema = first.schema_arrow.remove_metadata()
    return PackedRun(folder, summary, shards, counts, [entry.md5sum for entry in listed], schema)


def shard_path(folder: str, index: int) -> str:
    """The tar of a shard."""
    return join(folder, f"{shard_name(index)}.tar")


def table_path(folder: str, index: int) -> str:
    """The table of a shard's samples."""
    return join(folder, f"{shard_name(index)}.parquet")


@contextlib.contextmanager
def open_samples_table(folder: str, index: int) -> Iterator[ParquetFile]:
    """Opens the table of a shard's samples, for `samples_of`.

    Raises:
        ScoreTableError: It is damaged.
    """
    path = table_path(folder, index)
    with contextlib.ExitStack() as stack:
        with damage_named(path):
            file = stack.enter_context(open_parquet(path))
        yield file


def read_samples_table(folder: str, shard: Shard, columns: Sequence[str]) -> pa.Table:
    """The rows of a shard's samples, see `samples_of`."""
    with open_samples_table(folder, shard.index) as file:
        return samples_of(file, folder, shard, columns)


def samples_of(file: ParquetFile, folder: str, shard: Shard, columns: Sequence[str]) -> pa.Table:
    """The rows of a shard's samples in tar order; `members` and `image` are as they are in the shard itself.

    Args:
        file: The table of its samples.
        folder: The run's folder.
        shard: The shard.
        columns: What to read; `key` and `members` are among them.

    Raises:
        RunNotUsableError: The table does not tell of this shard.
        ScoreTableError: It is damaged.
    """
    path = table_path(folder, shard.index)
    with damage_named(path):
        table = file.read(columns)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise RunNotUsableError(f"{path} has no column {missing[0]!r}; {AGAIN}")
    members, end = _spans(table.column("key").to_pylist(), table.column("members").combine_chunks())
    if end != shard.size:
        raise RunNotUsableError(
            f"{shard.path} has {shard.size} bytes, and by {shard_name(shard.index)}.parquet it would have {end}: the two do "
            "not belong together; make the run again"
        )
    written: dict[str, pa.Array] = {"members": members}
    if "image" in table.column_names:
        pairs = zip(table.column("key").to_pylist(), table.column("image").to_pylist(), strict=True)
        suffixes = [written_suffix(key, suffix) for key, suffix in pairs]
        written["image"] = pa.array(suffixes, table.schema.field("image").type)
    if "links" in table.column_names:  # the tar has the bytes themselves
        written["links"] = pa.nulls(table.num_rows, table.schema.field("links").type)
    for name, values in written.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
    return table


def written_suffix(key: str, suffix: str) -> str:
    """A member's extension as the tar has it: names that could do harm were changed when they were written."""
    return safe_key(f"{key}.{suffix}")[len(key) + 1 :]


def _spans(keys: Sequence[str], members: pa.ListArray) -> tuple[pa.ListArray, int]:
    """The members of each sample with their spans in the tar that was written of them, and the length of the tar."""
    counts = members.value_lengths().to_pylist()
    flat = members.flatten()
    owners = [key for key, count in zip(keys, counts, strict=True) for _ in range(count)]
    sizes = flat.field("size").to_pylist()
    suffixes, offsets, position = [], [], 0
    for key, suffix, size in zip(owners, flat.field("suffix").to_pylist(), sizes, strict=True):
        suffixes.append(written_suffix(key, suffix))
        offsets.append(position + _header_bytes(f"{key}.{suffixes[-1]}", size))
        position = offsets[-1] + padded(size)
    written = {"suffix": suffixes, "offset": offsets, "size": sizes}
    columns = [pa.array(written.get(each.name, [None] * len(flat)), each.type) for each in flat.type]
    spans = pa.StructArray.from_arrays(columns, fields=list(flat.type))
    starts = pa.array([0, *accumulate(counts)], pa.int32())
    return pa.ListArray.from_arrays(starts, spans, type=members.type), position + len(END)


def _header_bytes(name: str, size: int) -> int:
    if name.isascii() and len(name) <= _PLAIN_NAME and size < _PLAIN_SIZE:
        return BLOCK
    return len(member_header(name, size))
