"""What ends a packing: index.json for wids, sizes.json, and summary.json as the mark of a complete one."""

from collections import Counter
from collections.abc import Mapping, Sequence

from beam_curate.intake.entries import PackedShard
from beam_curate.records import WrittenShard
from beam_curate.runs.packing import shard_name
from beam_curate.runs.run import Run
from beam_curate.runs.summary import AccountingError, Packed, PackSummary
from beam_curate.runs.wids import wids_index
from beam_curate.storage.files import delete, files_under, join
from beam_curate.storage.json_records import of_json, to_json


def finish_packing(
    output: str,
    rows: int,
    shards: Sequence[PackedShard],
    skipped: Mapping[str, int],
    classes: Sequence[str],
    about: Mapping[str, object],
) -> PackSummary:
    """Checks the accounts and writes the last files; returns the summary.

    Args:
        output: The folder.
        rows: How many rows the input has.
        shards: All shards.
        skipped: What of the input is not a row, by kind.
        classes: The class folders in the order of their indexes, if there are any.
        about: What to add to the summary.

    Raises:
        AccountingError: input = packed + failed does not hold; the summary is not written then.
    """
    shards = sorted(shards, key=lambda shard: shard.index)
    packed, failed = sum(shard.packed for shard in shards), sum(shard.failed for shard in shards)
    if packed + failed != rows or [shard.index for shard in shards] != list(range(len(shards))):
        raise AccountingError(f"{rows} rows came in, {packed} were packed and {failed} failed, in {len(shards)} shards")
    _delete_others(output, shards)
    reasons: Counter[str] = Counter()
    for shard in shards:
        reasons.update(shard.reasons)
    written = [shard for shard in shards if shard.name]
    files = [
        WrittenShard(shard.index, shard.name, shard.packed, shard.size, shard.md5, 0, (), False, ())
        for shard in written
    ]
    said = {
        "pack": to_json(Packed(rows, failed, packed, dict(reasons.most_common()))),
        "skipped": dict(skipped),
        **({"classes": list(classes)} if classes else {}),
        "output_shards": len(written),
        "output_bytes": sum(shard.size for shard in written),
        **about,
    }
    Run(output).end_export(files, wids_index(files), said)
    return of_json(PackSummary, said)


def _delete_others(output: str, shards: Sequence[PackedShard]) -> None:
    """Deletes what a packing of more rows left, which was continued with fewer."""
    names = {join(output, shard.name) for shard in shards}
    names |= {join(output, Run.packed_rows, f"{shard_name(shard.index)}.parquet") for shard in shards}
    there = [*files_under(output, "[0-9]*.tar"), *files_under(output, f"{Run.packed_rows}/[0-9]*.parquet")]
    others = [path for path in there if path not in names]
    if others:
        delete(others)
