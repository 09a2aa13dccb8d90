"""Measures exporting a run of photographs: images/s and peak memory, beside plain loops over the same tars.

    python benchmarks/exporting.py --gb 4
    python benchmarks/exporting.py --gb 20 --folder /mnt/scratch

The run is made here: JPEGs of about 100 KB at 640 x 480 with made-up scores, in shards of 1000. The jobs are
`pipelines/export.py` as a user runs it; the baselines read the tars with tarfile, in order, and write with tfrecord's
TFRecordWriter, or resize with Pillow and write with webdataset's TarWriter. Each runs in a process of its own; the peak is its
resident set. Exports need as much disk as the run beside it, and are deleted one by one.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from photo_shards import write_shards
from PIL import Image

from beam_curate.export.copied_tars import CopiedTars
from beam_curate.images.decoding import DecodeOptions, image_facts
from beam_curate.records import ScoredSample, ScorePart, Shard
from beam_curate.runs import score_table
from beam_curate.runs.division import Division
from beam_curate.runs.ending import finish_run
from beam_curate.runs.output_files import write_file
from beam_curate.runs.placed_rows import written as placed_rows
from beam_curate.storage.files import write_json
from beam_curate.tars.samples import read_samples

PER_SHARD: Final = 1000
SHORTEST: Final = 256
_QUALITY: Final = 95
_EXPORT: Final = Path(__file__).resolve().parent.parent / "pipelines" / "export.py"
_JOBS: Final = {
    "tfrecord": ("loop_tfrecord", ["--format=tfrecord"]),
    "tfrecord_shuffled": ("loop_tfrecord", ["--format=tfrecord", "--shuffle_seed=1"]),
    "webdataset_shuffled": ("loop_tfrecord", ["--format=webdataset", "--shuffle_seed=1"]),
    "resized": ("loop_resized", ["--format=webdataset", f"--resize_shortest={SHORTEST}", f"--quality={_QUALITY}"]),
}
"""By job its baseline and its options."""


def make_run(folder: Path, shards: int) -> int:
    """Writes a finished run of `shards` shards of the same photographs under unique keys; gives its number of samples."""
    (source,) = write_shards(folder / "source", "S", 1, PER_SHARD)
    with source.open("rb") as stream:
        read = list(read_samples(stream, Shard(0, str(source), source.stat().st_size)))
    rng = np.random.default_rng(0)
    rows = [
        ScoredSample(
            found.ref, image_facts(found.data, DecodeOptions()), b"", {"aesthetic": float(rng.random())}, "kept"
        )
        for found in read
    ]
    table = score_table.to_table(rows, ["aesthetic"], 1)
    output = str(folder / "run")
    written, parts = [], []
    for index in range(shards):
        keys = [f"{index * PER_SHARD + place:09d}" for place in range(len(rows))]
        named = placed_rows(table, index, np.arange(len(rows)), dict(enumerate(keys)))
        named = named.append_column("source_tar", named.column("shard"))
        written.append(write_file(CopiedTars(), output, index, named))
        parts.append(ScorePart(index, str(source), score_table.part_name(index), len(rows), len(rows), 0, 0, {}))
    about = {"scores_meaningless": True, "random": ["scores"], "heads": [], "configuration": {}}
    finish_run(output, parts, written, shards, Division(len(rows)), about)
    write_json(output, "run.json", {"configuration": {}, "input_shards": shards})
    shutil.rmtree(folder / "source")
    return shards * len(rows)


def samples_of(run: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members of each sample, by tarfile."""
    for path in sorted(run.glob("*.tar")):
        key, members = "", {}
        with tarfile.open(path) as archive:
            for info in archive:
                name, _, suffix = info.name.partition(".")
                if members and name != key:
                    yield key, members
                    members = {}
                key = name
                stream = archive.extractfile(info)
                members[suffix] = stream.read() if stream else b""
        yield key, members


def loop_tfrecord(run: Path, output: Path) -> None:
    """The plain way: the package's writer."""
    from tfrecord.writer import TFRecordWriter

    writer = None
    for number, (key, members) in enumerate(samples_of(run)):
        if number % PER_SHARD == 0:
            if writer is not None:
                writer.close()
            writer = TFRecordWriter(str(output / f"{number // PER_SHARD:05d}.tfrecord"))
        caption = members["txt"]
        writer.write(
            {
                "image/encoded": (members["jpg"], "byte"),
                "image/key": (key.encode(), "byte"),
                "caption": (caption, "byte"),
            }
        )
    if writer is not None:
        writer.close()


def loop_resized(run: Path, output: Path) -> None:
    """The plain way: Pillow's full decode, bicubic resize, and webdataset's writer, in one thread."""
    import webdataset as wds

    with wds.ShardWriter(str(output / "%05d.tar"), maxcount=PER_SHARD, verbose=0) as writer:
        for key, members in samples_of(run):
            image = Image.open(io.BytesIO(members["jpg"]))
            scale = SHORTEST / min(image.size)
            small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=_QUALITY)
            writer.write({"__key__": key, "jpg": buffer.getvalue(), "txt": members["txt"], "json": members["json"]})


def measure(command: Sequence[str], samples: int) -> dict[str, float]:
    """Runs a command in a process of its own."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with status {process.returncode}")
    seconds = time.perf_counter() - start
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    return {
        "seconds": seconds,
        "images_s": samples / seconds,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_gb": peak,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status, which does not depend on the figures."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=2.0, help="size of the run in 1e9 bytes")
    parser.add_argument("--only", default=",".join(_JOBS), help="a comma list of jobs")
    parser.add_argument("--folder", type=Path, help="where to make the run; default: the folder for temporary files")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--loop", nargs=3, metavar=("NAME", "RUN", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.loop:
        name, run, output = options.loop
        {"loop_tfrecord": loop_tfrecord, "loop_resized": loop_resized}[name](Path(run), Path(output))
        return 0
    chosen = options.only.split(",")
    unknown = sorted(set(chosen) - set(_JOBS))
    if unknown or options.gb <= 0:
        parser.error(
            f"--only {unknown[0]}: choose of {', '.join(_JOBS)}"
            if unknown
            else f"--gb is {options.gb}; give more than 0"
        )
    figures: dict[str, Any] = {"load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="beam-curate-export-", dir=options.folder) as name:
        folder = Path(name)
        samples = make_run(folder, max(1, round(options.gb * 1e9 / 1e8)))
        figures["samples"] = samples
        figures["gb"] = sum(path.stat().st_size for path in (folder / "run").glob("*.tar")) / 1e9
        print(f"{samples} samples, {figures['gb']:.2f} GB")
        print(f"{'':22}{'images/s':>10}{'CPU s':>8}{'peak GB':>9}{'ratio':>8}", flush=True)
        for job in chosen:
            baseline, flags = _JOBS[job]
            if baseline not in figures:
                (folder / "out").mkdir()
                figures[baseline] = measure([__file__, "--loop", baseline, f"{folder}/run", f"{folder}/out"], samples)
                shutil.rmtree(folder / "out")
                _show(baseline, figures[baseline], figures[baseline])
            command = [str(_EXPORT), f"--input={folder}/run", f"--output={folder}/out", *flags]
            figures[job] = measure(command, samples)
            shutil.rmtree(folder / "out")
            _show(job, figures[job], figures[baseline])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _show(name: str, found: dict[str, float], baseline: dict[str, float]) -> None:
    ratio = found["images_s"] / baseline["images_s"]
    print(f"{name:22}{found['images_s']:>10.1f}{found['cpu_s']:>8.1f}{found['peak_gb']:>9.3f}{ratio:>8.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
