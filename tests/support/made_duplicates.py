"""Rows made for the tests of duplicates, a search of them without a pipeline, and all pairs compared."""

import numpy as np
import pyarrow as pa

from beam_curate.duplicates import blocks
from beam_curate.duplicates.candidates import FOREIGN, Candidates
from beam_curate.duplicates.edges import best_edges, may_stand
from beam_curate.runs import score_table


def embeddings(rows, dim, duplicates, eps, seed=0):
    """Topics, and rows that lie near others in the direction of third ones; with ids and ranks."""
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((40, dim))
    vectors = topics[rng.integers(0, 40, rows)] + 0.7 * rng.standard_normal((rows, dim))
    source = rng.integers(0, rows - duplicates, duplicates)
    towards = vectors[rng.integers(0, rows, duplicates)] + 0.01 * rng.standard_normal((duplicates, dim))
    unit = vectors[source] / np.linalg.norm(vectors[source], axis=1, keepdims=True)
    towards -= (towards * unit).sum(axis=1, keepdims=True) * unit
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    angle = np.arccos(rng.uniform(1 - 2 * eps, 1, duplicates))[:, None]
    vectors[rows - duplicates :] = np.cos(angle) * unit + np.sin(angle) * towards
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16), np.arange(rows, dtype=np.uint64), rng.permutation(rows).astype(np.uint64)


def vector_table(vectors):
    return pa.table({"embedding": score_table.embedding_column(vectors)})


def hash_table(hashes, mirrored=None):
    mirrored = hashes if mirrored is None else mirrored
    return pa.table({"perceptual": pa.array(hashes, pa.uint64()), "mirrored": pa.array(mirrored, pa.uint64())})


def search(method, ids, ranks, table, pieces=1, block_rows=None):
    """The best edges by a method: rows are spread and compared as the pipeline does, but in this process.

    Args:
        method: The method.
        ids: (N,)
        ranks: (N,)
        table: What it reads.
        pieces: In so many pieces the rows of a bucket come.
        block_rows: Larger buckets are compared as pairs of blocks of half so many.
    """
    plan = method.plan(len(ids), table)
    spread = method.spread(Candidates(ids, ranks, table), plan.spreading)
    found, comparisons = [], 0
    for bucket in np.unique(spread.buckets).tolist():
        rows = np.array_split(spread.rows[spread.buckets == bucket], pieces)
        if block_rows is None or sum(map(len, rows)) <= block_rows:
            compared = [method.compare(bucket, rows, plan.comparing)]
        else:
            compared = in_blocks(method, bucket, rows, plan.comparing, block_rows // 2)
        for one in compared:
            assert len(np.unique(best_edges(one.edges)["row"])) == len(best_edges(one.edges))
            found.append(one.edges)
            comparisons += one.comparisons
    return best_edges(np.concatenate(found)), comparisons


def in_blocks(method, bucket, pieces, comparing, size):
    """A large bucket compared as the pipeline does it: its leaders first, then pairs of blocks of so many rows."""
    best = blocks.leaders(pieces, method.between)
    led = [blocks.asked(method, bucket, piece, best, comparing) for piece in pieces]
    left = np.concatenate([one.left for one in led])
    answering = np.concatenate([blocks.keys(piece[may_stand(piece, method.between)]) for piece in pieces])
    pairs = {}
    for block in blocks.pairs_of_blocks(pieces, left, answering, size, method.between):
        pairs.setdefault((block.asking, block.answering), ([], []))[block.answers].append(block.rows)
    sides = ([np.concatenate(side) for side in pair] for pair in pairs.values())
    return [one.found for one in led] + [method.compare_blocks(bucket, *pair, comparing) for pair in sides]


def expected(ids, ranks, alike):
    """By row the best row that is better and alike, of all pairs.

    Args:
        ids: (N,)
        ranks: (N,)
        alike: (N, N)
    """
    order = np.lexsort((ids, ~ranks))
    near = np.tril(alike[np.ix_(order, order)], -1)
    foreign = (ids[order] & FOREIGN) != 0
    if foreign.any():
        near &= foreign[None, :] & ~foreign[:, None]
    first = near.argmax(axis=1)
    return {int(ids[order[row]]): int(ids[order[first[row]]]) for row in np.flatnonzero(near.any(axis=1))}


def cosine(vectors):
    """All similarities, in float64."""
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide @ wide.T


def partners(edges):
    """By row what it is a duplicate of."""
    return dict(zip(edges["row"].tolist(), edges["of"].tolist(), strict=True))


def meet(cells, points, others, width):
    """Which points meet the one of the others at their place, by their visits."""
    found = np.zeros(len(points), np.bool_)
    for one, other in ((points, others), (others, points)):
        row, cell, _ = cells.visits(one, width)
        found[row[cell == cells.homes(other)[row]]] = True
    return found
