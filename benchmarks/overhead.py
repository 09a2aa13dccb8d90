"""Measures what the pipeline costs beside plain loops and beside the bare model.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --size M --only pipeline_clip,model_alone --rounds 7 --json result.json
    python benchmarks/overhead.py --images 3072 --only pipeline_stub_write,pipeline_stub_write@1,limit,limit@1

Every contender has a process of its own that is warmed up first (imports, models, kernels), bound to N cores if its name
ends in `@N`. The rounds are interleaved: A B C A B C. In each, a contender consumes a quarter of the shards and then all of
them; the difference, divided by the difference in images, is the marginal cost, in which start-up has no part. Ratios are
taken within a round, and the median over the rounds is told. On a busy machine wall times scatter: the CPU times then tell
more.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

from photo_shards import BATCH, SIZES, write_shards

from beam_curate.threads import usable_cores

_STUB: Final = ("pipeline_stub", "pipeline_stub_write", "loop_stub", "loop_stub_write", "limit", "open_clip_stub")
_CLIP: Final = ("pipeline_clip", "pipeline_clip_write", "model_alone", "user_loop")


class Comparison(NamedTuple):
    """A ratio of images/s, and what it shall be at least, by image size (nothing where it is for information).

    With `by_cpu` the goal is one of CPU seconds: the other has another number of threads.
    With `bf16` the goal holds only where the pipeline's model has that precision: in fp32 it is as fast as that of others.
    """

    name: str
    against: str
    goals: Mapping[str, float]
    bf16: bool = False
    by_cpu: bool = False


_COMPARISONS: Final = (
    Comparison("pipeline_stub", "loop_stub", {"S": 1.0, "M": 1.0}),
    Comparison("pipeline_stub_write", "loop_stub_write", {"S": 1.0, "M": 1.0}),
    Comparison("pipeline_stub_write", "limit", {"S": 0.8, "M": 0.8}, by_cpu=True),
    Comparison("pipeline_stub_write", "loop_stub", {}),
    Comparison("pipeline_stub", "open_clip_stub", {}),
    Comparison("pipeline_clip", "model_alone", {"S": 0.92, "M": 0.88}),
    Comparison("pipeline_clip_write", "model_alone", {"S": 0.92, "M": 0.88}),
    Comparison("pipeline_clip_write", "user_loop", {"S": 1.8, "M": 1.8}, bf16=True),
)


class Marginal(NamedTuple):
    """What one more image costs in a round, in milliseconds, and what a run of none would (seconds)."""

    wall_ms: float
    cpu_ms: float
    startup_s: float


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--images",
        type=int,
        default=1792,
        help="of a run with the stub model; more if that fills its batches",
    )
    parser.add_argument(
        "--clip_images", type=int, default=512, help="of a run with CLIP; more if that fills its batches"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", choices=SIZES, default="S", help="S: 640 x 480, M: 1024 x 768")
    parser.add_argument(
        "--decoder", default="fast", help="of DecodeImages, and of the loops that use it: fast, pillow, …"
    )
    parser.add_argument("--precision", default="auto", help="of CLIP, in the pipeline and alone: auto, bf16, fp32")
    parser.add_argument(
        "--only",
        default="",
        help=f"a comma list of {', '.join((*_STUB, *_CLIP))}, or one of these with @1 for one core; default: all on all cores",
    )
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    options.names = [name for name in options.only.split(",") if name] or [*_STUB, *_CLIP]
    unknown = sorted({name for name in options.names if _contender(name) not in (*_STUB, *_CLIP)})
    if unknown:
        parser.error(f"--only has {', '.join(unknown)}; choose from {', '.join((*_STUB, *_CLIP))}")
    wrong = sorted(name for name in options.names if _cores(name) not in range(1, usable_cores() + 1))
    if wrong:
        parser.error(f"--only has {', '.join(wrong)}; after the @ give a number of cores, 1 to {usable_cores()}")
    shards = 4 * usable_cores()
    for name in ("images", "clip_images"):
        if getattr(options, name) < shards:
            parser.error(f"--{name} is {getattr(options, name)}; give at least {shards}, one per shard")
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; give at least 1")
    return options


def _contender(name: str) -> str:
    return name.partition("@")[0]


def _cores(name: str) -> int:
    """The cores that a contender may use; 0 if what is after the @ is no number."""
    _, at, number = name.partition("@")
    if not at:
        return usable_cores()
    return int(number) if number.isdecimal() else 0


def _bind(cores: int) -> None:
    if cores < usable_cores():  # which some systems cannot tell; there all cores may be used
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def _in_process(task: str, *arguments: Any) -> Any:
    """Calls a function of contenders.py; only the contenders' own processes import it, and all that it needs."""
    if str(arguments[0]).startswith("pipeline"):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as pipelines/curate.py does; read when torch is loaded
    import contenders

    return getattr(contenders, task)(*arguments)


