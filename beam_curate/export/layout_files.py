"""The files of the layouts in `layouts`: from kept rows of the score table to what the tools read.

Sources: clip-retrieval b055335 (clip_inference/writer.py, clip_back.py) and embedding-reader 1.8.1; DataComp 4a8df19 (README,
baselines/apply_filter.py, resharder.py); the columns of laion2B-en-aesthetic.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.heads.head import AESTHETIC, NSFW
from beam_curate.runs.score_table import ScoreTableError
from beam_curate.storage.files import BUCKET, TEMPORARY, atomic_output, join, read_bytes, write_atomic

CAPTION_SCORES: Final = ("caption_similarity", "similarity")
"""Names that the score of an image against its caption may have, the first one found counts."""
WATERMARK: Final = "watermark"
EMBEDDING: Final = "embedding"
SUBSET: Final = "subset.npy"
UID: Final = np.dtype([("f0", "<u8"), ("f1", "<u8")])
"""DataComp's uid as its tools sort it: the upper and the lower 16 hex digits; the same as np.dtype("u8,u8")."""

# A sorted subset is made bucket by bucket: a billion uids are 16 GB, and a bucket of them 250 MB.
_BUCKET_BITS: Final = 6

Columns = Mapping[str, str]
"""By name in the layout, the column of the score table that it shows."""


DESCRIPTION: Final = "_layout.json"
"""Says what lies in a layout's folder, and whether it is complete. Readers of a folder of Parquet files skip such names."""


@dataclass(frozen=True)
class Layout:
    """A layout that some tool reads.

    Attributes:
        files: The files of a part that has kept rows, below the layout's folder; `{}` stands for the part's number.
        columns: Score names of the run and the short name of its model to the columns of the layout's tables.
        write: Writes the files of a part: folder, file names, kept rows, columns, short name of the model.
        embeddings: Whether `write` needs the embeddings.
        subset: Whether a file of all uids goes with it.
    """

    files: Sequence[str]
    columns: Callable[[Sequence[str], str], Columns]
    write: Callable[[str, Sequence[str], pa.Table, Columns, str], None]
    embeddings: bool = True
    subset: bool = False


def model_code(clip_model: str) -> str:
    """The short name of a model: DataComp's for the ViT family (`ViT-L-14` is `l14`), else as it is, made an identifier."""
    name = clip_model.replace("/", "-").removesuffix("-quickgelu")
    family = re.fullmatch(r"ViT-([A-Za-z]+)-(\d+)", name)
    return "".join(family.groups()).lower() if family else re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def clip_retrieval_columns(scores: Sequence[str], code: str) -> Columns:
    """clip-retrieval's own columns, what it takes over from img2dataset, the source shard, and every score by its name."""
    fixed = {"image_path": "key", "caption": "caption", "url": "url", "width": "width", "height": "height"}
    fixed |= {"sha256": "sha256", "shard": "shard"}
    clash = sorted(fixed.keys() & set(scores))
    if clash:
        raise ScoreTableError(f"the score {clash[0]!r} has the name of a column of clip-retrieval's metadata")
    return {**fixed, **{name: name for name in scores}}


def write_clip_retrieval(folder: str, files: Sequence[str], rows: pa.Table, columns: Columns, code: str) -> None:
    """An .npy of (N, D) float16 and the Parquet table whose row n tells of the embedding n."""
    array, metadata = files
    matrix = embeddings(rows)
    write_atomic(folder, array, lambda stream: np.save(stream, matrix, allow_pickle=False))
    _write_parquet(folder, metadata, _renamed(rows, columns))


def datacomp_columns(scores: Sequence[str], code: str) -> Columns:
    """DataComp's columns; the similarity only if captions were scored."""
    found = [name for name in CAPTION_SCORES if name in scores][:1]
    similarity = {f"clip_{code}_similarity_score" if code else "clip_similarity_score": name for name in found}
    size = {"original_width": "width", "original_height": "height"}
    own = {"uid": "uid", "url": "url", "text": "caption"}
    return {**own, **size, **similarity, "sha256": "sha256", "shard": "shard", "key": "key"}


