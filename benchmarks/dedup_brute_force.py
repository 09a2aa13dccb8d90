"""Checks the methods exact, pixels and perceptual against all pairs: the same rows are removed, for the same better ones.

    python benchmarks/dedup_brute_force.py --rows 100000

Rows are spread to their buckets and compared there by the methods themselves, without a pipeline. The digests are of 60,000
different images for 100,000 rows. Of the pHashes half are of 500 pictures, with up to 8 of 64 bits flipped, and half are drawn
evenly; the mirror image of each has another such hash. Ranks have ties. The reference is a dictionary for digests, and for
pHashes the number of bits in which each row differs from each better one. The exit status is 1 if any result differs.
"""

import argparse
import sys
import time

import numpy as np
import pyarrow as pa

from beam_curate.duplicates.candidates import Candidates
from beam_curate.duplicates.edges import best_edges
from beam_curate.duplicates.method import Method
from beam_curate.duplicates.methods.exact import Exact
from beam_curate.duplicates.methods.perceptual import Perceptual
from beam_curate.duplicates.methods.pixels import Pixels

BLOCK = 256


def searched(method: Method, ids: np.ndarray, ranks: np.ndarray, table: pa.Table) -> np.ndarray:
    """By row the place of the best row that is better and alike, -1 without one: by the method."""
    plan = method.plan(len(ids), table)
    spread = method.spread(Candidates(ids, ranks, table), plan.spreading)
    order = np.argsort(spread.buckets, kind="stable")
    buckets, starts = np.unique(spread.buckets[order], return_index=True)
    edges = []
    for bucket, rows in zip(buckets.tolist(), np.split(order, starts[1:]), strict=True):
        pieces = np.array_split(spread.rows[rows], 3)
        edges.append(method.compare(bucket, pieces, plan.comparing).edges)
    best = best_edges(np.concatenate(edges))
    found = np.full(len(ids), -1)
    found[best["row"].astype(np.int64)] = best["of"].astype(np.int64)
    return found


def by_dictionary(digests: list[str], order: np.ndarray) -> np.ndarray:
    """The same for equal digests; the order is that of the rows from the best one on."""
    found, first = np.full(len(digests), -1), {}
    for row in order.tolist():
        best = first.setdefault(digests[row], row)
        if best != row:
            found[row] = best
    return found


def by_all_pairs(faces: list[np.ndarray], order: np.ndarray, distance: int) -> np.ndarray:
    """The same for hashes that differ in few bits, of which a row may have several."""
    found = np.full(len(order), -1)
    faces = [face[order] for face in faces]
    for start in range(0, len(order), BLOCK):
        end = min(start + BLOCK, len(order))
        near = np.zeros((end - start, end), np.bool_)
        for one in faces:
            for other in faces:
                near |= np.bitwise_count(one[start:end, None] ^ other[None, :end]) <= distance
        near &= np.arange(end)[None, :] < np.arange(start, end)[:, None]
        there = near.any(axis=1)
        found[order[start:end][there]] = order[near.argmax(axis=1)[there]]
    return found


def made_hashes(rows: int, rng: np.random.Generator) -> np.ndarray:
    """Variants of some pictures, and others."""
    hashes = rng.integers(0, 2**64, rows, np.uint64)
    pictures = rng.integers(0, 2**64, 500, np.uint64)
    bits = np.uint64(1) << rng.integers(0, 64, (rows // 2, 8), np.uint64)
    bits[np.arange(8)[None, :] >= rng.integers(0, 9, (rows // 2, 1))] = 0
    hashes[::2][: rows // 2] = pictures[rng.integers(0, 500, rows // 2)] ^ np.bitwise_xor.reduce(bits, axis=1)
    return hashes


def main() -> int:
    """Compares each method with its reference."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    rng = np.random.default_rng(0)
    ids, ranks = np.arange(rows, dtype=np.uint64), rng.integers(0, rows // 2, rows).astype(np.uint64)
    order = np.lexsort((ids, ~ranks))
    digests = [f"{number:064x}" for number in rng.integers(0, rows * 6 // 10, rows).tolist()]
    hashes, mirrored = made_hashes(rows, rng), made_hashes(rows, rng)
    table = pa.table({"sha256": digests, "pixels": digests[::-1], "perceptual": hashes, "mirrored": mirrored})
    wrong = 0
    for name, method, reference in (
        ("exact", Exact(), lambda: by_dictionary(digests, order)),
        ("pixels", Pixels(), lambda: by_dictionary(digests[::-1], order)),
        ("perceptual", Perceptual(4), lambda: by_all_pairs([hashes], order, 4)),
        ("perceptual, mirrored", Perceptual(4, mirrored=True), lambda: by_all_pairs([hashes, mirrored], order, 4)),
    ):
        began = time.process_time()
        found = searched(method, ids, ranks, table)
        between = time.process_time()
        expected = reference()
        used, all_pairs = between - began, time.process_time() - between
        different = int((found != expected).sum())
        wrong += different
        print(
            f"{name}: {rows:,} rows, {(expected >= 0).sum():,} with a better one alike, {different} differ; "
            f"{used:.1f} s CPU, the reference {all_pairs:.1f} s",
            flush=True,
        )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
