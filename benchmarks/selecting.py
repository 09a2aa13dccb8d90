"""Measures selecting again from a large score table: beside copying the bytes that are kept, and as a dry run.

    python benchmarks/selecting.py --rows 1000000 --keep 0.05

The table has made-up scores and embeddings. Its source shards are one file of 1000 samples under many names (hard links), so
that a million samples of 100 KB need 0.1 GB; the kept ones are really read from it and written. The baseline copies the shards
that the selection wrote, once more, and brings each file and its name to the disk, as the selection does.

The CPU seconds of the selection are divided: `startup` is a selection from a table of one part; `table` what one takes besides
that keeps hardly a row of the whole table; `sha256` and `md5` those of as many bytes; `copy` is the copy; `rest` is what is left.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beam_curate.commands import select
from beam_curate.records import ImageFacts, Member, SampleRef, ScoredSample, ScorePart, Shard
from beam_curate.runs import score_table
from beam_curate.runs.configuration import read_configuration
from beam_curate.runs.own_parts import run_mark
from beam_curate.runs.run import Run
from beam_curate.runs.wanted import WantedRun
from beam_curate.storage.files import atomic_output, write_json

PER_PART = 1000
_DIM = 768
_MODEL = {"clip_model": "ViT-L-14", "embed_dim": _DIM, "weights": "none", "quick_gelu": True}


def make_source(path: Path, size: int, samples: int = PER_PART) -> list[ScoredSample]:
    """Writes a tar of so many samples of `size` bytes, and gives their rows, scores and embeddings empty."""
    rng = np.random.default_rng(0)
    rows = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(samples):
            data, caption, key = rng.bytes(size), b"a caption of some words", f"{number:06d}"
            members = []
            for suffix, body in (("jpg", data), ("txt", caption)):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(body)
                members.append(Member(suffix, tar.offset + 512, len(body)))
                tar.addfile(info, io.BytesIO(body))
            last = samples if number == samples - 1 else 0
            ref = SampleRef(0, str(path), number, key, tuple(members), "jpg", last, caption.decode())
            facts = ImageFacts(640, 480, "JPEG", hashlib.sha256(data).hexdigest(), len(data))
            rows.append(ScoredSample(ref, facts, b"", {}, "kept"))
    return rows


def make_run(folder: Path, rows: Sequence[ScoredSample], parts: int) -> None:
    """Writes a finished run whose table has `parts` times these rows, with uniform scores from 0 to 1."""
    rng = np.random.default_rng(1)
    names = ["aesthetic", "nsfw"]
    source = Path(rows[0].ref.shard)
    paths = [source.with_name(f"{number:05d}.tar") for number in range(parts)]
    for path in paths:
        path.hardlink_to(source)
    size = source.stat().st_size
    Run(str(folder)).begin(
        WantedRun(
            read_configuration({"model": _MODEL}), [Shard(number, str(path), size) for number, path in enumerate(paths)]
        )
    )
    marked = {score_table.RUN_METADATA: run_mark(str(folder))}
    plain = score_table.to_table(rows, names, _DIM)
    for number, path in enumerate(paths):
        vectors = rng.standard_normal((PER_PART, _DIM), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        table = plain
        for name, values in {
            "shard": pa.array([str(path)] * PER_PART),
            "shard_index": np.full(PER_PART, number, np.int32),
            "aesthetic": rng.random(PER_PART, np.float32),
            "nsfw": rng.random(PER_PART, np.float32),
            "embedding": score_table.embedding_column(vectors.astype(np.float16)),
        }.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(name), [values])
        part = ScorePart(number, str(path), score_table.part_name(number), PER_PART, PER_PART, 0, 0, {})
        with atomic_output(str(folder), part.path) as stream:
            score_table.write_table(stream, table, {**marked, score_table.PART_METADATA: json.dumps(asdict(part))})
    total = parts * PER_PART
    funnel = {"input": total, "failed": 0, "rejected": 0, "kept": total, "reasons": {}}
    about = {"scores_meaningless": True, "random": ["scores"], "heads": [], "configuration": {"model": _MODEL}}
    write_json(str(folder), "summary.json", {"funnel": funnel, "input_shards": parts, **about})


def copy_synced(path: Path, folder: Path) -> None:
    """Copies a file, and waits until it and its name are on the disk."""
    copy = folder / path.name
    shutil.copyfile(path, copy)
    for each in (copy, folder):
        file = os.open(each, os.O_RDONLY)
        os.fsync(file)
        os.close(file)


def stage_walls(run: Path, wall: float) -> dict[str, float]:
    """Wall seconds of a selection's stages, by when its files were written.

    Args:
        run: Its folder.
        wall: What it took.

    Returns:
        `judge`: from the mark of the run to the last verdicts; `write`: from there to the last output shard, keys and places
        included; `report`: from there to the last file; `start`: the rest.
    """
    begun, judged, written, ended = (
        max(path.stat().st_mtime for path in run.glob(pattern))
        for pattern in ("run.json", "verdicts/*.parquet", "*.tar", "*.*")
    )
    walls = {"judge": judged - begun, "write": written - judged, "report": ended - written}
    return {"start": wall - sum(walls.values()), **walls}


class Took(NamedTuple):
    """Wall seconds, and CPU seconds of this process."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Took:
    """What a call takes; what it prints is dropped."""
    start = Took(time.perf_counter(), time.process_time())
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return Took(time.perf_counter() - start.wall, time.process_time() - start.cpu)


