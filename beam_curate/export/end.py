"""What ends an export: its accounts, failures.parquet, the indexes, the card, Croissant, and summary.json as its mark."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.export.croissant import croissant
from beam_curate.export.dataset_card import dataset_card
from beam_curate.export.files import TFRECORD, WEBDATASET, Export, ExportedFile, ExportFailure
from beam_curate.runs.packing import shard_name
from beam_curate.runs.state_files import read_summary
from beam_curate.runs.summary import SUMMARY, AccountingError, wids_index
from beam_curate.storage.files import atomic_output, delete, files_under, write_atomic, write_json

FAILURES: Final = "failures.parquet"
CARD: Final = "README.md"
CROISSANT: Final = "croissant.json"
_FAILURE_SCHEMA: Final = pa.schema(
    [("key", pa.string()), ("shard", pa.string()), ("row", pa.int32()), ("reason", pa.string()),
     ("error_message", pa.string())]
)  # fmt: skip


def finish_export(
    export: Export,
    files: Sequence[ExportedFile],
    failures: Sequence[ExportFailure],
    files_again: Sequence[ExportedFile],
    failures_again: Sequence[ExportFailure],
) -> dict[str, Any]:
    """Checks the accounts of an export and writes its last files; returns the summary.

    Args:
        export: What was exported.
        files: As first written.
        failures: The samples that could not be.
        files_again: If there are any: the files, planned again without them.
        failures_again: None, since the same sample does the same each time.

    Raises:
        AccountingError: A sample is missing or doubled; the summary is not written then.
    """
    failures = sorted(failures, key=lambda failure: (failure.shard_index, failure.row))
    chosen = sorted(files_again if failures else files, key=lambda file: file.shard.index)
    _check(export, chosen, failures, failures_again)
    for file in files:
        if file.shard.index >= len(chosen):
            _delete_file(export, file.shard.index)
    _write_failures(export.output, failures)
    shards = [file.shard for file in chosen]
    write_json(export.output, "sizes.json", {shard.name: shard.samples for shard in shards})
    if export.format == WEBDATASET:
        write_json(export.output, "index.json", wids_index(shards))
    source = read_summary(export.source)
    summary = {
        "export": {
            "input": export.samples,
            "failed": len(failures),
            "exported": sum(shard.samples for shard in shards),
            "reencoded": sum(file.reencoded for file in chosen),
            "reasons": dict(Counter(failure.reason for failure in failures).most_common()),
        },
        "output_files": len(shards),
        "output_bytes": sum(shard.size for shard in shards),
        "source": {
            name: source.get(name) for name in ("funnel", "scores_meaningless", "random", "heads", "configuration")
        },
        **export.about,
    }
    if export.card:
        text = dataset_card(export, summary, chosen).encode()
        write_atomic(export.output, CARD, lambda stream: stream.write(text))
    if export.croissant:
        write_json(export.output, CROISSANT, croissant(export, summary))
    write_json(export.output, SUMMARY, summary)
    return summary


def _check(
    export: Export,
    files: Sequence[ExportedFile],
    failures: Sequence[ExportFailure],
    failures_again: Sequence[ExportFailure],
) -> None:
    if failures_again:
        raise AccountingError(
            f"{len(failures_again)} samples failed in the second try that had not failed in the first"
        )
    shards = [file.shard for file in files]
    written = sum(shard.samples for shard in shards)
    full = all(shard.samples == export.samples_per_file for shard in shards[:-1])
    if (
        written + len(failures) != export.samples
        or [shard.index for shard in shards] != list(range(len(shards)))
        or not full
    ):
        raise AccountingError(
            f"of {export.samples} samples {written} were written, in {len(shards)} files, and {len(failures)} failed"
        )


def _delete_file(export: Export, index: int) -> None:
    """Deletes what the first try wrote of a file that there is not any more, without the samples that failed."""
    name = shard_name(index)
    index_file = [f"{name}.tfindex"] if export.format == TFRECORD else []
    for file in (f"{name}_stats.json", f"{name}.{export.extension}", f"{name}.parquet", *index_file):
        found = list(files_under(export.output, file))
        if found:
            delete(found)


def _write_failures(output: str, failures: Sequence[ExportFailure]) -> None:
    rows = [
        {
            "key": failure.key,
            "shard": f"{shard_name(failure.shard_index)}.tar",
            "row": failure.row,
            "reason": failure.reason,
            "error_message": failure.message,
        }
        for failure in failures
    ]
    with atomic_output(output, FAILURES) as stream:
        pq.write_table(pa.Table.from_pylist(rows, _FAILURE_SCHEMA), stream)