def write_datacomp(folder: str, files: Sequence[str], rows: pa.Table, columns: Columns, code: str) -> None:
    """A Parquet table with uids, and an .npz with the image features in the same order.

    `text` is never null, since DataComp's filters call its methods: a sample without a caption has the empty one.
    """
    metadata, features = files
    table = _renamed(rows, columns)
    table = table.set_column(table.schema.get_field_index("text"), "text", table.column("text").fill_null(""))
    _write_parquet(folder, metadata, table.set_column(0, "uid", pa.array(uids(rows), pa.string())))
    arrays: dict[str, Any] = {f"{code}_img" if code else "img": embeddings(rows)}
    with atomic_output(folder, features) as stream:
        np.savez(stream, **arrays)


def laion_columns(scores: Sequence[str], code: str) -> Columns:
    """LAION's columns; those of scores only if the run has the score."""
    found = {"similarity": next((name for name in CAPTION_SCORES if name in scores), "")}
    found |= {"punsafe": NSFW, "pwatermark": WATERMARK, "AESTHETIC_SCORE": AESTHETIC}
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


def write_laion(folder: str, files: Sequence[str], rows: pa.Table, columns: Columns, code: str) -> None:
    """A Parquet table."""
    _write_parquet(folder, files[0], _renamed(rows, columns))


LAYOUTS: Final[Mapping[str, Layout]] = {
    "clip-retrieval": Layout(
        ("img_emb/img_emb_{}.npy", "metadata/metadata_{}.parquet"),
        clip_retrieval_columns,
        write_clip_retrieval,
    ),
    "datacomp": Layout(("metadata/{}.parquet", "metadata/{}.npz"), datacomp_columns, write_datacomp, subset=True),
    "laion": Layout(("part-{}.parquet",), laion_columns, write_laion, embeddings=False),
}


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


def uid_buckets(found: Sequence[str]) -> dict[int, bytes]:
    """Uids by bucket, each sorted: one bucket's uids come before those of the next."""
    numbers = np.array([divmod(int(uid, 16), 1 << 64) for uid in found], UID)
    bucket_of = numbers["f0"] >> np.uint64(64 - _BUCKET_BITS)
    return {int(bucket): np.sort(numbers[bucket_of == bucket]).tobytes() for bucket in np.unique(bucket_of)}


def write_bucket(folder: str, bucket: int, several: Iterable[bytes]) -> int:
    """Sorts the uids of a bucket, leaves each once, and puts them where `write_subset` finds them; returns how many they are."""
    found = np.unique(np.frombuffer(b"".join(several), UID))
    write_atomic(folder, _bucket_name(bucket), lambda stream: stream.write(found.tobytes()))
    return len(found)


def write_subset(folder: str, buckets: Mapping[int, int]) -> int:
    """Writes the file of all uids, sorted: (N,) of dtype UID, as DataComp's resharder takes it.

    Args:
        folder: The layout's folder, with the buckets.
        buckets: How many different uids there are in each bucket.

    Returns:
        N: how many different uids there are. Two samples of a pool may have the same.
    """
    total = sum(buckets.values())
    header: dict[str, Any] = {"descr": UID.descr, "fortran_order": False, "shape": (total,)}

    def write(stream: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(stream, header)
        for bucket in sorted(buckets):
            stream.write(read_bytes(join(folder, _bucket_name(bucket))))

    write_atomic(folder, SUBSET, write)
    return total


def _bucket_name(bucket: int) -> str:
    return f"{TEMPORARY}/{BUCKET}-{bucket:02d}"


def _renamed(rows: pa.Table, columns: Columns) -> pa.Table:
    return pa.table({name: rows.column(source) for name, source in columns.items()})


def _write_parquet(folder: str, name: str, table: pa.Table) -> None:
    """Plain Parquet, as every reader takes it: pyarrow's defaults, rather than what is smallest."""
    with atomic_output(folder, name) as stream:
        pq.write_table(table, stream)
