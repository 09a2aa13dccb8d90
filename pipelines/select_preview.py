"""What `select.py --dry_run` says, and the page that it writes."""

from collections.abc import Mapping, Sequence
from typing import Any

from beam_curate.duplicates.removal import Duplicates
from beam_curate.report.preview import Preview, Tally, preview
from beam_curate.report.writing import write_preview
from beam_curate.selection.rejudging import Selection
from beam_curate.storage.files import absolute
from pipelines.options import printable
from pipelines.outcome import skipped_lines


def dry_run(
    selection: Selection,
    shards: Sequence[int],
    duplicates: Duplicates | None,
    samples_per_shard: int,
    report: str,
    about: Mapping[str, Any],
) -> str:
    """Tries the rules, writes the page of --report, and says what each rule keeps.

    Args:
        selection: The table and the rules.
        shards: The indexes of the table's parts.
        duplicates: The duplicates to reject.
        samples_per_shard: Of the output.
        report: Where to write the page; empty for none.
        about: What the summary of the selection would say beside its counts.
    """
    found = preview(selection, shards, duplicates)
    end = "nothing was written"
    if report:
        write_preview(absolute(report), selection, shards, found, about, samples_per_shard)
        end = f"nothing was written but {printable(report)}"
    return "\n".join([rules_table(found, samples_per_shard), *skipped_lines(about), end])


def rules_table(found: Preview, per_shard: int) -> str:
    """What each rule keeps: alone, and after the rules before it.

    Args:
        found: What the rules keep.
        per_shard: Samples in an output shard.
    """

    def cells(tally: Tally) -> str:
        share = 100 * tally.samples / found.everything.samples if found.everything.samples else 0.0
        shards = -(-tally.samples // per_shard)
        return f"{tally.samples:>14,} {share:>6.1f} % {tally.size / 1e9:>10,.3f} GB {shards:>8,}"

    head = f"{'samples':>14} {'share':>8} {'bytes':>13} {'shards':>8}"
    lines = [
        f"{'':>{len(head)}}   rule",
        f"{head}   (each alone)",
        f"{cells(found.everything)}   all that did not fail",
    ]
    lines += [f"{cells(line.alone)}   {printable(line.rule)}" for line in found.lines]
    lines += [f"{head}   (one after the other)"]
    lines += [f"{cells(line.together)}   {printable(line.rule)}" for line in found.lines]
    left_out = (
        f"{found.failed:,} samples failed, {found.screened:,} were rejected before inference: none of these is selected"
    )
    return "\n".join([*lines[1:], left_out])
