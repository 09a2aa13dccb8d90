"""What ends a run: index.json, sizes.json, and summary.json, which marks the run as complete."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from beam_curate.records import ScorePart, WrittenShard
from beam_curate.runs.configuration import Funnel
from beam_curate.runs.division import Division
from beam_curate.runs.part_files import table_digest
from beam_curate.runs.read_runs import check_read
from beam_curate.runs.run_files import INDEX, SIZES, SUMMARY
from beam_curate.runs.state_files import settle_retry
from beam_curate.runs.summary import AccountingError, Summary, check_files, funnel, skipped_members, summary_of
from beam_curate.runs.wids import wids_index
from beam_curate.storage.files import write_json
from beam_curate.storage.json_records import to_json


def finish_table(output: str, parts: Iterable[ScorePart], input_shards: int, about: Mapping[str, object]) -> Summary:
    """Checks the accounts of a run that ends with its score table and writes summary.json; returns the summary.

    Args:
        output: The run's folder.
        parts: All parts of the score table, with the verdicts that count.
        input_shards: Number of shards that were listed.
        about: What the caller adds to the summary.

    Raises:
        AccountingError: A part is missing or doubled; nothing is written then.
    """
    _, table = _of_the_table(parts, input_shards)
    said = {"table_only": True, **table, "output_shards": 0, "output_bytes": 0, **about}
    settle_retry(output)
    write_json(output, SUMMARY, said)
    return summary_of(said)


def finish_run(
    output: str,
    parts: Iterable[ScorePart],
    files: Iterable[WrittenShard],
    input_shards: int,
    division: Division,
    about: Mapping[str, object],
    failed: int = 0,
    *,
    index: Callable[[Sequence[WrittenShard]], Mapping[str, Any] | None] = wids_index,
    before: Callable[[Summary], object] = lambda summary: None,
) -> Summary:
    """Checks the accounts of a run and writes its last files; returns the summary.

    Args:
        output: The run's folder.
        parts: All parts of the score table.
        files: All output files.
        input_shards: Number of shards that were listed.
        division: How many samples a file holds, and in which order.
        about: What the caller adds to the summary (configuration, models, versions).
        failed: The number of kept samples that the files' format could not take.
        index: Gives what index.json says of the files; None: there is none.
        before: Called with the summary before it is written: writes what else the run ends with.

    Raises:
        AccountingError: A part or a sample is missing or doubled; nothing is written then.
        RunChangedError: A run that was read was changed meanwhile; the summary is not written then.
    """
    counts, table = _of_the_table(parts, input_shards)
    files = sorted(files, key=lambda file: file.index)
    check_files(files, division, counts.kept, failed)
    said = {**table, "output_shards": len(files), "output_bytes": sum(file.size for file in files), **about}
    summary = summary_of(said)
    write_lists(output, files, index(files))
    before(summary)
    check_read(output)
    settle_retry(output)
    write_json(output, SUMMARY, said)
    return summary


def write_lists(output: str, files: Sequence[WrittenShard], index: Mapping[str, Any] | None) -> None:
    """Writes index.json, if the files have one, and sizes.json."""
    if index is not None:
        write_json(output, INDEX, index)
    write_json(output, SIZES, {file.name: file.samples for file in files})


def _of_the_table(parts: Iterable[ScorePart], input_shards: int) -> tuple[Funnel, dict[str, object]]:
    """The counts, checked, and all that a summary says of the score table; `table` and `scored` tell it from another one."""
    parts = sorted(parts, key=lambda part: part.shard_index)
    if [part.shard_index for part in parts] != list(range(input_shards)):
        raise AccountingError(f"{len(parts)} parts of the score table came of {input_shards} input shards")
    counts = funnel(parts)
    return counts, {
        "funnel": to_json(counts),
        "skipped": skipped_members(parts),
        "input_shards": len(parts),
        "table": table_digest((part.shard_index, part.footprint) for part in parts),
        "scored": table_digest((part.shard_index, part.scored) for part in parts),
    }
