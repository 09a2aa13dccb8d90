"""What ends a run or an export: the dataset card, Croissant, and summary.json as its mark."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from beam_curate.export.croissant import croissant
from beam_curate.export.dataset_card import Card, dataset_card, write_card
from beam_curate.export.prepared import PreparedSamples
from beam_curate.records import LeftOut, ScorePart, WrittenShard
from beam_curate.runs import summary as run_summary
from beam_curate.runs.output_files import Format
from beam_curate.runs.state_files import read_summary
from beam_curate.runs.summary import SUMMARY, check_files, write_lists
from beam_curate.storage.files import write_json

CROISSANT: Final = "croissant.json"
_NAME: Final = "Curated images"
"""Of a run, for its card: the same run gives the same files in any folder."""


@dataclass(frozen=True)
class Export:
    """What is exported, how, and where to.

    Attributes:
        source: Folder of the run.
        output: Folder of the export.
        format: How samples are written.
        samples: How many the run has.
        samples_per_file: N; every file holds N samples, the last one the rest.
        seed: Shuffles all samples; None keeps the order of the run.
        name: Of the data set, for its card.
        license: Of the images, for the card.
        card: Whether to write README.md.
        croissant: Whether to write croissant.json.
        about: What to add to the summary.
    """

    source: str
    output: str
    format: PreparedSamples
    samples: int
    samples_per_file: int = 1000
    seed: int | None = None
    name: str = ""
    license: str = "unknown"
    card: bool = True
    croissant: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)


def finish_export(export: Export, files: Sequence[WrittenShard], failures: Sequence[LeftOut]) -> dict[str, Any]:
    """Checks the accounts of an export and writes its last files; returns the summary.

    Args:
        export: What was exported.
        files: All files.
        failures: The samples that are in none.

    Raises:
        AccountingError: A sample is missing or doubled; the summary is not written then.
    """
    files = sorted(files, key=lambda file: file.index)
    check_files(files, export.samples_per_file, export.samples, len(failures))
    write_lists(export.output, files, indexed=export.format.indexed)
    source = read_summary(export.source)
    counts = _counts(files, failures)
    summary = {
        "export": {"input": export.samples, **counts},
        "output_files": len(files),
        "output_bytes": sum(file.size for file in files),
        "source": {
            name: source.get(name) for name in ("funnel", "scores_meaningless", "random", "heads", "configuration")
        },
        **export.about,
    }
    if export.card:
        card = Card(export.name, export.license, export.seed, export.croissant)
        write_card(export.output, dataset_card(card, export.format, summary, summary["source"], files, counts))
    if export.croissant:
        write_json(export.output, CROISSANT, croissant(export.name, export.license, export.format, summary))
    write_json(export.output, SUMMARY, summary)
    return summary


def finish_run(
    output: str,
    parts: Sequence[ScorePart],
    files: Sequence[WrittenShard],
    samples_per_shard: int,
    seed: int | None,
    about: Mapping[str, Any],
    format: Format,
    failures: Sequence[LeftOut],
) -> dict[str, Any]:
    """Checks the accounts of a run and writes its last files; returns the summary.

    Args:
        output: The run's folder.
        parts: All parts of the score table.
        files: All output files.
        samples_per_shard: N.
        seed: That the order was shuffled by.
        about: What to add to the summary.
        format: How samples were written.
        failures: The kept samples that are in no file.

    Raises:
        AccountingError: A part or a sample is missing or doubled; the summary is not written then.
    """
    files = sorted(files, key=lambda file: file.index)
    counts = _counts(files, failures)
    if format.prepared:
        about = {**about, "files": {"format": format.name, **counts}}
    card = Card(_NAME, "unknown", seed, croissant=False)
    return run_summary.finish_run(
        output,
        parts,
        files,
        len(parts),
        samples_per_shard,
        about,
        len(failures),
        indexed=format.indexed,
        before=lambda summary: write_card(output, dataset_card(card, format, summary, summary, files, counts)),
    )


def _counts(files: Sequence[WrittenShard], failures: Sequence[LeftOut]) -> dict[str, Any]:
    reasons = [failure.reason for failure in sorted(failures, key=lambda failure: (failure.shard_index, failure.row))]
    return {
        "failed": len(failures),
        "exported": sum(file.samples for file in files),
        "reencoded": sum(file.reencoded for file in files),
        "reasons": dict(Counter(reasons).most_common()),
    }