class _Player:
    """A contender in its process."""

    def __init__(
        self, name: str, process: ProcessPoolExecutor, paths: Sequence[Path], per_shard: int, settings: Sequence[str]
    ) -> None:
        self.name = name
        self._process = process
        self._paths = [str(path) for path in paths]
        self._per_shard = per_shard
        self._settings = settings

    def _measure(self, shards: int) -> Any:
        return self._process.submit(
            _in_process, "measure", _contender(self.name), self._paths[:shards], *self._settings
        ).result()

    def round(self) -> Marginal:
        """Runs a quarter of the shards and all of them."""
        few = len(self._paths) // 4
        short, long = self._measure(few), self._measure(len(self._paths))
        images = (len(self._paths) - few) * self._per_shard
        wall, cpu = (long.wall - short.wall) / images, (long.cpu - short.cpu) / images
        return Marginal(1000 * wall, 1000 * cpu, short.wall - few * self._per_shard * wall)

    def says(self, task: str, *arguments: str) -> Any:
        """What a function of contenders.py says in the process."""
        return self._process.submit(_in_process, task, _contender(self.name), *arguments).result()


class _Played(NamedTuple):
    """Torch's threads, whether CLIP computes in bf16, images of a run by kind of model, and the rounds of each contender."""

    threads: int
    bf16: bool
    images: Mapping[str, int]
    rounds: Mapping[str, list[Marginal]]


