"""DataComp's layout: uids and image features by part, and the file of all uids.

Source: DataComp 4a8df19 (README, baselines/apply_filter.py, resharder.py).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from beam_curate.runs.layout import CAPTION_SCORES, Columns, Layout, embeddings, renamed, uids, write_parquet
from beam_curate.storage.files import atomic_output


class DataComp(Layout):
    """For DataComp's filters and its resharder."""

    files: ClassVar[Sequence[str]] = ("metadata/{}.parquet", "metadata/{}.npz")
    subset: ClassVar[bool] = True

    @staticmethod
    def columns(scores: Sequence[str], code: str) -> Columns:
        """DataComp's columns; the similarity only if captions were scored."""
        found = [name for name in CAPTION_SCORES if name in scores][:1]
        similarity = {f"clip_{code}_similarity_score" if code else "clip_similarity_score": name for name in found}
        size = {"original_width": "width", "original_height": "height"}
        own = {"uid": "uid", "url": "url", "text": "caption"}
        return {**own, **size, **similarity, "sha256": "sha256", "shard": "shard", "key": "key"}

    @staticmethod
    def write(folder: str, files: Sequence[str], rows: pa.Table, columns: Columns, code: str) -> None:
        """A Parquet table with uids, and an .npz with the image features in the same order.

        `text` is never null, since DataComp's filters call its methods: a sample without a caption has the empty one.
        """
        metadata, features = files
        table = renamed(rows, columns)
        table = table.set_column(table.schema.get_field_index("text"), "text", table.column("text").fill_null(""))
        write_parquet(folder, metadata, table.set_column(0, "uid", pa.array(uids(rows), pa.string())))
        arrays: dict[str, Any] = {f"{code}_img" if code else "img": embeddings(rows)}
        with atomic_output(folder, features) as stream:
            np.savez(stream, **arrays)
