"""LAION's layout: the columns of laion2B-en-aesthetic."""

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from beam_curate.runs.layout import CAPTION_SCORES, Columns, Layout, renamed, write_parquet


class Laion(Layout):
    """For what reads LAION's tables."""

    files: ClassVar[Sequence[str]] = ("part-{}.parquet",)
    embeddings: ClassVar[bool] = False

    @staticmethod
    def columns(scores: Sequence[str], code: str) -> Columns:
        """LAION's columns; those of scores only if the run has the score."""
        found = {"similarity": next((name for name in CAPTION_SCORES if name in scores), "")}
        found |= {"punsafe": "nsfw", "pwatermark": "watermark", "AESTHETIC_SCORE": "aesthetic"}
        shown = {column: name for column, name in found.items() if name in scores}
        return {
            "URL": "url",
            "TEXT": "caption",
            "WIDTH": "width",
            "HEIGHT": "height",
            **shown,
            "sha256": "sha256",
            "key": "key",
        }

    @staticmethod
    def write(folder: str, files: Sequence[str], rows: pa.Table, columns: Columns, code: str) -> None:
        """A Parquet table."""
        write_parquet(folder, files[0], renamed(rows, columns))
