"""The main job through a job service, with its workers on two other hosts."""

import sys
from pathlib import Path

from tests_engines.hosts import Host
from tests_engines.job import assert_same, curate, environment
from tests_engines.pools import PORT, wait_for_pools, worker_pools
from tests_engines.processes import accepts, running, wait_for

JOB_PORT = 8099


def test_two_hosts_that_share_only_a_folder(
    data: Path, shared: Path, workers: list[Host], reference: dict[str, bytes]
) -> None:
    """Each worker has its own network, memory, /tmp and working folder: nothing relies on those of another."""
    logs = shared / "job-service"
    logs.mkdir()
    log = logs / "service.log"
    addresses = ",".join(f"{host.name}:{PORT}" for host in workers)
    serve = [sys.executable, "-m", "tests_engines.job_service", f"--port={JOB_PORT}", f"--pools={addresses}"]
    with worker_pools(workers, logs) as pools, running(serve, log, environment()) as service:
        wait_for_pools(pools, workers, logs)
        wait_for(lambda: accepts("localhost", JOB_PORT), 60, "the job service", service, log)
        curate(
            data,
            shared / "remote",
            logs / "curate.log",
            *("--runner=PortableRunner", f"--job_endpoint=localhost:{JOB_PORT}"),
            *("--environment_type=EXTERNAL", f"--environment_config=localhost:{JOB_PORT + 1}"),
        )
    for host in workers:
        assert (logs / f"{host.name}-pool.log").read_text().count("Starting worker") == 1
    assert_same(shared / "remote", reference)
