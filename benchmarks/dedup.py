"""Measures the search for semantic duplicates: recall against all pairs, time and memory against the number of embeddings.

    python benchmarks/dedup.py --recall 100000
    python benchmarks/dedup.py --rows 100000,300000,1000000

The embeddings are made up: topics of very different sizes around a common direction, of 768 dimensions in which they vary less
and less (as 1 / sqrt(i)), as float16. One row in twenty is a near duplicate of a row of an earlier part, at a cosine similarity
drawn evenly from 1 - 2 eps to 1, and differs from it in the direction of a third row: in the directions in which the data itself
varies, which is the worst case for clusters. `--isotropic` takes any direction.

The baseline of the recall is single assignment, with as many clusters as this search makes and with 100, NeMo Curator's default;
the truth is every row compared with every better one. Each search runs in a process of its own, whose peak memory is told.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_curate.duplicates.candidates import normalised
from beam_curate.duplicates.clusters import BORDER, Clustering
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.duplicates.table import read_part
from beam_curate.records import ScorePart, Shard
from beam_curate.runs import part_files, score_table
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.run import Run
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.table_parts import TablePlace
from beam_curate.selection.rejudging import Selection

DIM = 768
PER_PART = 10_000
NEAR = 20  # one row in so many is a near duplicate


def make_table(folder: Path, rows: int, eps: float, isotropic: bool) -> None:
    """Writes a score table of made-up rows."""
    rng = np.random.default_rng(0)
    spread = np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    topics = rng.standard_normal((max(20, rows // 50), DIM), np.float32) * spread
    per_part = min(PER_PART, rows // 10)
    shards = [Shard(number, f"/made-up/{number:05d}.tar", 1) for number in range(rows // per_part)]
    Run(str(folder)).begin(Configuration(), shards)
    before = None
    for shard in shards:
        vectors = topics[rng.zipf(1.3, per_part) % len(topics)]
        vectors = vectors + 0.8 * spread * rng.standard_normal((per_part, DIM), np.float32)
        vectors[:, 0] += np.sqrt((spread**2).sum())
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        if before is not None:
            _plant(vectors, before, eps, isotropic, rng)
        before = vectors
        write_part(str(folder), shard.index, shard.path, _part(shard, vectors, rng.random(per_part, np.float32)))


def _plant(vectors: np.ndarray, before: np.ndarray, eps: float, isotropic: bool, rng: np.random.Generator) -> None:
    count = len(vectors) // NEAR
    source = before[rng.choice(len(before), count, replace=False)]
    towards = rng.standard_normal((count, DIM)).astype(np.float32)
    if not isotropic:
        towards = before[rng.choice(len(before), count)] + 1e-3 * towards
    towards -= (towards * source).sum(axis=1, keepdims=True) * source
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    angle = np.arccos(rng.uniform(1 - 2 * eps, 1, count)).astype(np.float32)[:, None]
    vectors[:count] = np.cos(angle) * source + np.sin(angle) * towards


def _part(shard: Shard, vectors: np.ndarray, aesthetic: np.ndarray) -> pa.Table:
    count = len(vectors)
    first = shard.index * count
    known = {
        "key": [f"{row:06d}" for row in range(count)],
        "shard": [shard.path] * count,
        "shard_index": [shard.index] * count,
        "index": list(range(count)),
        "status": ["kept"] * count,
        "sha256": [f"{first + row:064x}" for row in range(count)],
        "aesthetic": aesthetic,
    }
    schema = score_table.schema(["aesthetic"], DIM)
    arrays = [
        score_table.embedding_column(vectors.astype(np.float16))
        if field.name == "embedding"
        else pa.array(known[field.name], field.type)
        if field.name in known
        else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def search_here(source: str, output: str, eps: float, border: float, n_clusters: int) -> None:
    """Runs one search in this process, and prints its time and peak memory."""
    import apache_beam as beam

    from beam_curate.transforms.find_duplicates import FindDuplicates

    parts: list[ScorePart] = []
    for shard in Run(source).input_shards:
        with TablePlace(source).open(shard.index) as part:
            parts.append(part.counts)
    search = DuplicateSearch(Selection(TablePlace(source), None), clustering=Clustering(eps, n_clusters, border))
    start, processor = time.monotonic(), time.process_time()
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(parts) | FindDuplicates(search, output)
    used = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - processor,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    print(json.dumps(used))


def search_apart(source: Path, output: Path, eps: float, border: float, n_clusters: int = 0) -> dict[str, float]:
    """Runs one search in a process of its own."""
    shutil.rmtree(output, ignore_errors=True)
    given = ["--search", str(source), "--output", str(output), "--eps", f"{eps}", "--border", f"{border}"]
    command = [sys.executable, __file__, *given, "--n_clusters", str(n_clusters)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ})
    return json.loads(done.stdout.splitlines()[-1])


def removed(source: Path, output: Path) -> set[tuple[int, int]]:
    """The rows that are duplicates, by the duplicates table."""
    found: set[tuple[int, int]] = set()
    for shard in Run(str(source)).input_shards:
        table = read_part(str(output), shard.index)
        rows = table.filter(pa.compute.is_valid(table.column("method"))).column("index").to_pylist()
        found |= {(shard.index, row) for row in rows}
    return found


def truth(source: Path, eps: float) -> set[tuple[int, int]]:
    """The rows that have a better one of a similarity of at least 1 - eps: all compared with all."""
    tables = []
    for shard in Run(str(source)).input_shards:
        with part_files.open_part(str(source / score_table.part_name(shard.index))) as part:
            tables.append(part.read(["shard_index", "index", "aesthetic", "embedding"]))
    table = pa.concat_tables(tables)
    places = list(zip(table.column("shard_index").to_pylist(), table.column("index").to_pylist(), strict=True))
    score = table.column("aesthetic").to_numpy()
    vectors = normalised(table.column("embedding").combine_chunks().flatten().to_numpy().reshape(-1, DIM))
    order = np.lexsort((np.arange(len(score)), -score))
    vectors = vectors[order]
    found: set[tuple[int, int]] = set()
    for start in range(0, len(vectors), 2048):
        similarity = vectors[start : start + 2048] @ vectors[: start + 2048].T
        later = np.arange(similarity.shape[1])[None, :] >= np.arange(start, start + len(similarity))[:, None]
        similarity[later] = -1
        found |= {places[row] for row in order[start : start + 2048][(similarity >= np.float32(1 - eps)).any(axis=1)]}
    return found


def measure_recall(rows: int, eps: float, isotropic: bool, folder: Path) -> None:
    """Prints the recall of this search, of its exact border, and of single assignment."""
    source, output = folder / "scores", folder / "found"
    make_table(source, rows, eps, isotropic)
    expected = truth(source, eps)
    kind = "any direction" if isotropic else "the data's directions"
    print(f"{rows:,} rows, eps {eps}, near duplicates in {kind}; {len(expected):,} rows have a better one", flush=True)
    for name, border, n_clusters in (
        (f"this search (border {BORDER})", BORDER, 0),
        ("border 0.5, exact", 0.5, 0),
        ("single assignment, as many clusters", 0.0, 0),
        ("single assignment, 100 clusters (NeMo Curator's default)", 0.0, 100),
    ):
        used = search_apart(source, output, eps, border, n_clusters)
        found = removed(source, output)
        told = f"recall {len(found & expected) / len(expected):.5f}, {len(found - expected)} too many"
        print(f"  {told}, {used['seconds']:6.1f} s, {used['cpu_seconds']:6.1f} s CPU   {name}", flush=True)
    shutil.rmtree(source)


def measure_growth(sizes: list[int], eps: float, folder: Path) -> None:
    """Prints time and memory by the number of rows."""
    print("     rows   seconds  CPU s  us CPU/row   peak GB")
    for rows in sizes:
        source, output = folder / "scores", folder / "found"
        make_table(source, rows, eps, False)
        used = search_apart(source, output, eps, BORDER)
        each = 1e6 * used["cpu_seconds"] / rows
        line = f"{used['seconds']:9.1f} {used['cpu_seconds']:6.1f} {each:11.1f} {used['peak_gb']:9.2f}"
        print(f"{rows:9,} {line}", flush=True)
        shutil.rmtree(source)


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--recall", type=int, default=0, help="rows of which all pairs are compared as well")
    parser.add_argument("--rows", default="", help="sizes to time, separated by commas")
    parser.add_argument("--eps", type=float, default=0.01)
    parser.add_argument("--isotropic", action="store_true")
    for name in ("search", "output"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    parser.add_argument("--border", type=float, default=BORDER, help=argparse.SUPPRESS)
    parser.add_argument("--n_clusters", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search:
        search_here(options.search, options.output, options.eps, options.border, options.n_clusters)
        return
    with tempfile.TemporaryDirectory(prefix="beam-curate-bench-") as folder:
        if options.recall:
            measure_recall(options.recall, options.eps, options.isotropic, Path(folder))
        if options.rows:
            measure_growth([int(size) for size in options.rows.split(",")], options.eps, Path(folder))


if __name__ == "__main__":
    main()
