"""The names of all files that a run writes below its folder, and deleting them by these names."""

import posixpath
from collections.abc import Sequence
from typing import Final

from beam_curate.runs import score_table
from beam_curate.runs.configuration import EXPORT, PACK, Files
from beam_curate.runs.layout import DESCRIPTION, SUBSET
from beam_curate.runs.layouts import all_layouts
from beam_curate.storage.files import TEMPORARY, delete, files_under, join, read_bytes

RUN: Final = "run.json"
SUMMARY: Final = "summary.json"
INDEX: Final = "index.json"
SIZES: Final = "sizes.json"
REPORT: Final = "report.html"
CROISSANT: Final = "croissant.json"
FAILURES: Final = "failures.parquet"
INPUT_SHARDS: Final = "input_shards.parquet"
LAYOUTS_FOLDER: Final = "layouts"
CARD: Final = "README.md"
CARD_TAG: Final = "beam-curate"
"""What the front matter of a dataset card that is ours has among its tags."""
VERDICTS: Final = f"{score_table.VERDICTS}/part-*.parquet"
SCORES: Final = f"{score_table.FOLDER}/part-*.parquet"
# The mark of a complete duplicates table goes first.
DUPLICATES: Final = ("duplicates/summary.json", "duplicates/part-*.parquet", "duplicates/hashes/*.parquet")
ROWS: Final = "rows"
"""The folder of the tables that a packing writes."""
_NUMBERED: Final = "[0-9]*"


def of_the_table() -> Sequence[str]:
    """The patterns of what follows from the score table and is made again when the table changes.

    Output files name their plan: those that still fit stay, and the others are written over.
    """
    return (SUMMARY, *_of_all_files(), VERDICTS, *DUPLICATES)


def ours(files: Files, kind: str = "") -> Sequence[str]:
    """The patterns of all that a run or an export writes, but for its mark, in the order in which it is deleted.

    Args:
        files: How its output files are named.
        kind: EXPORT for an export, PACK for packed images.
    """
    numbered = [f"{_NUMBERED}{end}" for end in files.ends]
    beside = [FAILURES, *([CROISSANT] if kind == EXPORT else []), *([f"{ROWS}/*.parquet"] if kind == PACK else [])]
    return (SUMMARY, *numbered, *beside, *_of_all_files(), VERDICTS, *DUPLICATES, SCORES, INPUT_SHARDS)


def folders(output: str) -> list[str]:
    """The folders in which a run writes and deletes files: its own, and those below it."""
    below = {posixpath.dirname(pattern) for pattern in ours(Files())} - {""}
    return [output, *(join(output, folder) for folder in sorted({*below, TEMPORARY}))]


def of_other_formats(output: str, files: Files) -> list[str]:
    """The numbered files in a folder that a run with such files does not write."""
    found = files_under(output, f"{_NUMBERED}*")
    return [path for path in found if not any(_is_numbered(path, end) for end in files.ends) and _is_numbered(path)]


def matching(output: str, patterns: Sequence[str]) -> list[str]:
    """The paths of the files that match and have names that a run gives, in the order of the patterns."""
    return [path for pattern in patterns for path in files_under(output, pattern) if _is_ours(path, pattern)]


def delete_matching(output: str, patterns: Sequence[str]) -> None:
    """Deletes such files, in the order of the patterns: the mark of completeness before what it vouches for."""
    for pattern in patterns:
        found = matching(output, [pattern])
        if found:
            delete(found)


def _is_ours(path: str, pattern: str) -> bool:
    """Whether a file that matches has a name that a run gives: of numbered files, five digits or more."""
    if pattern == CARD:
        return is_our_card(path)
    return not pattern.startswith(_NUMBERED) or _is_numbered(path, pattern.removeprefix(_NUMBERED))


def _is_numbered(path: str, end: str | None = None) -> bool:
    name = posixpath.basename(path)
    number = name.partition(".")[0].partition("_")[0] if end is None else name.removesuffix(end)
    return number.isdigit() and len(number) >= 5


def is_our_card(path: str) -> bool:
    """Whether a README.md is a dataset card that a run has written, and not a text of the user's own."""
    lines = read_bytes(path).decode("utf-8", "replace").splitlines()
    return lines[:1] == ["---"] and f"- {CARD_TAG}" in lines[1 : lines.index("---", 1) if "---" in lines[1:] else 1]


def _of_all_files() -> Sequence[str]:
    below = [
        f"{LAYOUTS_FOLDER}/{name}/{pattern}"
        for name, layout in all_layouts().items()
        for pattern in (DESCRIPTION, SUBSET, *layout.patterns())
    ]
    return (INDEX, SIZES, CARD, REPORT, *below)
