"""Measures how each stage after scoring grows with the number of parts of the score table, and fits the exponent.

    python benchmarks/scale.py --parts 100,1000,10000 --rows 20

The tables are fabricated: parts of a few rows with made-up scores and embeddings, whose source shards are one small tar under
many names (hard links). A stage runs by itself in the in-process runner. What is measured does not depend on what else the
machine does: CPU seconds of this process, and ranges and bytes that were asked of files. The exponent is the slope of the cost
over the number of parts, both as logarithms: 1 is linear. What the smallest table costs, of which most is what any pipeline
costs, is taken off the others.
"""

import argparse
import contextlib
import io
import json
import math
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from selecting import make_source

from beam_curate.commands import select
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.records import ScoredSample, Shard
from beam_curate.runs import score_table
from beam_curate.runs.configuration import Configuration, read_configuration
from beam_curate.runs.division import Division
from beam_curate.runs.ending import finish_table
from beam_curate.runs.run import Run
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.state_files import read_summary
from beam_curate.runs.table_parts import TablePlace
from beam_curate.runs.wanted import WantedRun
from beam_curate.scores.rules import standard_rules
from beam_curate.scores.top import TopRule
from beam_curate.selection.rejudging import Selection
from beam_curate.storage import ranged_reading
from beam_curate.transforms.continue_run import ContinueRun
from beam_curate.transforms.find_duplicates import FindDuplicates
from beam_curate.transforms.list_parts import ListParts
from beam_curate.transforms.pack_shards import PackShards
from beam_curate.transforms.select_rows import SelectRows
from beam_curate.transforms.write_report import WriteReport

_DIM: Final = 64
_LINKS: Final = 60_000  # ext4 allows 65,000 names of a file
_MODEL: Final = {"clip_model": "ViT-L-14", "embed_dim": _DIM, "weights": "none", "quick_gelu": True}
_ABOUT: Final = {
    "scores_meaningless": True,
    "random": ["scores"],
    "heads": [],
    "configuration": {"model": _MODEL},
    "input": {"pattern": "made up"},
    "versions": {},
}


@dataclass(frozen=True)
class Cost:
    """What a stage took: CPU seconds, ranges that were asked for, and bytes that came."""

    cpu_s: float
    requests: int
    bytes: int


def make_table(folder: Path, rows: Sequence[ScoredSample], parts: int) -> str:
    """Writes a run that ends with a table of so many parts, each with these rows and scores of its own; returns its folder."""
    output = folder / "scored"
    rng = np.random.default_rng(1)
    source = Path(rows[0].ref.shard)
    paths = [folder / "src" / f"{number:06d}.tar" for number in range(parts)]
    paths[0].parent.mkdir(parents=True)
    for number, path in enumerate(paths):
        if number % _LINKS == 0:
            shutil.copyfile(source, path)
            linked = path
        else:
            path.hardlink_to(linked)
    size = source.stat().st_size
    shards = [Shard(number, str(path), size) for number, path in enumerate(paths)]
    Run(str(output)).begin(WantedRun(read_configuration({"model": _MODEL}), shards))
    plain = score_table.to_table(rows, ["aesthetic", "nsfw"], _DIM)
    written = []
    for shard in shards:
        vectors = rng.standard_normal((len(rows), _DIM), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        table = plain
        for name, values in {
            "shard": pa.array([shard.path] * len(rows)),
            "shard_index": np.full(len(rows), shard.index, np.int32),
            "aesthetic": rng.random(len(rows), np.float32),
            "nsfw": rng.random(len(rows), np.float32),
            "embedding": score_table.embedding_column(vectors.astype(np.float16)),
        }.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(name), [values])
        written.append(write_part(str(output), shard.index, shard.path, table))
    finish_table(str(output), written, parts, _ABOUT)
    return str(output)


class Counted:
    """Counts what is asked of files, in all threads, for as long as it is entered."""

    def __enter__(self) -> "Counted":
        self.requests = self.bytes = 0
        self._fetch = ranged_reading.RangeReader._fetch
        lock, fetch = threading.Lock(), self._fetch

        def counted(reader: Any, start: int, stop: int) -> bytes:
            data = fetch(reader, start, stop)
            with lock:
                self.requests += 1
                self.bytes += len(data)
            return data

        ranged_reading.RangeReader._fetch = counted
        return self

    def __exit__(self, *_: object) -> None:
        ranged_reading.RangeReader._fetch = self._fetch


def run(build: Callable[[beam.Pipeline], object]) -> None:
    """Runs a pipeline in this process."""
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as root:
        build(root)


