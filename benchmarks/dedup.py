"""Measures the search for duplicates: recall against all pairs, time and memory against the number of rows.

    python benchmarks/dedup.py --recall 100000
    python benchmarks/dedup.py --rows 100000,300000,1000000
    python benchmarks/dedup.py --simulate 100000,1000000,10000000 --eps 0.05
    python benchmarks/dedup.py --variants 13,16

The embeddings are made up: topics of very different sizes around a common direction, of 768 dimensions in which they vary less
and less (as 1 / sqrt(i)), as float16. One row in twenty is a near duplicate of a row of an earlier part, at a cosine similarity
drawn evenly from 1 - 2 eps to 1, and differs from it in the direction of a third row: in the directions in which the data itself
varies, which is the worst case for clusters. `--isotropic` takes any direction. With `--own_directions` each topic varies most in
directions of its own, and near duplicates differ as rows of their topic do.

The baseline of the recall is single assignment, with as many clusters as this search makes and with 100, NeMo Curator's default;
the truth is every row compared with every better one. Each search runs in a process of its own, whose peak memory is told.

`--simulate` draws so many rows, or 100,000 of them, makes the cells from a sample as the search does, and counts what they visit
and which pairs meet, without the time for the rest. Near pairs are made up apart from the sample, one for each row, in all
dimensions, at similarities spread evenly over those of duplicates: how many of these do not meet is what is missed.
`--variants` are pHashes of one
picture of which so many bits are unstable, 2^13 and 2^16 of them: the worst case of a web crawl, plain surfaces and logos.
"""

import argparse
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_curate.duplicates.candidates import Candidates, normalised
from beam_curate.duplicates.methods.perceptual import Perceptual
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.duplicates.settling import project
from beam_curate.duplicates.table import read_part
from beam_curate.records import ScorePart, Shard
from beam_curate.runs import part_files, score_table
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.run import Run
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.table_parts import TablePlace
from beam_curate.runs.wanted import WantedRun
from beam_curate.selection.rejudging import Selection

DIM = 768
PER_PART = 10_000
DRAWN = 100_000  # rows that a simulation looks at
NEAR = 20  # one row in so many is a near duplicate


