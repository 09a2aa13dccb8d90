"""Where each sample of a run goes in an export: arithmetic on its position, and its row on the way there."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import zstandard

from beam_curate.export.files import ROW, Export, ExportFailure
from beam_curate.export.samples import SOURCE
from beam_curate.records import Shard, record
from beam_curate.runs.finished_run import RunNotUsableError, read_run, read_samples_table
from beam_curate.runs.packing import positions_of

_PLACE = "place"
_PLACED = ((SOURCE, pa.int32()), (ROW, pa.int32()), (_PLACE, pa.int32()))
_LEVEL = 1


@record
class ShardShare:
    """A shard of the run: `first` is the position of its first sample among all of the run."""

    shard: Shard
    first: int
    samples: int


@record
class RowsOfShard:
    """What a file takes of one shard: an Arrow record batch without its schema, compressed with zstd."""

    shard_index: int
    rows: bytes


def shares(folder: str) -> Iterator[ShardShare]:
    """The shards of a run with their positions."""
    run = read_run(folder)
    for shard, first, samples in zip(run.shards, run.firsts(), run.counts, strict=True):
        yield ShardShare(shard, first, samples)


def plan_name(failures: Sequence[ExportFailure]) -> str:
    """Names the samples that are left out."""
    left_out = sorted((failure.shard_index, failure.row) for failure in failures)
    return hashlib.sha256(repr(left_out).encode()).hexdigest()[:16] if left_out else "all"


def rows_by_file(
    share: ShardShare, export: Export, failures: Sequence[ExportFailure], again: bool = False
) -> Iterator[tuple[int, RowsOfShard]]:
    """The rows of one shard, by the file that they go to.

    Args:
        share: The shard.
        export: What is exported.
        failures: Samples to leave out.
        again: Give nothing if there are no failures.
    """
    if again and not failures:
        return
    total = export.samples - len(failures)
    table = read_samples_table(export.source, share.shard, export.columns).select(export.columns)
    if table.num_rows != share.samples:
        raise RunNotUsableError(
            f"the table of {share.shard.path} has {table.num_rows} rows, and the shard {share.samples}"
        )
    out_before = sum(failure.shard_index < share.shard.index for failure in failures)
    out_here = {failure.row for failure in failures if failure.shard_index == share.shard.index}
    chosen = [row for row in range(share.samples) if row not in out_here]
    first = share.first - out_before
    positions = positions_of(np.arange(first, first + len(chosen)), total, export.seed)
    files, places = np.divmod(positions, export.samples_per_file)
    rows = table.take(pa.array(chosen, pa.int64()))
    rows = rows.append_column(SOURCE, pa.array(np.full(len(chosen), share.shard.index, np.int32)))
    rows = rows.append_column(ROW, pa.array(np.array(chosen, np.int32)))
    rows = rows.append_column(_PLACE, pa.array(places.astype(np.int32))).combine_chunks()
    for file in np.unique(files).tolist():
        taken = rows.take(pa.array(np.flatnonzero(files == file))).combine_chunks()
        batch = taken.to_batches()[0].serialize().to_pybytes()
        yield file, RowsOfShard(share.shard.index, zstandard.ZstdCompressor(_LEVEL).compress(batch))


def joined_rows(export: Export, shards: Iterable[RowsOfShard]) -> pa.Table:
    """The rows of a file, in their order there, from all the shards that it takes some of."""
    fields = [*(export.schema.field(name) for name in export.columns), *_PLACED]
    schema = pa.schema(fields)
    ordered = sorted(shards, key=lambda taken: taken.shard_index)
    decompress = zstandard.ZstdDecompressor().decompress
    batches = [pa.ipc.read_record_batch(pa.py_buffer(decompress(taken.rows)), schema) for taken in ordered]
    table = pa.Table.from_batches(batches).sort_by(_PLACE).combine_chunks()
    places = table.column(_PLACE).to_numpy()
    if not np.array_equal(places, np.arange(len(places))):
        raise RuntimeError(f"the rows of a file have gaps or meet: {len(places)} rows, places to {places.max()}")
    return table
