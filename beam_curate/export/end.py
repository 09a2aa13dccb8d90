"""What ends a run or an export: the dataset card, Croissant, and summary.json as its mark."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from beam_curate.export.croissant import croissant
from beam_curate.export.dataset_card import Card, dataset_card
from beam_curate.export.prepared import PreparedSamples
from beam_curate.records import LeftOut, ScorePart, WrittenShard
from beam_curate.runs.division import Division
from beam_curate.runs.output_files import Format
from beam_curate.runs.run import Run
from beam_curate.runs.summary import ExportSummary, Summary, WrittenCounts, check_files
from beam_curate.storage.json_records import of_json, to_json

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
        division: How many samples a file holds, and in which order.
        name: Of the data set, for its card; empty: that of the output folder.
        license: Of the images, for the card.
        card: Whether to write README.md.
        croissant: Whether to write croissant.json.
        about: What to add to the summary.
    """

    source: str
    output: str
    format: PreparedSamples
    samples: int
    division: Division = Division()
    name: str = ""
    license: str = "unknown"
    card: bool = True
    croissant: bool = True
    about: Mapping[str, object] = field(default_factory=dict)


def finish_export(export: Export, files: Sequence[WrittenShard], failures: Sequence[LeftOut]) -> ExportSummary:
    """Checks the accounts of an export and writes its last files; returns the summary.

    Args:
        export: What was exported.
        files: All files.
        failures: The samples that are in none.

    Raises:
        AccountingError: A sample is missing or doubled; the summary is not written then.
        RunChangedError: The run was changed meanwhile; likewise.
    """
    run, files = Run(export.output), sorted(files, key=lambda file: file.index)
    check_files(files, export.division, export.samples, len(failures))
    source = Run(export.source).summary
    counts = _counts(files, failures)
    names = ("funnel", "scores_meaningless", "random", "heads", "configuration")
    said = {
        "export": {"input": export.samples, **_said(counts)},
        "output_files": len(files),
        "output_bytes": sum(file.size for file in files),
        "source": {name: to_json(getattr(source, name)) for name in names},
        **export.about,
    }
    summary = of_json(ExportSummary, said)
    name = export.name or export.output.rstrip("/").rpartition("/")[2]
    if export.card:
        card = Card(name, export.license, export.division.seed, export.croissant)
        run.write_card(dataset_card(card, export.format, summary, source, files, counts))
    if export.croissant:
        run.write_croissant(croissant(name, export.license, export.format, summary))
    run.end_export(files, export.format.index(files), said)
    return summary


def finish_run(
    output: str,
    parts: Sequence[ScorePart],
    files: Sequence[WrittenShard],
    division: Division,
    about: Mapping[str, object],
    format: Format,
    failures: Sequence[LeftOut],
) -> Summary:
    """Checks the accounts of a run and writes its last files; returns the summary.

    Args:
        output: The run's folder.
        parts: All parts of the score table.
        files: All output files.
        division: How many samples a file holds, and in which order.
        about: What to add to the summary.
        format: How samples were written.
        failures: The kept samples that are in no file.

    Raises:
        AccountingError: A part or a sample is missing or doubled; the summary is not written then.
        RunChangedError: A run that was read was changed meanwhile; likewise.
    """
    counts = _counts(files, failures)
    if format.prepared:
        about = {**about, "files": {"format": format.name, **_said(counts)}}
    card = Card(_NAME, "unknown", division.seed, croissant=False)
    run = Run(output)
    return run.end(
        parts,
        files,
        division,
        about,
        failed=len(failures),
        index=format.index,
        before=lambda summary: run.write_card(dataset_card(card, format, summary, summary, files, counts)),
    )


def _counts(files: Sequence[WrittenShard], failures: Sequence[LeftOut]) -> WrittenCounts:
    reasons = [failure.reason for failure in sorted(failures, key=lambda failure: (failure.shard_index, failure.row))]
    return WrittenCounts(
        len(failures),
        sum(file.samples for file in files),
        sum(file.reencoded for file in files),
        dict(Counter(reasons).most_common()),
    )


def _said(counts: WrittenCounts) -> dict[str, object]:
    return {name: getattr(counts, name) for name in ("failed", "exported", "reencoded", "reasons")}
