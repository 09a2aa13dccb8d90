"""Compares the search for near embeddings with a brute force by faiss and with plain SemDeDup: recall, CPU time and peak memory.

    OMP_NUM_THREADS=1 python benchmarks/dedup_contenders.py --rows 100000 --eps 0.05

The embeddings are those of dedup.py. Of two near ones the one of the higher score stays. The brute force is faiss's range search
of every row among all (IndexFlatIP, float32), which is also the truth that the others are held to. SemDeDup is written from the
paper (Abbas et al., 2023, arXiv 2303.09540, section 3): spherical k-means on all embeddings, then, in each cluster, a row is
removed if a better one of its cluster has a cosine similarity above 1 - eps. Each contender runs in a process of its own, which
first reads the table; the search reads it itself, and writes a table of duplicates.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dedup
import faiss
import numpy as np

from beam_curate.duplicates.candidates import normalised
from beam_curate.runs import part_files, score_table
from beam_curate.runs.run import Run

BLOCK = 1024


def read_table(source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings, (N, D) float32 of length 1, and scores; the rows in the order of the table."""
    vectors, scores = [], []
    for shard in Run(str(source)).input_shards:
        with part_files.open_part(str(source / score_table.part_name(shard.index))) as part:
            table = part.read(["aesthetic", "embedding"])
        scores.append(table.column("aesthetic").to_numpy())
        found = table.column("embedding").combine_chunks().flatten().to_numpy()
        vectors.append(normalised(found.reshape(-1, dedup.DIM)))
    return np.concatenate(vectors), np.concatenate(scores)


def brute_force(vectors: np.ndarray, eps: float) -> np.ndarray:
    """Which rows, the best one first, have a better one that is near: all compared with all."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    found = np.zeros(len(vectors), np.bool_)
    for start in range(0, len(vectors), BLOCK):
        limits, _, near = index.range_search(
            vectors[start : start + BLOCK], float(np.nextafter(np.float32(1 - eps), 0))
        )
        asking = start + np.repeat(np.arange(len(limits) - 1), np.diff(limits).astype(np.int64))
        found[asking[near < asking]] = True
    return found


def semdedup(vectors: np.ndarray, eps: float, clusters: int) -> np.ndarray:
    """Which rows, the best one first, have a better one that is near in the cluster that they are in."""
    kmeans = faiss.Kmeans(vectors.shape[1], clusters, niter=20, seed=0, spherical=True)
    kmeans.train(vectors)
    home = kmeans.index.search(vectors, 1)[1][:, 0]
    found = np.zeros(len(vectors), np.bool_)
    for cluster in range(clusters):
        rows = np.flatnonzero(home == cluster)
        for start in range(0, len(rows), BLOCK):
            asking = rows[start : start + BLOCK]
            near = vectors[asking] @ vectors[rows[: start + BLOCK]].T > 1 - eps
            near &= rows[: start + BLOCK][None, :] < asking[:, None]
            found[asking] = near.any(axis=1)
    return found


CONTENDERS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "faiss, all with all": brute_force,
    "SemDeDup, 100 clusters": lambda vectors, eps: semdedup(vectors, eps, 100),
    "SemDeDup, 11 clusters": lambda vectors, eps: semdedup(vectors, eps, 11),
}


def run_here(name: str, source: Path, eps: float, output: Path) -> None:
    """Runs one contender in this process, stores which rows it removes, and prints what it took."""
    vectors, scores = read_table(source)
    order = np.lexsort((np.arange(len(scores)), -scores))
    began = time.process_time()
    found = np.zeros(len(order), np.bool_)
    found[order] = CONTENDERS[name](vectors[order], eps)
    used = time.process_time() - began
    np.save(output, found)
    print(json.dumps({"cpu_seconds": used, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))


def run_apart(name: str, source: Path, eps: float, folder: Path) -> tuple[np.ndarray, dict[str, float]]:
    """Runs one contender in a process of its own."""
    output = folder / "removed.npy"
    given = ["--contender", name, "--source", str(source), "--eps", f"{eps}", "--output", str(output)]
    done = subprocess.run([sys.executable, __file__, *given], check=True, stdout=subprocess.PIPE, text=True)
    return np.load(output), json.loads(done.stdout.splitlines()[-1])


def compare(rows: int, eps: float, folder: Path) -> None:
    """Prints a table of all contenders."""
    source = folder / "scores"
    dedup.make_table(source, rows, eps, False)
    per_part = rows // len(Run(str(source)).input_shards)
    truth = np.zeros(rows, np.bool_)
    print("| contender | recall | too many | CPU | peak memory |\n|---|---|---|---|---|", flush=True)
    for name in (*CONTENDERS, "this search"):
        if name in CONTENDERS:
            found, used = run_apart(name, source, eps, folder)
        else:
            used = dedup.search_apart(source, folder / "found", eps, None)
            found = np.zeros(rows, np.bool_)
            places = dedup.removed(source, folder / "found")
            found[[part * per_part + row for part, row in places]] = True
        if not truth.any():
            truth = found
        recall, more = (found & truth).sum() / truth.sum(), (found & ~truth).sum()
        print(
            f"| {name} | {recall:.5f} | {more} | {used['cpu_seconds']:.0f} s | {used['peak_gb']:.2f} GB |", flush=True
        )


def main() -> None:
    """Compares, or runs the contender that is named."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--eps", type=float, default=0.01)
    for name in ("contender", "source", "output"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        run_here(options.contender, Path(options.source), options.eps, Path(options.output))
        return
    with tempfile.TemporaryDirectory(prefix="beam-curate-bench-") as folder:
        compare(options.rows, options.eps, Path(folder))


if __name__ == "__main__":
    main()
