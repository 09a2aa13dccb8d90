"""Duplicates by perceptual hash: hashes of 64 bits that differ in at most a few of them.

Hashes that differ in at most d bits are equal in at least one of d + 1 bands of bits (the pigeonhole principle), so those that
share a band's value are compared, and no pair is missed.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import Ids, firsts
from beam_curate.duplicates.edges import Edges, no_edges, pair_edges, star_edges
from beam_curate.duplicates.spilling import BucketRange, Rows, RunReader

METHOD: Final = "perceptual"
BITS: Final = 64
MOST_DISTANCE: Final = 8
"""More differing bits than this are no near duplicates, and narrow the bands so much that nearly all are compared."""
_VALUES: Final = 4096  # buckets of a band: by at most 12 of its bits
_BLOCK: Final = 2048

_ROW: Final = np.dtype([("id", "<u8"), ("rank", "<u8"), ("hash", "<u8")])


def row_dtype() -> np.dtype[Any]:
    """A row of a run."""
    return _ROW


def n_buckets(distance: int) -> int:
    """Buckets of all bands."""
    return (distance + 1) * _VALUES


def make_rows(ids: Ids, ranks: Ids, hashes: Ids, distance: int) -> tuple[npt.NDArray[np.int64], Rows]:
    """The buckets and rows of hashes, each in a bucket of every band."""
    rows = np.zeros(len(ids), _ROW)
    rows["id"], rows["rank"], rows["hash"] = ids, ranks, hashes
    bands = distance + 1
    edges = [BITS * band // bands for band in range(bands + 1)]
    buckets = []
    for band in range(bands):
        width = min(edges[band + 1] - edges[band], 12)
        value = (hashes >> np.uint64(edges[band])) & np.uint64((1 << width) - 1)
        buckets.append(value.astype(np.int64) + band * _VALUES)
    return np.concatenate(buckets), np.tile(rows, bands)


def near_edges(reader: RunReader, wanted: BucketRange, distance: int, between: bool) -> Edges:
    """The edges of a range of buckets."""
    found = [no_edges()]
    for bucket, rows in reader.numbered(wanted):
        found.append(_bucket_edges(rows, distance, between, bucket < _VALUES))
    return np.concatenate(found)


def _bucket_edges(rows: Rows, distance: int, between: bool, first_band: bool) -> Edges:
    """The edges of a bucket: equal hashes in the first band only, since they share all bands."""
    order = np.lexsort((rows["id"], ~rows["rank"], rows["hash"]))
    rows = rows[order]
    is_first = firsts(rows["hash"])
    group = np.cumsum(is_first) - 1
    found = [star_edges(group, rows["id"], rows["rank"], METHOD, between)] if first_band else []
    # A row has a better one among the rows of another hash if and only if the best one of these is better.
    best = rows[is_first] if not between else rows
    for start in range(0, len(best), _BLOCK):
        for other in range(0, start + 1, _BLOCK):
            found.append(_near(best[start : start + _BLOCK], best[other : other + _BLOCK], distance, between))
    return np.concatenate([no_edges(), *found])


def _near(first: Rows, second: Rows, distance: int, between: bool) -> Edges:
    bits = np.bitwise_count(first["hash"][:, None] ^ second["hash"][None, :])
    row, column = np.nonzero((bits <= distance) & (bits > 0))
    similarity = (1 - bits[row, column] / BITS).astype(np.float32)
    a, b = first[row], second[column]
    return pair_edges((a["id"], a["rank"]), (b["id"], b["rank"]), METHOD, similarity, between)