def hashed(kind: str, size: int, times: int) -> float:
    """CPU seconds of the digests of so many pieces of `size` bytes."""
    data = bytes(size)
    return timed(lambda: [hashlib.new(kind, data).digest() for _ in range(times)]).cpu


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table")
    parser.add_argument("--keep", type=float, default=0.05, help="the share of them that is kept")
    parser.add_argument("--image_kb", type=int, default=100, help="size of an image")
    parser.add_argument("--seed", type=int, help="shuffle what is kept by this seed")
    parser.add_argument("--workers", type=int, default=1, help="Beam's direct_num_workers, as processes")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="beam-curate-bench-") as name:
        folder = Path(name)
        make_run(
            folder / "scored", make_source(folder / "source.tar", options.image_kb * 1000), -(-options.rows // PER_PART)
        )
        rule = [f"--scores={folder}/scored", f"--keep=aesthetic >= {1 - options.keep}"]
        workers = ["--direct_running_mode=multi_processing", f"--direct_num_workers={options.workers}"]
        flags = [*rule, f"--output={folder}/selected", *(workers if options.workers > 1 else [])]
        flags += [] if options.seed is None else [f"--shuffle_seed={options.seed}"]
        (folder / "one").mkdir()
        make_run(folder / "one" / "scored", make_source(folder / "one" / "source.tar", 1), 1)
        timed(lambda: select.main([f"--scores={folder}/one/scored", f"--output={folder}/one/first"]))  # loads modules
        startup = timed(lambda: select.main([f"--scores={folder}/one/scored", f"--output={folder}/one/selected"]))
        hardly = [f"--scores={folder}/scored", f"--output={folder}/hardly", "--keep=aesthetic >= 0.9999"]
        table = timed(lambda: select.main(hardly))
        dry = timed(lambda: select.main([*rule, "--dry_run"]))
        dry_top = timed(lambda: select.main([f"--scores={folder}/scored", "--top_fraction=nsfw=0.1", "--dry_run"]))
        chosen = timed(lambda: select.main(flags))
        funnel = json.loads((folder / "selected" / "summary.json").read_text())["funnel"]
        shards = sorted((folder / "selected").glob("*.tar"))
        size = sum(path.stat().st_size for path in shards)
        walls = stage_walls(folder / "selected", chosen.wall)
        (folder / "copy").mkdir()
        copied = timed(lambda: [copy_synced(path, folder / "copy") for path in shards])
    parts = {
        "startup": startup.cpu,
        "table": table.cpu - startup.cpu,
        "sha256": hashed("sha256", options.image_kb * 1000, funnel["kept"]),
        "md5": hashed("md5", 1 << 20, size >> 20),
        "copy": copied.cpu,
    }
    parts["rest"] = chosen.cpu - sum(parts.values())
    figures = {
        "rows": funnel["input"],
        "kept": funnel["kept"],
        "kept_gb": size / 1e9,
        "dry_run_s": dry.wall,
        "dry_run_top_s": dry_top.wall,
        "select_s": chosen.wall,
        **{f"wall_{name}_s": seconds for name, seconds in walls.items()},
        "select_cpu_s": chosen.cpu,
        **{f"cpu_{name}_s": seconds for name, seconds in parts.items()},
        "copy_s": copied.wall,
        "ratio": chosen.wall / copied.wall,
        "cpu_ratio": chosen.cpu / copied.cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "load": os.getloadavg()[0],
    }
    print("\n".join(f"{name:14}{value:>14,.3f}" for name, value in figures.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
