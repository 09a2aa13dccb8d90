"""The layouts for other tools, by name, and what lies in the folder of each."""

from collections.abc import Mapping, Sequence
from typing import Final

LAYOUT_FILES: Final[Mapping[str, Sequence[str]]] = {
    "clip-retrieval": ("img_emb/*", "metadata/*"),
    "datacomp": ("metadata/*",),
    "laion": ("*.parquet",),
}
"""By layout, the files below its folder of which its tool reads all, so that no others may lie there."""
