"""The parts of a run's score table, or of the verdicts on it, that are finished."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa

from beam_curate.records import FAILED, ScorePart
from beam_curate.runs import part_files, score_table
from beam_curate.runs.own_parts import open_own_part
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

    None if one of them is not a sample but a damaged spot, or the shard as a whole (its key is empty): a better reading finds
    other rows there, so the shard is to be read again from its start.
    """
    part_path = join(output, path)
    with open_own_part(output, part_path) as part, part_files.damage_named(part_path):
        rows = part.read(columns=["index", "key", "status", "reason"]).to_pylist()
    failed = [row for row in rows if row["status"] == FAILED and row["reason"] in reasons]
    return [row["index"] for row in failed] if all(row["key"] for row in failed) else None


def read_part_counts(output: str, path: str, widths: Mapping[str, int] = MappingProxyType({})) -> ScorePart:
    """What a finished part counts.

    Args:
        output: The run's folder.
        path: The part's below it.
        widths: Of the embeddings that it must have, by their columns.

    Raises:
        ScoreTableError: It is damaged, of another run, or has not these embeddings.
    """
    whole = join(output, path)
    with open_own_part(output, whole) as part:
        for name, width in widths.items():
            place = part.schema_arrow.get_field_index(name)
            found = part.schema_arrow.field(place).type if place >= 0 else None
            if found is None or not pa.types.is_fixed_size_list(found) or found.list_size != width:
                raise score_table.ScoreTableError(
                    f"{whole} is of another run: its column {name!r} is {found or 'missing'}, and the model of this run "
                    f"gives {width} numbers; {score_table.AGAIN}"
                )
        footprint = part_files.footprint(part.schema_arrow, part.metadata)
        return part_files.part_counts(part.schema_arrow, whole, footprint)
