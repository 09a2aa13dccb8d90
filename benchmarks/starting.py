"""Measures how long a run takes to its first embedded images: from the start of the process to the end of the model's first call.

    python benchmarks/starting.py
    python benchmarks/starting.py --against ../other-checkout --rounds 7

The command is `beam-curate curate` with a whole ViT-B/32 checkpoint in a file, text tower included, its weights random. The
first run of each checkout warms the bytecode and the file cache and is not counted. With `--against`, the package of another
checkout is measured in turns, with this Python and its libraries.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from photo_shards import write_shards

GOAL_S: Final = 4.0
_ROOT: Final = Path(__file__).resolve().parent.parent
_OPTIONS: Final = (
    *("--clip_model", "ViT-B-32", "--aesthetic_head", "random", "--nsfw_head", "random"),
    *(
        "--min_aesthetic",
        "none",
        "--max_nsfw",
        "none",
        "--preprocess",
        "openai",
        "--quick_gelu",
        "yes",
        "--progress",
        "none",
    ),
)
# Tells the wall and CPU time of the process at the end of the model's first call. The class is looked at when its module has
# run: nothing is loaded earlier than the command loads it.
_WATCHED: Final = """
import importlib.abc, importlib.util, json, os, sys, time
def tell():
    wall = time.clock_gettime(time.CLOCK_BOOTTIME) - began()
    print(json.dumps({"first": {"wall_s": wall, "cpu_s": sum(os.times()[:2])}}), flush=True)
def began():
    with open("/proc/self/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "beam_curate.clip.handler":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            real, told = module.ClipModelHandler.run_inference, []
            def run_inference(self, *arguments):
                result = real(self, *arguments)
                if not told:
                    told.append(tell())
                return result
            module.ClipModelHandler.run_inference = run_inference
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Watch())
from beam_curate.commands.starting import run
run("curate")
"""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns with this one")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; give at least 1")
    if options.against and not (options.against / "beam_curate").is_dir():
        parser.error(f"--against {options.against} is no checkout: it has no folder beam_curate")
    return options


def write_weights(path: Path) -> None:
    """Writes a whole checkpoint of ViT-B/32 with random weights, as open_clip saves one."""
    import open_clip
    from safetensors.torch import save_file

    state = open_clip.create_model("ViT-B-32").state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def _run(checkout: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Runs the command once; gives the wall and CPU seconds to the first images and to its end."""
    output = tempfile.mkdtemp(dir=folder)
    places = ("--input", f"{folder}/data/*.tar", "--pretrained", f"{folder}/weights.safetensors", "--output", output)
    command = [sys.executable, "-c", _WATCHED, *places, *_OPTIONS]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this process alone, unlike RUSAGE_CHILDREN
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        said.seek(0)
        lines = said.read().splitlines()
    told = [json.loads(line) for line in lines if line.startswith('{"first"')]
    if process.returncode or not told:
        raise SystemExit(f"error: the command ended with status {process.returncode}: {lines[-5:]}")
    shutil.rmtree(output)
    return {**told[0], "end": {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime}}


def _median(runs: Sequence[Mapping[str, Any]], moment: str, key: str) -> float:
    return statistics.median(run[moment][key] for run in runs)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status, which does not depend on the figures."""
    options = _arguments(argv)
    checkouts = {"this": _ROOT, **({"other": options.against.resolve()} if options.against else {})}
    runs: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory(prefix="beam-curate-starting-") as folder:
        write_shards(Path(folder, "data"), "S", 4, 32)
        subprocess.run([sys.executable, __file__, "--weights", f"{folder}/weights.safetensors"], check=True)
        for number in range(-1, options.rounds):
            for name, checkout in checkouts.items():
                found = _run(checkout, Path(folder))
                if number >= 0:
                    runs[name].append(found)
    print(f"ViT-B-32 from a file, load {os.getloadavg()[1]:.1f}, {options.rounds} rounds; medians, seconds")
    print(f"{'checkout':<10}{'first images':>14}{'(low':>8}{'high)':>8}{'CPU':>8}{'whole run':>12}{'CPU':>8}")
    for name, found in runs.items():
        walls = [run["first"]["wall_s"] for run in found]
        first, cpu, whole, all_cpu = (_median(found, *key) for key in (
            ("first", "wall_s"), ("first", "cpu_s"), ("end", "wall_s"), ("end", "cpu_s")))  # fmt: skip
        print(f"{name:<10}{first:>14.2f}{min(walls):>8.2f}{max(walls):>8.2f}{cpu:>8.2f}{whole:>12.2f}{all_cpu:>8.2f}")
    met = _median(runs["this"], "first", "wall_s") <= GOAL_S
    print(f"goal: first images after at most {GOAL_S} s: {'met' if met else 'MISSED'}")
    if options.json:
        options.json.write_text(json.dumps({"runs": runs, "goal_s": GOAL_S, "met": met}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--weights"]:
        write_weights(Path(sys.argv[2]))  # in a process of its own: torch would stay in this one's memory
        sys.exit(0)
    sys.exit(main())