def _play(options: argparse.Namespace, folder: Path) -> _Played:
    """Runs all rounds."""
    shards = 4 * usable_cores()
    with ExitStack() as stack:
        players: list[_Player] = []
        played: dict[str, int] = {}
        for kind, names, images in (("stub", _STUB, options.images), ("clip", _CLIP, options.clip_images)):
            # A smaller batch than the pipeline's makes the bare model slower than it is.
            per_shard = -(-images // (shards * BATCH)) * BATCH
            played[kind] = shards * per_shard
            chosen = sorted(
                (name for name in options.names if _contender(name) in names),
                key=lambda name: (names.index(_contender(name)), -_cores(name)),
            )
            paths = write_shards(folder / kind, options.size, shards, per_shard) if chosen else []
            for name in chosen:
                process = ProcessPoolExecutor(
                    1, mp_context=get_context("spawn"), initializer=_bind, initargs=(_cores(name),)
                )
                players.append(
                    _Player(name, stack.enter_context(process), paths, per_shard, (options.decoder, options.precision))
                )
        counts = {_cores(player.name): player.says("threads") for player in players}
        threads = counts[max(counts)]
        bf16 = options.precision in ("auto", "bf16") and players[0].says("multiplies_bf16")
        for player in players:
            _say(f"warming up {player.name}")
            player.round()
        rounds: dict[str, list[Marginal]] = {player.name: [] for player in players}
        for number in range(options.rounds):
            _say(f"round {number + 1} of {options.rounds}")
            for player in players:
                rounds[player.name].append(player.round())
    return _Played(threads, bf16, played, rounds)


def _scaling(name: str) -> Mapping[str, float]:
    """What all cores shall do beside those of a contender with an @, by image size: nine tenths of their number's ratio."""
    if not name.startswith("pipeline_stub"):
        return {}
    return dict.fromkeys(SIZES, 0.9 * usable_cores() / _cores(name))


def _ratios(rounds: Mapping[str, Sequence[Marginal]], size: str, *, bf16: bool) -> Iterator[dict[str, Any]]:
    on_fewer = [Comparison(_contender(name), name, _scaling(name)) for name in rounds if "@" in name]
    for name, against, goals, needs_bf16, by_cpu in (*_COMPARISONS, *on_fewer):
        if name in rounds and against in rounds:
            pairs = list(zip(rounds[name], rounds[against], strict=True))
            wall = [theirs.wall_ms / ours.wall_ms for ours, theirs in pairs]
            cpu = [theirs.cpu_ms / ours.cpu_ms for ours, theirs in pairs]
            median = statistics.median(wall)
            goal = goals.get(size) if bf16 or not needs_bf16 else None
            yield {
                "name": name,
                "against": against,
                "ratio": median,
                "low": min(wall),
                "high": max(wall),
                "cpu_ratio": statistics.median(cpu),
                "by_cpu": by_cpu,
                "goal": goal,
                "met": None if goal is None else statistics.median(cpu if by_cpu else wall) >= goal,
            }


def _report(result: Mapping[str, Any]) -> None:
    rounds = len(next(iter(result["rounds"].values())))
    print(
        f"{result['size']}: {result['width']} x {result['height']} JPEG, decoder {result['decoder']}, "
        f"precision {result['precision']}, {result['cores']} cores, {result['threads']} torch threads, {rounds} rounds, "
        f"load {result['load']:.1f}; marginal cost, medians"
    )
    print(f"{'contender':<22}{'images/s':>9}{'ms':>8}{'(low':>8}{'high)':>8}{'CPU ms':>8}{'start-up s':>12}")
    for name, rounds in result["rounds"].items():
        wall = [one["wall_ms"] for one in rounds]
        median = statistics.median(wall)
        cpu, startup = (statistics.median(one[key] for one in rounds) for key in ("cpu_ms", "startup_s"))
        print(
            f"{name:<22}{1000 / median:>9.1f}{median:>8.2f}{min(wall):>8.2f}{max(wall):>8.2f}{cpu:>8.2f}{startup:>12.1f}"
        )
    print(f"\n{'images/s against':<42}{'ratio':>7}{'(low':>8}{'high)':>8}{'by CPU':>8}{'goal':>7}")
    for one in result["ratios"]:
        goal = "" if one["goal"] is None else f"{one['goal']:.2f}  {'met' if one['met'] else 'MISSED'}"
        goal += " by CPU" if one["by_cpu"] else ""
        title = f"{one['name']} / {one['against']}"
        print(f"{title:<42}{one['ratio']:>7.2f}{one['low']:>8.2f}{one['high']:>8.2f}{one['cpu_ratio']:>8.2f}   {goal}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status, which does not depend on the figures."""
    options = _arguments(argv)
    with tempfile.TemporaryDirectory(prefix="beam-curate-bench-") as folder:
        played = _play(options, Path(folder))
    width, height = SIZES[options.size]
    result = {
        "size": options.size,
        "decoder": options.decoder,
        "precision": options.precision,
        "width": width,
        "height": height,
        "cores": usable_cores(),
        "threads": played.threads,
        "load": os.getloadavg()[1],
        "images": played.images["stub"],
        "clip_images": played.images["clip"],
        "rounds": {name: [one._asdict() for one in ones] for name, ones in played.rounds.items()},
        "ratios": list(_ratios(played.rounds, options.size, bf16=played.bf16)),
    }
    _report(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
