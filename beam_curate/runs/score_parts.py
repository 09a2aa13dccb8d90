"""A finished part of the score table: counted, and written with its counts in the file's metadata."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType

import pyarrow as pa

from beam_curate import records
from beam_curate.records import ScorePart
from beam_curate.runs import part_files, score_table
from beam_curate.runs.own_parts import run_mark
from beam_curate.storage.files import atomic_output


def write_part(
    output: str,
    shard_index: int,
    shard: str,
    table: pa.Table,
    folder: str = score_table.FOLDER,
    metadata: Mapping[str, str] | None = None,
    group_rows: Sequence[int] | None = None,
    skipped: Mapping[str, int] = MappingProxyType({}),
) -> ScorePart:
    """Writes all rows of an input shard as its part of the table in `output`, atomically.

    Args:
        output: Folder of the run.
        shard_index: The shard's index.
        shard: Its path.
        table: Its rows, of `score_table.schema`, or of the columns of an overlay.
        folder: The folder below `output`.
        metadata: What the file's metadata says beside the counts.
        group_rows: The number of rows of each row group, see `score_table.write_table`.
        skipped: How many members of the shard have no row of their own, by kind.
    """
    statuses, reason_counts = score_table.count(table)
    part = ScorePart(
        shard_index=shard_index,
        shard=shard,
        path=score_table.part_name(shard_index, folder),
        rows=table.num_rows,
        kept=statuses[records.KEPT],
        rejected=statuses[records.REJECTED],
        failed=statuses[records.FAILED],
        reasons=dict(sorted(reason_counts.items())),
        skipped=dict(skipped),
    )
    counted = {name: value for name, value in asdict(part).items() if name not in ("footprint", "scored")}
    said = {
        score_table.PART_METADATA: json.dumps(counted),
        score_table.RUN_METADATA: run_mark(output),
        **(metadata or {}),
    }
    with atomic_output(output, part.path) as stream:
        footer = score_table.write_table(stream, table, said, group_rows)
    footprint = part_files.footprint(footer.schema.to_arrow_schema(), footer)
    return replace(part, footprint=footprint, scored=said.get(score_table.SOURCE_METADATA, footprint))


def replace_failed(table: pa.Table, again: pa.Table) -> pa.Table:
    """A part with some of its failed rows replaced by the same samples, scored again.

    Raises:
        ScoreTableError: A row to replace is not there, or has another key. That it failed is not asked: a bundle that is
            repeated finds what it has written itself.
    """
    places = {index: place for place, index in enumerate(table.column("index").to_pylist())}
    keys = table.column("key").to_pylist()
    order = list(range(table.num_rows))
    for position, (index, key) in enumerate(
        zip(again.column("index").to_pylist(), again.column("key").to_pylist(), strict=True)
    ):
        place = places.get(index)
        if place is None or keys[place] != key:
            was = f"was {keys[place]!r}" if place is not None else "was not there"
            raise score_table.ScoreTableError(
                f"{again.column('shard')[position].as_py()} changed after it was scored: its sample number {index} {was}, and is "
                f"{key!r} now. Restore the shard, or score it again into a new output folder"
            )
        order[place] = table.num_rows + position
    # As read from Parquet, lists name their items otherwise, which would show in the file's bytes.
    both = pa.concat_tables([score_table.with_later_columns(table).cast(again.schema), again])
    return both.take(pa.array(order)).combine_chunks()
