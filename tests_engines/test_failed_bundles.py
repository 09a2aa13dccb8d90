"""A bundle that fails when parts of the score table are written, on engines that run none again: what was scored stays scored.

Engines that run a failed bundle again are in test_flink.py.
"""

import sys
from pathlib import Path

import pytest

from tests_engines.conftest import installed
from tests_engines.counted_curate import FAILURE
from tests_engines.job import SAMPLES, SHARDS, assert_same, command, finish, start_in
from tests_engines.processes import tail


def flags(engine: str) -> list[str]:
    """What a command needs to run there; skips the test where the engine is not installed."""
    return ["--runner=PrismRunner", f"--prism_location={installed('prism')}"] if engine == "prism" else []


@pytest.mark.parametrize("engine", ["local", "prism"])
def test_the_job_fails_and_a_resumed_one_scores_only_what_has_no_part(
    engine: str, data: Path, shared: Path, reference: dict[str, bytes]
) -> None:
    """The images that the model gets are counted, in both jobs; parts that are written are neither scored nor written again."""
    output, log = shared / f"{engine}-failed", shared / f"{engine}-failed.log"

    def run(name: str, parts: str, *more: str) -> tuple[int, int]:
        """The status, and how many images the model got."""
        counts = shared / f"{engine}-{name}.txt"
        words = command(data, output, *flags(engine), *more)[2:]
        argv = [sys.executable, "-m", "tests_engines.counted_curate", str(counts), parts, *words]
        with start_in(shared, argv, log) as process:
            status = finish(process)
        return status, sum(map(int, counts.read_text().split()))

    def scored() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in output.glob("scores/part-*")}

    status, _ = run("first", str(output / "scores"))
    assert status == 1, tail(log)
    assert FAILURE in log.read_text()
    assert not (output / "summary.json").exists()
    written = scored()
    assert 0 < len(written) < SHARDS
    status, images = run("resumed", "-", "--resume")
    assert status == 0, tail(log)
    missing = [shard for shard in range(SHARDS) if f"part-{shard:05d}.parquet" not in written]
    assert images == sum(SAMPLES - shard % 2 for shard in missing)  # the first of each odd shard is no image
    after = scored()
    assert len(after) == SHARDS
    assert {name: after[name] for name in written} == written
    assert_same(output, reference)
