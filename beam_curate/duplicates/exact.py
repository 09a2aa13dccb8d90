"""Duplicates of equal digests: of the image's bytes, or of its pixels."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import Ids
from beam_curate.duplicates.edges import Edges, no_edges, star_edges
from beam_curate.duplicates.spilling import BucketRange, Rows, RunReader

BUCKETS: Final = 4096
"""Buckets by the digest: a bucket of a billion rows is 12 MB, and what copies of one image add."""

_ROW: Final = np.dtype([("id", "<u8"), ("rank", "<u8"), ("digest", "<u8", (4,))])


def row_dtype() -> np.dtype[Any]:
    """A row of a run: its digest of 256 bits."""
    return _ROW


def make_rows(ids: Ids, ranks: Ids, digests: list[str | None]) -> tuple[npt.NDArray[np.int64], Rows]:
    """The buckets and rows of hex digests; rows without one are left out."""
    there = np.array([bool(digest) for digest in digests], np.bool_)
    joined = b"".join(bytes.fromhex(digest) for digest in digests if digest)
    rows = np.zeros(int(there.sum()), _ROW)
    rows["id"], rows["rank"] = ids[there], ranks[there]
    rows["digest"] = np.frombuffer(joined, "<u8").reshape(-1, 4)
    return (rows["digest"][:, 0] % np.uint64(BUCKETS)).astype(np.int64), rows


def equal_edges(reader: RunReader, wanted: BucketRange, method: str, between: bool) -> Edges:
    """The edges of a range of buckets: from each row to the best one of an equal digest."""
    found = [no_edges()]
    for rows in reader.buckets(wanted):
        _, groups = np.unique(rows["digest"], axis=0, return_inverse=True)
        found.append(star_edges(groups.reshape(-1), rows["id"], rows["rank"], method, between))
    return np.concatenate(found)
