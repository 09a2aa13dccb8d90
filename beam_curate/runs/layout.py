"""What a layout for another tool is, and what layouts are made with: from kept rows of the score table to what the tool reads."""

import hashlib
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.storage.files import atomic_output

CAPTION_SCORES: Final = ("caption_similarity", "similarity")
"""Names that the score of an image against its caption may have, the first one found counts."""
EMBEDDING: Final = "embedding"
DESCRIPTION: Final = "_layout.json"
"""Says what lies in a layout's folder, and whether it is complete. Readers of a folder of Parquet files skip such names."""
SUBSET: Final = "subset.npy"
"""The file of all uids, where a layout has one."""

Columns = Mapping[str, str]
"""By name in the layout, the column of the score table that it shows."""


class Layout(ABC):
    """A layout that some tool reads.

    Attributes:
        files: The files of a part that has kept rows, below the layout's folder; `{}` stands for the part's number.
        embeddings: Whether `write` needs the embeddings.
        subset: Whether a file of all uids goes with it.
    """

    files: ClassVar[Sequence[str]]
    embeddings: ClassVar[bool] = True
    subset: ClassVar[bool] = False

    @classmethod
    def patterns(cls) -> list[str]:
        """What matches the files that the tool reads: in a folder below the layout's own all, else those of an ending."""
        split = [posixpath.split(name) for name in cls.files]
        return sorted({f"{folder}/*" if folder else f"*{posixpath.splitext(name)[1]}" for folder, name in split})

    @staticmethod
    @abstractmethod
    def columns(scores: Sequence[str], code: str) -> Columns:
        """The columns of the layout's tables.

        Args:
            scores: The names of the run's scores.
            code: The short name of its model.

        Raises:
            ScoreTableError: A score has the name of another column.
        """

    @staticmethod
    @abstractmethod
    def write(folder: str, files: Sequence[str], rows: pa.Table, columns: Columns, code: str) -> None:
        """Writes the files of a part.

        Args:
            folder: The layout's folder.
            files: The names of the part's files.
            rows: Its kept rows.
            columns: See `columns`.
            code: The short name of the model.
        """


def embeddings(rows: pa.Table) -> npt.NDArray[np.float16]:
    """The embeddings as (N, D) float16, little-endian."""
    column = rows.column(EMBEDDING)
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(chunks).reshape(-1, column.type.list_size).astype("<f2", copy=False)


def uids(rows: pa.Table) -> list[str]:
    """One uid per row: that of the sample's JSON, or else the first 32 hex digits of the sha256 of shard, NUL and key.

    The sha256 of the image would not do for that: two samples may have the same image. The shard counts by its path, as the
    score table has it, so a data set that moves gets other uids.
    """
    columns = (rows.column(name).to_pylist() for name in ("uid", "shard", "key"))
    return [
        uid or hashlib.sha256(f"{shard}\0{key}".encode()).hexdigest()[:32]
        for uid, shard, key in zip(*columns, strict=True)
    ]


def renamed(rows: pa.Table, columns: Columns) -> pa.Table:
    """The rows with the columns of a layout."""
    return pa.table({name: rows.column(source) for name, source in columns.items()})


def write_parquet(folder: str, name: str, table: pa.Table) -> None:
    """Plain Parquet, as every reader takes it: pyarrow's defaults, rather than what is smallest."""
    with atomic_output(folder, name) as stream:
        pq.write_table(table, stream)
