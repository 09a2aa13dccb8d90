"""Rows that are alike if their digests are equal: what the methods `exact` and `pixels` share."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from beam_curate.duplicates.candidates import Candidates, Places, Rows, best_first, firsts
from beam_curate.duplicates.edges import Edges, edges_between, may_be_removed, may_stand, no_edges
from beam_curate.duplicates.method import Compared, Method, Plan, Spread

BUCKET_ROWS: Final = 1 << 16
"""Rows of a bucket, 48 bytes each, in the mean."""
ROW: Final = np.dtype([("id", "<u8"), ("rank", "<u8"), ("digest", "<u8", (4,))])
"""A row with its digest of 256 bits."""


@dataclass(frozen=True)
class EqualDigests(Method):
    """Rows of equal digests: hex numbers of 64 digits, the first column of `columns`."""

    def plan(self, total: int, sample: pa.Table) -> Plan:
        """The number of buckets: it grows with the rows."""
        del sample
        buckets = -(-total // BUCKET_ROWS) or 1
        return Plan(buckets, buckets)

    def spread(self, found: Candidates, spreading: Any) -> Spread:
        """Rows by their digest; those without one are left out."""
        digests: list[str | None] = found.table.column(self.columns[0]).to_pylist()
        there = np.array([bool(digest) for digest in digests], np.bool_)
        joined = b"".join(bytes.fromhex(digest) for digest in digests if digest)
        rows = np.zeros(int(there.sum()), ROW)
        rows["id"], rows["rank"] = found.ids[there], found.ranks[there]
        rows["digest"] = np.frombuffer(joined, "<u8").reshape(-1, 4)
        return Spread((rows["digest"][:, 0] % np.uint64(spreading)).astype(np.int64), rows)

    def dtype(self, comparing: Any) -> np.dtype[Any]:
        """ROW."""
        del comparing
        return ROW

    def compare(self, bucket: int, pieces: Iterable[Rows], comparing: Any) -> Compared:
        """The edges of a bucket: from each row to the best one of an equal digest.

        The rows stream by, twice: in memory are a piece and a row for each digest, so a million copies of an image are no matter.
        """
        del bucket, comparing
        best = np.zeros(0, ROW)
        for piece in pieces:
            best = _best(np.concatenate([best, piece[may_stand(piece, self.between)]]))
        found = [no_edges()]
        if len(best):
            found += [_edges(piece, best) for piece in pieces]
        return Compared(np.concatenate(found))


def _best(rows: Rows) -> Rows:
    """The best row of each digest, by digest."""
    ordered = best_first(rows)
    ordered = ordered[np.lexsort(_columns(ordered))]  # stable
    return ordered[firsts(*_columns(ordered))]


def _columns(rows: Rows) -> list[Any]:
    return [rows["digest"][:, column] for column in range(4)]


def _edges(piece: Rows, best: Rows) -> Edges:
    both = np.concatenate([best, piece])
    order = np.lexsort(
        _columns(both)
    )  # stable: the best one of a digest, if it is there, is before the rows of the piece
    first = firsts(*_columns(both[order]))
    of: Places = np.zeros(len(both), np.int64)
    of[order] = order[np.flatnonzero(first)[np.cumsum(first) - 1]]
    row = np.arange(len(best), len(both))
    of = of[row]
    wanted = (of < len(best)) & (both["id"][of] != both["id"][row]) & may_be_removed(piece)
    return edges_between(both, row[wanted], of[wanted])
