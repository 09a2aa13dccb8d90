"""summary.json, which marks a run or an export as complete, typed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from beam_curate.records import ScorePart, WrittenShard
from beam_curate.runs.configuration import Configuration, Funnel
from beam_curate.runs.division import Division
from beam_curate.runs.old_configuration import grouped
from beam_curate.storage.json_records import of_json, to_json
from beam_curate.tars.skipped import in_order


class AccountingError(RuntimeError):
    """Samples were lost or doubled; the run must not be used."""


@dataclass(frozen=True)
class Input:
    """What a run read.

    Attributes:
        pattern: Names the input shards.
        bytes: Their size.
        scores: Folder of the run whose score table was judged.
        duplicates: Folder of the duplicates table that was applied.
        run: Folder of the run that was exported.
        shards: The number of its shards.
    """

    pattern: str | None = None
    bytes: int | None = None
    scores: str | None = None
    duplicates: str | None = None
    run: str | None = None
    shards: int | None = None


@dataclass(frozen=True)
class WrittenCounts:
    """What became of the samples that were written in a format that prepares them.

    Attributes:
        format: Its name; empty in an export, whose configuration names it.
        failed: How many it cannot take.
        exported: How many it took.
        reencoded: How many of their images were encoded again.
        reasons: The failed ones by reason.
        input: How many there were, of an export.
    """

    failed: int
    exported: int
    reencoded: int
    reasons: Mapping[str, int]
    format: str = ""
    input: int = 0


@dataclass(frozen=True)
class About:
    """What a run tells beside its counts.

    Attributes:
        scores_meaningless: Whether anything is random that scores depend on.
        random: What is.
        heads: What describes each head.
        configuration: What decides the result.
        input: What was read.
        runner: Beam's name of it.
        versions: Of packages.
        started: When, as ISO 8601 has it.
    """

    scores_meaningless: bool | None = None
    random: Sequence[str] | None = None
    heads: Sequence[Mapping[str, object]] | None = None
    configuration: Configuration = Configuration()
    input: Input = Input()
    runner: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    started: str = ""

    def to_json(self) -> dict[str, object]:
        """As `WriteWebDatasetShards` and the others take it: nothing for what is not known."""
        found: dict[str, Any] = to_json(self)
        found["input"] = {name: value for name, value in found["input"].items() if value is not None}
        return {name: value for name, value in found.items() if value not in (None, "")}


@dataclass(frozen=True, kw_only=True)
class Summary(About):
    """The end of a run.

    Attributes:
        funnel: Its counts.
        skipped: Members of the input without a row of their own, by kind.
        input_shards: How many there were.
        output_shards: How many files were written.
        output_bytes: Their size.
        table: A digest of the score table with the verdicts; None in runs of version 0.1.0.
        scored: Likewise of what was scored, without the verdicts that came later.
        table_only: Whether the run has ended with its table: it has no shards yet.
        files: Of a format that prepares samples; None: members were copied as they were.
        more: What a pipeline of the user's own adds.
    """

    funnel: Funnel
    skipped: Mapping[str, int] = field(default_factory=dict)
    input_shards: int = 0
    output_shards: int = 0
    output_bytes: int = 0
    table: str | None = None
    scored: str | None = None
    table_only: bool = False
    files: WrittenCounts | None = None
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExportSummary(About):
    """The end of an export.

    Attributes:
        export: What became of the samples.
        output_files: How many files were written.
        output_bytes: Their size.
        source: What the exported run says of its samples.
    """

    export: WrittenCounts
    output_files: int = 0
    output_bytes: int = 0
    source: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Packed:
    """What became of the rows of a packing: input = packed + failed.

    Attributes:
        input: All rows.
        failed: That cannot be packed.
        packed: The others.
        reasons: The failed ones by reason.
    """

    input: int
    failed: int
    packed: int
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PackSummary(About):
    """The end of a packing.

    Attributes:
        pack: What became of the rows.
        skipped: What of the input is not a row, by kind.
        classes: The class folders in the order of their indexes, if there are any.
        output_shards: How many shards were written.
        output_bytes: Their size.
    """

    pack: Packed
    skipped: Mapping[str, int]
    classes: Sequence[str] = ()
    output_shards: int
    output_bytes: int


def summary_of(said: Mapping[str, object]) -> Summary:
    """A summary from what is written of it."""
    return of_json(Summary, modern(to_json(said)))


def modern(value: Any) -> Any:
    """A file with a configuration, of any version, in today's shape."""
    if not isinstance(value, dict) or not value.get("configuration"):
        return value
    return {**value, "configuration": grouped(value["configuration"])}


def funnel(parts: Iterable[ScorePart]) -> Funnel:
    """Samples in, failed, rejected and kept, with the reasons, the most frequent first.

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
    return Funnel(totals["input"], totals["failed"], totals["rejected"], totals["kept"], dict(reasons.most_common()))


def skipped_members(parts: Iterable[ScorePart]) -> dict[str, int]:
    """How many members of the input have no row of their own, by kind."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.skipped)
    return in_order(counts)


def check_files(files: Sequence[WrittenShard], division: Division, kept: int, failed: int) -> None:
    """Checks that files hold all kept samples but the failed ones, and all but the last, which holds no more, are full.

    Raises:
        AccountingError: A sample or a file is missing or doubled, or one failed that had not failed before.
    """
    written = sum(file.samples for file in files)
    full = all(file.samples == division.samples_per_shard for file in files[:-1])
    full = full and all(file.samples <= division.samples_per_shard for file in files[-1:])
    if written + failed != kept or [file.index for file in files] != list(range(len(files))) or not full:
        raise AccountingError(
            f"{kept} samples were kept and {written} written, in {len(files)} files; {failed} could not be"
        )
    late = sum(len(file.failures) for file in files)
    if late:
        raise AccountingError(f"{late} samples failed in the second try that had not failed in the first")
