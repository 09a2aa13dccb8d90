"""The commands through a job service, with its workers on two other hosts."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests_engines.commands import NAMES, Commands
from tests_engines.hosts import Host
from tests_engines.job import assert_same, curate, environment
from tests_engines.pools import PORT, wait_for_pools, worker_pools
from tests_engines.processes import accepts, running, wait_for

JOB_PORT = 8099
_FLAGS = (
    *("--runner=PortableRunner", f"--job_endpoint=localhost:{JOB_PORT}"),
    *("--environment_type=EXTERNAL", f"--environment_config=localhost:{JOB_PORT + 1}"),
)


@pytest.fixture(scope="module")
def logs(shared: Path, workers: list[Host]) -> Iterator[Path]:
    """The job service and a worker pool on each host; gives the folder of their logs."""
    folder = shared / "job-service"
    folder.mkdir()
    log = folder / "service.log"
    addresses = ",".join(f"{host.name}:{PORT}" for host in workers)
    serve = [sys.executable, "-m", "tests_engines.job_service", f"--port={JOB_PORT}", f"--pools={addresses}"]
    with worker_pools(workers, folder) as pools, running(serve, log, environment()) as service:
        wait_for_pools(pools, workers, folder)
        wait_for(lambda: accepts("localhost", JOB_PORT), 60, "the job service", service, log)
        yield folder


def started(logs: Path, host: Host) -> int:
    """How many workers a host has started."""
    return (logs / f"{host.name}-pool.log").read_text().count("Starting worker")


def test_two_hosts_that_share_only_a_folder(
    data: Path, shared: Path, logs: Path, workers: list[Host], reference: dict[str, bytes]
) -> None:
    """Each worker has its own network, memory, /tmp and working folder: nothing relies on those of another."""
    before = [started(logs, host) for host in workers]
    curate(data, shared / "remote", shared / "remote.log", *_FLAGS)
    assert [started(logs, host) for host in workers] == [count + 1 for count in before]
    assert_same(shared / "remote", reference)


@pytest.mark.parametrize("name", NAMES)
def test_the_other_commands_write_the_same_bytes(
    logs: Path, workers: list[Host], commands: Commands, name: str
) -> None:
    """Duplicates, rules on the whole table, and exports."""
    before = [started(logs, host) for host in workers]
    commands.assert_same(name, "remote", *_FLAGS)
    assert [started(logs, host) for host in workers] == [count + 1 for count in before]
