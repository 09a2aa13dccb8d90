"""The parts of a run's score table, or of the verdicts on it, that are finished."""

import re
from collections.abc import Sequence

from beam_curate.records import FAILED, ScorePart
from beam_curate.runs import part_files, score_table
from beam_curate.storage.files import files_under, join

_PART = re.compile(r"part-(\d+)\.parquet$")


def part_paths(output: str, folder: str = score_table.FOLDER) -> dict[int, str]:
    """The finished parts of the score table, or of the verdicts on it, by input shard, as paths relative to `output`."""
    found: dict[int, str] = {}
    for path in files_under(output, f"{folder}/part-*.parquet"):
        match = _PART.search(path)
        if match:
            found[int(match.group(1))] = f"{folder}/{match.group(0)}"
    return found


def failed_rows(output: str, path: str, reasons: Sequence[str]) -> list[int] | None:
    """The indexes of a part's rows that failed with one of the reasons, ascending.

    None if one of them is no sample but a damaged spot, or the shard as a whole (its key is empty): what a better reading finds
    there are other rows, so the shard is to be read again from its start.
    """
    part_path = join(output, path)
    with part_files.open_part(part_path) as part, part_files.damage_named(part_path):
        rows = part.read(columns=["index", "key", "status", "reason"]).to_pylist()
    failed = [row for row in rows if row["status"] == FAILED and row["reason"] in reasons]
    return [row["index"] for row in failed] if all(row["key"] for row in failed) else None


def read_part_counts(output: str, path: str) -> ScorePart:
    """What a finished part counts."""
    whole = join(output, path)
    with part_files.open_part(whole) as part:
        footprint = part_files.footprint(part.schema_arrow, part.metadata)
        return part_files.part_counts(part.schema_arrow, whole, footprint)
