"""Beam's worker pools, which start the Python workers of a job on their host."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests_engines.hosts import Host
from tests_engines.job import environment
from tests_engines.processes import children, running, wait_for

PORT = 50000


@contextmanager
def worker_pools(hosts: Sequence[Host], logs: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Starts a pool on each host, at the same port."""
    pool = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={PORT}"]
    with ExitStack() as stack:
        yield [stack.enter_context(running(host.command(pool), _log(host, logs), environment())) for host in hosts]


def wait_for_pools(pools: Sequence["subprocess.Popen[bytes]"], hosts: Sequence[Host], logs: Path) -> None:
    """Waits until each pool listens, on its own host."""
    for pool, host in zip(pools, hosts, strict=True):
        wait_for(partial(_listens, pool.pid), 60, f"the pool of {host.name}", pool, _log(host, logs))


def workers_of(pool: "subprocess.Popen[bytes]") -> list[int]:
    """The process numbers of the workers that a pool has started and that live."""
    return [child for child in children(pool.pid) if b"SdkHarness" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _log(host: Host, logs: Path) -> Path:
    return logs / f"{host.name}-pool.log"


def _listens(process: int) -> bool:
    """Whether something listens at the port in the network of a process."""
    return any(f":{PORT:04X} " in Path(f"/proc/{process}/net/{family}").read_text() for family in ("tcp", "tcp6"))
