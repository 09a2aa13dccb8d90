"""Hosts of a small cluster on one machine: Linux namespaces, inside those of `engines/isolated.sh`."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests_engines.processes import running, wait_for

MASTER = "master"
WORKERS = {"worker-1": "10.77.0.2", "worker-2": "10.77.0.3"}
"""Names and addresses of the worker hosts; the same as in `engines/hosts`."""

_MASTER_ADDRESS = "10.77.0.1"

# A new /dev/shm and a new /tmp, in which only the given folders are those of the other hosts.
_PRIVATE_FOLDERS = """
set -e
private=$1; shift
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs "$private"
for folder in "$@"; do
  case "$folder" in /tmp/*)
    mkdir -p "$private/${folder#/tmp/}"
    mount --rbind "$folder" "$private/${folder#/tmp/}"
  esac
done
mount --move "$private" /tmp
ip link set lo up
echo ready
exec sleep infinity
"""


@dataclass(frozen=True)
class Host:
    """A host with its own network, shared memory and /tmp; it sees nothing of the others but the shared folders.

    Attributes:
        name: Its name in the network.
        process: Number of the process that holds its namespaces.
    """

    name: str
    process: int

    def command(self, argv: Sequence[str]) -> list[str]:
        """A command as it has to be started to run on this host, in the folder /tmp of this host."""
        enter = ["nsenter", "--target", str(self.process), "--net", "--mount", "--ipc"]
        return [*enter, "env", "--chdir=/tmp", "HOME=/tmp", "TMPDIR=/tmp", *argv]


@contextmanager
def worker_hosts(shared: Sequence[Path], logs: Path) -> Iterator[list[Host]]:
    """Starts the worker hosts, joined with this one by a bridge.

    Args:
        shared: Absolute folders that all hosts see. What is not in /tmp and not in /dev/shm, they see anyway.
        logs: Folder for logs and mount points.
    """
    _ip("link", "add", "name", "lan", "type", "bridge")
    _ip("address", "add", f"{_MASTER_ADDRESS}/24", "dev", "lan")
    _ip("link", "set", "lan", "up")
    with ExitStack() as stack:
        stack.callback(_ip, "link", "delete", "lan")
        yield [stack.enter_context(_host(name, address, shared, logs)) for name, address in WORKERS.items()]


@contextmanager
def _host(name: str, address: str, shared: Sequence[Path], logs: Path) -> Iterator[Host]:
    log = logs / f"{name}.log"
    private = logs / f"{name}-tmp"
    private.mkdir()
    unshare = ["unshare", "--net", "--mount", "--ipc", "sh", "-c", _PRIVATE_FOLDERS, name, str(private)]
    with running([*unshare, *map(str, shared)], log) as holder:
        wait_for(lambda: "ready" in log.read_text(), 10, f"starting {name}", holder, log)
        host = Host(name, holder.pid)
        _ip("link", "add", name, "type", "veth", "peer", "name", "lan", "netns", str(holder.pid))
        _ip("link", "set", name, "master", "lan", "up")
        inside = ["nsenter", "--target", str(holder.pid), "--net"]
        _ip("address", "add", f"{address}/24", "dev", "lan", prefix=inside)
        _ip("link", "set", "lan", "up", prefix=inside)
        yield host


def _ip(*words: str, prefix: Sequence[str] = ()) -> None:
    subprocess.run([*prefix, "ip", *words], check=True, timeout=10)


def namespaces() -> str:
    """Empty inside `engines/isolated.sh`, else why the hosts cannot be had."""
    state = os.environ.get("BEAM_CURATE_NAMESPACES", "no: run `make test-engines`")
    return "" if state == "yes" else state.removeprefix("no: ")
