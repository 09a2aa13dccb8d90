"""The files that end a run: index.json (wids), sizes.json, and summary.json, which marks the run as complete."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from beam_curate.records import ScorePart, WrittenShard
from beam_curate.storage.files import write_json
from beam_curate.tars.skipped import in_order

SUMMARY = "summary.json"
TABLE_ONLY: Final = "table_only"
"""The key of a summary that marks a run which has ended with its score table: it has no shards yet."""


class AccountingError(RuntimeError):
    """Samples were lost or doubled; the run must not be used."""


def wids_index(shards: Sequence[WrittenShard]) -> dict[str, Any]:
    """The index that wids reads; urls are relative to it.

    Source: webdataset, wids-shard-index-v1.
    """
    return {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "shardlist": [
            {"url": shard.name, "md5sum": shard.md5, "nsamples": shard.samples, "filesize": shard.size}
            for shard in shards
        ],
    }


def funnel(parts: Iterable[ScorePart]) -> dict[str, Any]:
    """Samples in, failed, rejected and kept, with the reasons.

    Raises:
        AccountingError: input = kept + rejected + failed does not hold.
    """
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for part in parts:
        totals.update(input=part.rows, failed=part.failed, rejected=part.rejected, kept=part.kept)
        reasons.update(part.reasons)
    if totals["input"] != totals["kept"] + totals["rejected"] + totals["failed"]:
        raise AccountingError(f"input = kept + rejected + failed does not hold: {dict(totals)}")
    if sum(reasons.values()) != totals["rejected"] + totals["failed"]:
        raise AccountingError(f"reasons {dict(reasons)} do not add up to rejected + failed: {dict(totals)}")
    names = ("input", "failed", "rejected", "kept")
    return {**{name: totals[name] for name in names}, "reasons": dict(reasons.most_common())}


def skipped_members(parts: Iterable[ScorePart]) -> dict[str, int]:
    """How many members of the input have no row of their own, by kind."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.skipped)
    return in_order(counts)


def _of_the_table(parts: Iterable[ScorePart], input_shards: int) -> dict[str, Any]:
    """What a summary says of the score table, checked; `table` tells it from another one."""
    parts = sorted(parts, key=lambda part: part.shard_index)
    if [part.shard_index for part in parts] != list(range(input_shards)):
        raise AccountingError(f"{len(parts)} parts of the score table came of {input_shards} input shards")
    said = repr([(part.shard_index, part.footprint) for part in parts]).encode()
    return {
        "funnel": funnel(parts),
        "skipped": skipped_members(parts),
        "input_shards": len(parts),
        "table": hashlib.sha256(said).hexdigest(),
    }


def finish_table(
    output: str, parts: Iterable[ScorePart], input_shards: int, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Checks the accounts of a run that ends with its score table and writes summary.json; returns the summary.

    Args:
        output: The run's folder.
        parts: All parts of the score table, with the verdicts that count.
        input_shards: Number of shards that were listed.
        about: What the caller adds to the summary.

    Raises:
        AccountingError: A part is missing or doubled; nothing is written then.
    """
    table = _of_the_table(parts, input_shards)
    summary = {TABLE_ONLY: True, **table, "output_shards": 0, "output_bytes": 0, **about}
    write_json(output, SUMMARY, summary)
    return summary


def finish_run(
    output: str,
    parts: Iterable[ScorePart],
    shards: Iterable[WrittenShard],
    input_shards: int,
    samples_per_shard: int,
    about: Mapping[str, Any],
    failed: int = 0,
    *,
    indexed: bool = True,
    before: Callable[[dict[str, Any]], object] = lambda summary: None,
) -> dict[str, Any]:
    """Checks the accounts of a run and writes its last files; returns the summary.

    Args:
        output: The run's folder.
        parts: All parts of the score table.
        shards: All output shards.
        input_shards: Number of shards that were listed.
        samples_per_shard: N, which every output shard but the last must hold.
        about: What the caller adds to the summary (configuration, models, versions).
        failed: The number of kept samples that the shards' format could not take.
        indexed: Whether wids reads the shards.
        before: Called with the summary before it is written: writes what else the run ends with.

    Raises:
        AccountingError: A part or a sample is missing or doubled; nothing is written then.
    """
    table = _of_the_table(parts, input_shards)
    shards = sorted(shards, key=lambda shard: shard.index)
    counts = table["funnel"]
    check_files(shards, samples_per_shard, counts["kept"], failed)
    summary = {
        **table,
        "output_shards": len(shards),
        "output_bytes": sum(shard.size for shard in shards),
        **about,
    }
    write_lists(output, shards, indexed=indexed)
    before(summary)
    write_json(output, SUMMARY, summary)
    return summary


def check_files(files: Sequence[WrittenShard], samples_per_file: int, kept: int, failed: int) -> None:
    """Checks that files hold all kept samples but the failed ones, and all but the last are full.

    Raises:
        AccountingError: A sample or a file is missing or doubled, or one failed that had not failed before.
    """
    written = sum(file.samples for file in files)
    full = all(file.samples == samples_per_file for file in files[:-1])
    if written + failed != kept or [file.index for file in files] != list(range(len(files))) or not full:
        raise AccountingError(
            f"{kept} samples were kept and {written} written, in {len(files)} files; {failed} could not be"
        )
    late = sum(len(file.failures) for file in files)
    if late:
        raise AccountingError(f"{late} samples failed in the second try that had not failed in the first")


def write_lists(output: str, files: Sequence[WrittenShard], *, indexed: bool) -> None:
    """Writes index.json, where wids reads the files, and sizes.json."""
    if indexed:
        write_json(output, "index.json", wids_index(files))
    write_json(output, "sizes.json", {file.name: file.samples for file in files})