def make_table(folder: Path, rows: int, eps: float, isotropic: bool, own: bool = False) -> None:
    """Writes a score table of made-up rows; `own`: topics vary in directions of their own."""
    rng = np.random.default_rng(0)
    spread = np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    topics = rng.standard_normal((max(20, rows // 50), DIM), np.float32) * spread
    per_part = min(PER_PART, rows // 10)
    shards = [Shard(number, f"/made-up/{number:05d}.tar", 1) for number in range(rows // per_part)]
    Run(str(folder)).begin(WantedRun(Configuration(), shards))
    before, topics_before = None, None
    for shard in shards:
        topic = rng.zipf(1.3, per_part) % len(topics)
        widths = spread[(np.arange(DIM) + 37 * topic[:, None]) % DIM] if own else spread
        vectors = topics[topic] + 0.8 * widths * rng.standard_normal((per_part, DIM), np.float32)
        vectors[:, 0] += np.sqrt((spread**2).sum())
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        if before is not None:
            _plant(vectors, before, eps, isotropic, rng, topics_before if own else None)
        before, topics_before = vectors, topic
        write_part(str(folder), shard.index, shard.path, _part(shard, vectors, rng.random(per_part, np.float32)))


def _plant(
    vectors: np.ndarray,
    before: np.ndarray,
    eps: float,
    isotropic: bool,
    rng: np.random.Generator,
    topics: np.ndarray | None,
) -> None:
    count = len(vectors) // NEAR
    chosen = rng.choice(len(before), count, replace=False)
    source = before[chosen]
    towards = rng.standard_normal((count, DIM)).astype(np.float32)
    if not isotropic:
        third = rng.choice(len(before), count)
        if topics is not None:  # one of the same topic
            order = np.argsort(topics, kind="stable")
            first, last = (np.searchsorted(topics[order], topics[chosen], side) for side in ("left", "right"))
            third = order[first + third % (last - first)]
        towards = before[third] + 1e-3 * towards
    vectors[:count] = turned(source, towards, rng.uniform(1 - 2 * eps, 1, count))


def turned(source: np.ndarray, towards: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """Rows, (N, DIM), of these cosine similarities to others, turned from these towards third ones."""
    across = towards - (towards * source).sum(axis=1, keepdims=True) * source
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    angle = np.arccos(similarity).astype(np.float32)[:, None]
    return np.cos(angle) * source + np.sin(angle) * across


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


def search_here(source: str, output: str, eps: float, border: float | None, n_clusters: int) -> None:
    """Runs one search in this process, and prints its time and peak memory."""
    import apache_beam as beam

    from beam_curate.transforms.find_duplicates import FindDuplicates

    parts: list[ScorePart] = []
    for shard in Run(source).input_shards:
        with TablePlace(source).open(shard.index) as part:
            parts.append(part.counts)
    logging.basicConfig(format="    %(message)s")
    logging.getLogger("beam_curate.duplicates").setLevel(logging.INFO)
    search = DuplicateSearch(Selection(TablePlace(source), None), [Semantic(eps, n_clusters, border)])
    start, processor = time.monotonic(), time.process_time()
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(parts) | FindDuplicates(search, output)
    found = pipeline.result.metrics().query()["counters"]
    counts: Counter[str] = Counter()
    for one in found:  # of each step that counts, and two compare: buckets, and blocks of large ones
        if one.key.metric.namespace == "beam_curate.duplicates":
            counts[one.key.metric.name] += one.result
    used = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - processor,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "visits": counts["sent"] / counts["rows"],
        "comparisons": counts["comparisons"] / counts["rows"],
    }
    print(json.dumps(used))


def search_apart(source: Path, output: Path, eps: float, border: float | None, n_clusters: int = 0) -> dict[str, float]:
    """Runs one search in a process of its own."""
    shutil.rmtree(output, ignore_errors=True)
    given = ["--search", str(source), "--output", str(output), "--eps", f"{eps}"]
    given += [] if border is None else ["--border", f"{border}"]
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


def measure_recall(rows: int, eps: float, isotropic: bool, own: bool, folder: Path) -> None:
    """Prints the recall of this search, of its exact border, and of single assignment."""
    source, output = folder / "scores", folder / "found"
    make_table(source, rows, eps, isotropic, own)
    began = time.process_time()
    expected = truth(source, eps)
    print(f"each row with all better ones: {time.process_time() - began:.1f} s CPU", flush=True)
    kind = "any direction" if isotropic else "their topic's directions" if own else "the data's directions"
    print(f"{rows:,} rows, eps {eps}, near duplicates in {kind}; {len(expected):,} rows have a better one", flush=True)
    for name, border, n_clusters in (
        ("this search, border by the sample", None, 0),
        ("border 0.5, exact", 0.5, 0),
        ("single assignment, the square root of the rows clusters", 0.0, round(rows**0.5)),
        ("single assignment, 100 clusters (NeMo Curator's default)", 0.0, 100),
    ):
        used = search_apart(source, output, eps, border, n_clusters)
        found = removed(source, output)
        told = f"recall {len(found & expected) / len(expected):.5f}, {len(found - expected)} too many"
        print(f"  {told}, {used['seconds']:6.1f} s, {used['cpu_seconds']:6.1f} s CPU   {name}", flush=True)
    shutil.rmtree(source)


def measure_growth(sizes: list[int], eps: float, folder: Path) -> None:
    """Prints time and memory by the number of rows."""
    print("     rows   seconds  CPU s  us CPU/row   peak GB  visits/row  comparisons/row")
    for rows in sizes:
        source, output = folder / "scores", folder / "found"
        make_table(source, rows, eps, False)
        used = search_apart(source, output, eps, None)
        each = 1e6 * used["cpu_seconds"] / rows
        line = f"{used['seconds']:9.1f} {used['cpu_seconds']:6.1f} {each:11.1f} {used['peak_gb']:9.2f}"
        line += f" {used['visits']:11.2f} {used['comparisons']:16,.0f}"
        print(f"{rows:9,} {line}", flush=True)
        shutil.rmtree(source)


def draw_rows(rows: int, topics: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows as `make_table` makes them, none of them near duplicates: in blocks, as float16."""
    spread = np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    found = np.empty((rows, DIM), np.float16)
    for start in range(0, rows, PER_PART):
        some = found[start : start + PER_PART]
        vectors = topics[rng.zipf(1.3, len(some)) % len(topics)].astype(np.float32)
        vectors += 0.8 * spread * rng.standard_normal((len(some), DIM), np.float32)
        vectors[:, 0] += np.sqrt((spread**2).sum())
        some[:] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def simulate(rows: int, eps: float, border: float | None, seed: int) -> None:
    """Prints how many cells and buckets a row visits, and how many rows it is compared with."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    topics = np.empty((max(20, rows // 50), DIM), np.float16)
    for start in range(0, len(topics), PER_PART):
        some = topics[start : start + PER_PART]
        some[:] = rng.standard_normal(some.shape, np.float32) * spread
    settling = Semantic(eps, border=border).settling
    sample = draw_rows(settling.sampled(rows), topics, rng)
    began = time.process_time()
    (axes, _, cells, width), forecast = settling.spreading(rows, sample)
    assert forecast is not None
    axes = axes[:, : cells.directions]
    planned = time.process_time() - began
    done, drawn, spent = 0, min(rows, DRAWN), 0.0
    members, visitors, visits = np.zeros(len(cells)), np.zeros(len(cells)), 0
    missed = 0
    while done < drawn:
        vectors = draw_rows(min(PER_PART, drawn - done), topics, rng)
        points = project(vectors, axes)
        began = time.process_time()
        row, cell, home = cells.visits(points, width)
        spent += time.process_time() - began
        near = turned(normalised(vectors), normalised(vectors[::-1]), rng.uniform(1 - eps, 1, len(vectors)))
        missed += len(vectors) - int(meeting((row, cell, home), cells.visits(near @ axes, width)).sum())
        members += np.bincount(cell[home], minlength=len(cells))
        visitors += np.bincount(cell[~home], minlength=len(cells))
        visits += len(cell)
        done += len(points)
    each = 1e6 * spent / drawn
    pairs = float((members * ((members - 1) / 2 + visitors)).sum()) / drawn * (rows / drawn)
    print(
        f"{rows:12,} rows, eps {eps}, width {width / settling.distance:.3f}, seed {seed}: "
        f"{len(cells):6} cells in {cells.buckets:4} buckets, "
        f"{visits / drawn:6.2f} cells and {forecast.visits:5.2f} buckets visited by a row ({each:.0f} us CPU), "
        f"{pairs:9,.0f} pairs for each row, compared with {forecast.comparisons / rows:9,.0f} (forecast); "
        f"{missed / drawn:.3%} of {drawn:,} near pairs missed; planned in {planned:.1f} s CPU",
        flush=True,
    )


def meeting(visits: tuple[np.ndarray, ...], others: tuple[np.ndarray, ...]) -> np.ndarray:
    """Which rows meet the other one at their place, by the cells that each of both visits, see `Cells.visits`; (N,)."""
    found = np.zeros(int(visits[2].sum()), np.bool_)
    for (row, cell, _), (other, there, home) in ((visits, others), (others, visits)):
        homes = np.zeros(len(found), np.int64)
        homes[other[home]] = there[home]
        found[row[cell == homes[row]]] = True
    return found


def measure_variants(unstable: int) -> None:
    """Prints the cost of comparing pHashes of one picture, of which so many bits are unstable; in a process of its own."""
    hashes = np.arange(1 << unstable, dtype=np.uint64) << np.uint64(40)
    ids = np.arange(len(hashes), dtype=np.uint64)
    ranks = np.random.default_rng(0).permutation(ids)
    table = pa.table({"perceptual": hashes, "mirrored": hashes})
    method = Perceptual()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    plan = method.plan(len(ids), table)
    spread = method.spread(Candidates(ids, ranks, table), plan.spreading)
    buckets = np.unique(spread.buckets).tolist()
    edges = comparisons = 0
    for bucket in buckets:
        found = method.compare(bucket, [spread.rows[spread.buckets == bucket]], plan.comparing)
        comparisons += found.comparisons
        edges += len(found.edges)
    cpu = time.process_time() - began
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    print(
        f"{len(ids):,} variants: {cpu:.1f} s CPU, {peak:.0f} MB more, {comparisons / len(ids):,.0f} comparisons a row, "
        f"{edges:,} edges from {len(buckets)} buckets, at most one a row in each",
        flush=True,
    )


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--recall", type=int, default=0, help="rows of which all pairs are compared as well")
    parser.add_argument("--rows", default="", help="sizes to time, separated by commas")
    parser.add_argument("--simulate", default="", help="sizes to simulate, separated by commas")
    parser.add_argument("--variants", default="", help="numbers of unstable bits, separated by commas")
    parser.add_argument("--eps", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0, help="of a simulation")
    parser.add_argument("--isotropic", action="store_true")
    parser.add_argument("--own_directions", action="store_true", help="for --recall")
    for name in ("search", "output"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    parser.add_argument("--border", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--n_clusters", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search:
        search_here(options.search, options.output, options.eps, options.border, options.n_clusters)
        return
    for size in options.simulate.split(",") if options.simulate else ():
        simulate(int(size), options.eps, options.border, options.seed)
    for unstable in options.variants.split(",") if options.variants else ():
        if "," in options.variants:
            subprocess.run([sys.executable, __file__, "--variants", unstable], check=True)
        else:
            measure_variants(int(unstable))
    with tempfile.TemporaryDirectory(prefix="beam-curate-bench-") as folder:
        if options.recall:
            measure_recall(options.recall, options.eps, options.isotropic, options.own_directions, Path(folder))
        if options.rows:
            measure_growth([int(size) for size in options.rows.split(",")], options.eps, Path(folder))


if __name__ == "__main__":
    main()
