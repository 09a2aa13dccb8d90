"""The commands on a Flink cluster of two hosts, and what happens when a part of the cluster is lost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests_engines.commands import NAMES, Commands
from tests_engines.conftest import installed
from tests_engines.flink import Flink, flink_cluster
from tests_engines.hosts import Host
from tests_engines.job import SHARDS, assert_same, curate, finish, start, wait_until_half_done
from tests_engines.pools import workers_of
from tests_engines.processes import tail, wait_for


@pytest.fixture(scope="module")
def flink(shared: Path, workers: list[Host]) -> Iterator[Flink]:
    """The cluster, for all tests of this file."""
    jars = installed("flink")
    folder = shared / "flink"
    folder.mkdir()
    with flink_cluster(jars, folder, workers) as cluster:
        yield cluster


def test_same_bytes_as_the_local_runner(
    flink: Flink, data: Path, shared: Path, workers: list[Host], reference: dict[str, bytes]
) -> None:
    """Both hosts take part."""
    curate(data, shared / "flink-plain", shared / "flink-plain.log", *flink.flags)
    assert_same(shared / "flink-plain", reference)
    for host in workers:
        assert "Starting worker" in (shared / "flink" / f"{host.name}-pool.log").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_other_commands_write_the_same_bytes(flink: Flink, commands: Commands, name: str) -> None:
    """Duplicates, rules on the whole table, and exports."""
    commands.assert_same(name, "flink", *flink.flags)


def test_a_lost_worker_is_replaced(flink: Flink, data: Path, shared: Path, reference: dict[str, bytes]) -> None:
    """Flink runs the steps of the lost worker again, which write what is there already once more."""
    output, log = shared / "flink-worker", shared / "flink-worker.log"
    with start(data, output, log, *flink.flags) as process:
        wait_until_half_done(process, output, log)
        lost = workers_of(flink.pools[0])
        assert lost
        for worker in lost:
            os.kill(worker, signal.SIGKILL)
        assert finish(process) == 0, tail(log)
    assert_same(output, reference)


def test_a_task_manager_that_is_lost_in_a_search_for_duplicates(flink: Flink, commands: Commands, shared: Path) -> None:
    """Flink makes again what it has lost; the images, which cost most, are not decoded again."""
    output, log = shared / "flink-lost-in-dedup", shared / "flink-lost-in-dedup.log"
    hashes = output / "duplicates" / "hashes"
    with commands.start("dedup", "flink-lost-in", *flink.flags) as process:
        wait_for(lambda: len(list(hashes.glob("part-*.parquet"))) > SHARDS // 2, 120, "hashes of images", process, log)
        made = {path: path.stat().st_mtime_ns for path in hashes.glob("part-*.parquet")}
        flink.replace_task_manager(1)
        assert not (output / "duplicates" / "summary.json").exists()
        assert finish(process) == 0, tail(log)
    assert_same(output, commands.expected["dedup"])
    assert made == {path: path.stat().st_mtime_ns for path in made}


def test_a_task_manager_that_is_lost_after_a_search_for_duplicates(
    flink: Flink, commands: Commands, shared: Path
) -> None:
    """No step of the search has read files that another one deletes: Flink makes again what it has lost, and nothing fails."""
    output, log = shared / "flink-lost-dedup", shared / "flink-lost-dedup.log"
    with commands.start("dedup", "flink-lost", *flink.flags) as process:
        found = output / "duplicates" / "summary.json"
        wait_for(found.exists, 120, "the end of the search", process, log)
        flink.replace_task_manager(1)
        assert not (output / "summary.json").exists()
        assert finish(process) == 0, tail(log)
    assert_same(output, commands.expected["dedup"])


def test_a_lost_task_manager_is_replaced(flink: Flink, data: Path, shared: Path, reference: dict[str, bytes]) -> None:
    """Flink waits for the new one and runs the steps of the lost one again."""
    output, log = shared / "flink-task-manager", shared / "flink-task-manager.log"
    with start(data, output, log, *flink.flags) as process:
        wait_until_half_done(process, output, log)
        flink.replace_task_manager(1)
        assert finish(process) == 0, tail(log)
    assert_same(output, reference)


def test_a_lost_job_is_resumed(flink: Flink, data: Path, shared: Path, reference: dict[str, bytes]) -> None:
    """A JobManager without high availability forgets the job: the command fails, and with --resume it completes the run."""
    output, log = shared / "flink-resumed", shared / "flink-resumed.log"
    with start(data, output, log, *flink.flags) as process:
        wait_until_half_done(process, output, log)
        flink.replace_job_manager()
        assert finish(process) == 1, tail(log)
    assert "go on with --resume" in log.read_text()
    assert not (output / "summary.json").exists()
    scored = {path.name: path.stat().st_mtime_ns for path in output.glob("scores/part-*")}
    curate(data, output, log, *flink.flags, "--resume")
    assert_same(output, reference)
    assert scored == {name: (output / "scores" / name).stat().st_mtime_ns for name in scored}
