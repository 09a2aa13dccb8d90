"""The names of all files that a run writes below its folder, and deleting them by these names."""

import posixpath
from collections.abc import Mapping, Sequence
from typing import Final

from beam_curate.runs import score_table
from beam_curate.runs.summary import SUMMARY
from beam_curate.storage.files import TEMPORARY, delete, files_under, join, read_bytes

RUN: Final = "run.json"
INPUT_SHARDS: Final = "input_shards.parquet"
LAYOUT_FILES: Final[Mapping[str, Sequence[str]]] = {
    "clip-retrieval": ("img_emb/*", "metadata/*"),
    "datacomp": ("metadata/*",),
    "laion": ("*.parquet",),
}
"""By layout, the files below its folder of which its tool reads all, so that no others may lie there."""
_LAYOUTS: Final = tuple(
    f"layouts/{name}/{pattern}"
    for name, patterns in LAYOUT_FILES.items()
    for pattern in ("_layout.json", "subset.npy", *patterns)
)
CARD: Final = "README.md"
CARD_TAG: Final = "beam-curate"
"""What the front matter of a dataset card that is ours has among its tags."""
ONLY_FORMATS: Final = ("[0-9]*.tfrecord", "[0-9]*.tfrecord.gz", "[0-9]*.tfindex", "failures.parquet")
"""What `curate.py` never writes."""
PACKED: Final = (
    "[0-9]*.tar", "[0-9]*.parquet", "[0-9]*_stats.json", *ONLY_FORMATS, "index.json", "sizes.json", CARD, "report.html", *_LAYOUTS
)  # fmt: skip
VERDICTS: Final = f"{score_table.VERDICTS}/part-*.parquet"
SCORES: Final = f"{score_table.FOLDER}/part-*.parquet"
# The mark of a complete duplicates table goes first.
DUPLICATES: Final = ("duplicates/summary.json", "duplicates/part-*.parquet", "duplicates/work/*")
OF_THE_TABLE: Final = (SUMMARY, *PACKED, VERDICTS, *DUPLICATES)
"""What follows from the score table: it is made again when the table changes."""
OURS: Final = (*OF_THE_TABLE, SCORES, INPUT_SHARDS)
EXPORT: Final = "export"
PACK: Final = "pack"
BESIDE: Final[Mapping[str, Sequence[str]]] = {"": (), EXPORT: ("croissant.json",), PACK: ("rows/[0-9]*.parquet",)}
"""What runs of other kinds write beside it, by the kind that run.json names."""

_NUMBERED: Final = "[0-9]*"


def folders(output: str) -> list[str]:
    """The folders in which a run writes and deletes files: its own, and those below it."""
    below = {posixpath.dirname(pattern) for pattern in OURS} - {""}
    return [output, *(join(output, folder) for folder in sorted({*below, TEMPORARY}))]


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
    if not pattern.startswith(_NUMBERED):
        return True
    number = posixpath.basename(path).removesuffix(pattern.removeprefix(_NUMBERED))
    return number.isdigit() and len(number) >= 5


def is_our_card(path: str) -> bool:
    """Whether a README.md is a dataset card that a run has written, and not a text of the user's own."""
    lines = read_bytes(path).decode("utf-8", "replace").splitlines()
    return lines[:1] == ["---"] and f"- {CARD_TAG}" in lines[1 : lines.index("---", 1) if "---" in lines[1:] else 1]
