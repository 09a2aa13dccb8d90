"""What a command says at its end."""

import sys
from collections.abc import Sequence
from typing import Any


def write_missing(output: str, layouts: Sequence[str]) -> None:
    """Writes what a finished run lacks: the report, if the run was stopped just before it, and layouts asked for since."""
    from beam_curate.layout_files import FOLDER
    from beam_curate.layouts import DESCRIPTION, write_layout
    from beam_curate.report.writing import REPORT, write_report
    from beam_curate.storage import clean_temporary, exists, join, read_json

    clean_temporary(output)
    if not exists(join(output, REPORT)):
        write_report(output)
    for name in layouts:
        folder = join(output, f"{FOLDER}/{name}")
        if not exists(join(folder, DESCRIPTION)) or not read_json(join(folder, DESCRIPTION))["complete"]:
            write_layout(output, name, folder)


def report(summary: dict[str, Any], output: str, seconds: float) -> int:
    """Prints the funnel and where to look; returns the exit status."""
    funnel = summary["funnel"]
    width = len(f"{funnel['input']:,}")
    print(f"input     {funnel['input']:>{width},} samples in {summary['input_shards']:,} shards")
    for name in ("failed", "rejected", "kept"):
        share = 100 * funnel[name] / funnel["input"] if funnel["input"] else 0
        print(f"{name:9} {funnel[name]:>{width},} ({share:.1f} %)")
    for reason, number in funnel["reasons"].items():
        print(f"  {reason}: {number:,}")
    print(f"{summary['output_shards']:,} shards in {output}, {seconds:.1f} s")
    print(f"look at {output.rstrip('/')}/report.html; all scores: {output.rstrip('/')}/scores/*.parquet")
    if summary["scores_meaningless"]:
        print(f"The scores are MEANINGLESS: random {' and '.join(summary['random'])}.")
    if funnel["failed"] == funnel["input"]:
        print(f"error: all {funnel['input']} samples failed; the reasons are above", file=sys.stderr)
        return 1
    if funnel["failed"] + funnel["rejected"] + funnel["kept"] != funnel["input"]:
        print("error: input = kept + rejected + failed does not hold", file=sys.stderr)
        return 1
    if not funnel["kept"]:
        print("warning: no sample passed the rules, so there is no shard", file=sys.stderr)
    return 0
