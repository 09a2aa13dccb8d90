"""Measures how the peak memory of curate.py grows with its input: the same job on a tenth of the shards, then on all.

    python benchmarks/memory.py
    python benchmarks/memory.py --gb 20 --folder /mnt/scratch

The job is `pipelines/curate.py` as a user runs it, in a process of its own, with a small random model and the rules off,
so that every sample is kept and written. The peak is the resident set that the kernel reports when the process ends.
The shards and the results need 2.5 times `--gb` on disk, and are deleted at the end.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from photo_shards import photo_jpegs, write_shards

GOAL_GB: Final = 1.5
"""How much more the peak may be on all shards than on a tenth of them, in 1e9 bytes."""

_SHARDS: Final = 40
_SIZE: Final = "S"
_MEMBERS_BYTES: Final = 4096  # of a sample beside its image's bytes: three headers, padding, caption and JSON
_CURATE: Final = Path(__file__).resolve().parent.parent / "pipelines" / "curate.py"
_OPTIONS: Final = (
    *("--pretrained", "random", "--aesthetic_head", "random", "--nsfw_head", "random"),
    *("--min_aesthetic", "none", "--max_nsfw", "none"),
)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=4.0, help="size of all shards in 1e9 bytes")
    parser.add_argument("--clip_model", default="ViT-S-32-alt", help="a model of open_clip; weights are random")
    parser.add_argument("--folder", type=Path, help="where to make the shards; default: the folder for temporary files")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    if options.gb <= 0:
        parser.error(f"--gb is {options.gb}; give more than 0")
    folder = options.folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free / 1e9
    if free < 2.5 * options.gb:
        parser.error(f"{folder} has {free:.1f} GB free, --gb {options.gb} needs {2.5 * options.gb:.1f}; see --folder")
    return options


def _curate(paths: Sequence[Path], clip_model: str, output: Path) -> dict[str, Any]:
    """Runs the job on the shards and deletes what it wrote."""
    shards = f"{paths[0].parent}/{{{paths[0].stem}..{paths[-1].stem}}}.tar"
    command = [sys.executable, str(_CURATE), "--input", shards, "--output", str(output), "--clip_model", clip_model]
    start = time.perf_counter()
    with subprocess.Popen([*command, *_OPTIONS], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this process alone, unlike RUSAGE_CHILDREN
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with status {process.returncode}")
    funnel = json.loads((output / "summary.json").read_text())["funnel"]
    shutil.rmtree(output)
    return {
        "input_gb": sum(path.stat().st_size for path in paths) / 1e9,
        "samples": funnel["input"],
        "kept": funnel["kept"],
        "seconds": time.perf_counter() - start,
        "peak_gb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status, which does not depend on the figures."""
    options = _arguments(argv)
    jpegs = photo_jpegs(_SIZE)
    sample_bytes = sum(map(len, jpegs)) / len(jpegs) + _MEMBERS_BYTES
    per_shard = max(1, round(options.gb * 1e9 / _SHARDS / sample_bytes))
    with tempfile.TemporaryDirectory(prefix="beam-curate-memory-", dir=options.folder) as folder:
        paths = write_shards(Path(folder) / "data", _SIZE, _SHARDS, per_shard)
        print(f"{'input GB':>9}{'samples':>9}{'kept':>9}{'seconds':>9}{'peak RSS GB':>13}", flush=True)
        runs = []
        for few in (paths[: _SHARDS // 10], paths):
            runs.append(_curate(few, options.clip_model, Path(folder) / "out"))
            row = runs[-1]
            print(
                f"{row['input_gb']:>9.2f}{row['samples']:>9}{row['kept']:>9}{row['seconds']:>9.1f}{row['peak_gb']:>13.3f}",
                flush=True,
            )
    growth = runs[1]["peak_gb"] - runs[0]["peak_gb"]
    met = growth <= GOAL_GB
    print(f"growth of the peak {growth:.3f} GB, goal at most {GOAL_GB}: {'met' if met else 'MISSED'}")
    if options.json:
        options.json.write_text(
            json.dumps({"runs": runs, "growth_gb": growth, "goal_gb": GOAL_GB, "met": met}, indent=2) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
