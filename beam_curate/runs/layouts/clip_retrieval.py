"""clip-retrieval's layout: embeddings as arrays, and what is known of each in tables.

Sources: clip-retrieval b055335 (clip_inference/writer.py, clip_back.py) and embedding-reader 1.8.1.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa

from beam_curate.runs.layout import Columns, Layout, embeddings, renamed, write_parquet
from beam_curate.runs.score_table import ScoreTableError
from beam_curate.storage.files import write_atomic


class ClipRetrieval(Layout):
    """For embedding-reader, autofaiss, and clip-retrieval's index and back."""

    files: ClassVar[Sequence[str]] = ("img_emb/img_emb_{}.npy", "metadata/metadata_{}.parquet")

    @staticmethod
    def columns(scores: Sequence[str], code: str) -> Columns:
        """clip-retrieval's own columns, what it takes over from img2dataset, the source shard, and every score by its name."""
        fixed = {"image_path": "key", "caption": "caption", "url": "url", "width": "width", "height": "height"}
        fixed |= {"sha256": "sha256", "shard": "shard"}
        clash = sorted(fixed.keys() & set(scores))
        if clash:
            raise ScoreTableError(f"the score {clash[0]!r} has the name of a column of clip-retrieval's metadata")
        return {**fixed, **{name: name for name in scores}}

    @staticmethod
    def write(folder: str, files: Sequence[str], rows: pa.Table, columns: Columns, code: str) -> None:
        """An .npy of (N, D) float16 and the Parquet table whose row n tells of the embedding n."""
        array, metadata = files
        matrix = embeddings(rows)
        write_atomic(folder, array, lambda stream: np.save(stream, matrix, allow_pickle=False))
        write_parquet(folder, metadata, renamed(rows, columns))