class Stages:
    """The stages on one table; each writes to a folder of its own below `folder`."""

    def __init__(self, folder: Path, scores: str) -> None:
        self._folder = folder
        self._place = TablePlace(scores)
        self._scores = scores

    @property
    def all(self) -> Mapping[str, Callable[[], object]]:
        """By name, in an order in which each finds what it needs."""
        return {
            "list what is done": lambda: run(lambda root: root | ContinueRun(self._scores)),
            "judge": lambda: self._judge("judged", Selection(self._place, standard_rules(min_aesthetic=0.5))),
            "top": lambda: self._judge("top", Selection(self._place, (), top=TopRule("nsfw", fraction="0.1"))),
            "pack in order": lambda: self._pack(None),
            "pack by a seed": lambda: self._pack(7),
            "report": lambda: run(
                lambda root: root | beam.Create([read_summary(self._scores)]) | WriteReport(self._scores)
            ),
            "dry run": self._dry_run,
            "duplicates, exact": lambda: self._duplicates("exact", DuplicateSearch(Selection(self._place, None))),
            "duplicates, semantic": lambda: self._duplicates(
                "semantic", DuplicateSearch(Selection(self._place, None), [Semantic(0.01)])
            ),
        }

    def _judge(self, name: str, selection: Selection) -> None:
        output = str(self._folder / name)
        Run(output).begin(WantedRun(Configuration(), Run(self._scores).input_shards, scores=self._scores))
        run(lambda root: root | ContinueRun(output, folder="verdicts") | _Pending() | SelectRows(selection, output))

    def _pack(self, seed: int | None) -> None:
        run(lambda root: root | ListParts(self._place) | PackShards(self._scores, Division(100, seed), _ABOUT))

    def _dry_run(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            if select.main([f"--scores={self._scores}", "--keep=aesthetic >= 0.9", "--dry_run"]):
                raise RuntimeError("the dry run was refused")

    def _duplicates(self, name: str, search: DuplicateSearch) -> None:
        output = str(self._folder / f"duplicates-{name}")
        run(lambda root: root | ListParts(self._place) | FindDuplicates(search, output))


class _Pending(beam.PTransform):
    """The half of a run that is still to be judged."""

    def expand(self, halves: Any) -> Any:
        return halves.pending


def cost_of(work: Callable[[], object]) -> Cost:
    """Runs a stage and counts."""
    with Counted() as counted:
        start = time.process_time()
        work()
        cpu = time.process_time() - start
    return Cost(cpu, counted.requests, counted.bytes)


def growth(parts: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log(cost) over log(parts) by least squares, the cost of the first taken off the others.

    Args:
        parts: Ascending numbers; three at least.
        costs: Of each.

    Returns:
        The exponent; NaN where a cost does not rise above the first.
    """
    points = [(number - parts[0], cost - costs[0]) for number, cost in zip(parts[1:], costs[1:], strict=True)]
    if any(cost <= 0 for _, cost in points):
        return math.nan
    x, y = (np.log([point[axis] for point in points]) for axis in (0, 1))
    return float(np.polyfit(x, y, 1)[0])


def _numbers(text: str) -> list[int]:
    found = [int(each) for each in text.split(",")]
    if len(found) < 3 or found != sorted(set(found)) or found[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give three or more ascending numbers, such as 100,1000,10000")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--parts", type=_numbers, default=[100, 1000, 10_000], help="numbers of parts, ascending")
    parser.add_argument("--rows", type=int, default=20, help="of a part")
    parser.add_argument("--only", default="", help="stages whose names begin so, a comma list")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    prefixes = tuple(options.only.split(",")) if options.only else ("",)
    measured: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory(prefix="beam-curate-scale-") as name:
        whole = make_source(Path(name) / "source.tar", 200, options.rows)
        for parts in options.parts:
            folder = Path(name) / str(parts)
            stages = Stages(folder, make_table(folder, whole, parts)).all
            for stage, work in stages.items():
                if stage.startswith(prefixes):
                    measured.setdefault(stage, []).append(cost_of(work))
                    print(f"{parts:>8,} parts  {stage:22}{measured[stage][-1]}", file=sys.stderr)
            shutil.rmtree(folder)
    if not measured:
        parser.error(f"--only {options.only}: there is no such stage; there are: {', '.join(stages)}")
    found = {
        stage: {
            "parts": options.parts,
            **{key: [getattr(cost, key) for cost in costs] for key in ("cpu_s", "requests", "bytes")},
            "growth": {
                key: growth(options.parts, [getattr(cost, key) for cost in costs])
                for key in ("cpu_s", "requests", "bytes")
            },
        }
        for stage, costs in measured.items()
    }
    print(
        f"{'stage':22}{'CPU ms a part':>15}{'requests a part':>17}{'KB a part':>11}"
        f"{'growth of CPU':>15}{'requests':>10}{'bytes':>8}"
    )
    for stage, one in found.items():
        last, parts = measured[stage][-1], options.parts[-1]
        print(
            f"{stage:22}{1000 * last.cpu_s / parts:>15.2f}{last.requests / parts:>17.2f}{last.bytes / parts / 1000:>11.1f}"
            f"{one['growth']['cpu_s']:>15.2f}{one['growth']['requests']:>10.2f}{one['growth']['bytes']:>8.2f}"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
