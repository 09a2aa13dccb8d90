"""A Flink cluster: a JobManager and Beam's job server here, a TaskManager with its worker pool on each worker host."""

import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests_engines.hosts import MASTER, WORKERS, Host
from tests_engines.pools import PORT, wait_for_pools, worker_pools
from tests_engines.processes import accepts, running, stop, wait_for

JOB_PORT = 8097
_REST_PORT = 8081
_START_SECONDS = 120

# Flink's and Beam's classes have one class path and one class loader here, as with Beam's jars in Flink's lib/: else Beam starts
# new workers for every step of a job. A worker that is lost stays in Beam's cache of workers for _ENVIRONMENT_CACHE_MILLIS;
# Flink starts again what was lost only when it has left.
_ENVIRONMENT_CACHE_MILLIS = 4000
_CONFIGURATION = f"""
classloader: {{resolve-order: parent-first}}
restart-strategy: {{type: fixed-delay, fixed-delay: {{attempts: 3, delay: 8 s}}}}
jobmanager: {{bind-host: 0.0.0.0, rpc: {{address: {MASTER}, port: 6123}}, memory: {{process: {{size: 800m}}}}}}
rest: {{address: {MASTER}, bind-address: {MASTER}, port: {_REST_PORT}}}
heartbeat: {{interval: 2000, timeout: 15000}}
slot: {{request: {{timeout: 60000}}}}
taskmanager:
  numberOfTaskSlots: 1
  cpu: {{cores: 1}}
  memory:
    framework: {{heap: {{size: 128m}}, off-heap: {{size: 128m}}}}
    task: {{heap: {{size: 384m}}, off-heap: {{size: 64m}}}}
    network: {{min: 512m, max: 512m}}
    managed: {{size: 64m}}
    jvm-metaspace: {{size: 256m}}
    jvm-overhead: {{min: 128m, max: 128m}}
"""

# Java 17 hides what Flink's serialisation and networking look into. Source: `env.java.opts.all` of Flink's own conf.
_PACKAGES = "lang net io nio lang.reflect text time util util.concurrent util.concurrent.atomic util.concurrent.locks"
_JAVA = [
    "java",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _PACKAGES.split()),
]


class Flink:
    """A cluster; its processes may be killed and started again while it runs.

    Attributes:
        pools: The worker pools, one for each host.
        flags: What a command needs to run here, on both hosts.
    """

    flags = (
        *("--runner=PortableRunner", f"--job_endpoint=localhost:{JOB_PORT}", "--parallelism=2"),
        *("--environment_type=EXTERNAL", f"--environment_config=localhost:{PORT}"),
        f"--environment_cache_millis={_ENVIRONMENT_CACHE_MILLIS}",
    )

    def __init__(self, jars: Path, folder: Path, hosts: Sequence[Host], stack: ExitStack) -> None:
        self._class_path = f"{jars}/*"
        self._folder = folder
        self._hosts = hosts
        self._stack = stack
        (folder / "config.yaml").write_text(_CONFIGURATION)
        self.pools = stack.enter_context(worker_pools(hosts, folder))
        self._job_manager = self._start_job_manager()
        self._task_managers = [self._start_task_manager(host) for host in hosts]
        self._start_job_server()
        wait_for_pools(self.pools, hosts, folder)
        self._wait_for_slots()

    def replace_task_manager(self, number: int) -> None:
        """Kills the TaskManager of a host and starts another."""
        stop(self._task_managers[number], signal.SIGKILL)
        self._task_managers[number] = self._start_task_manager(self._hosts[number])

    def replace_job_manager(self) -> None:
        """Kills the JobManager, which forgets all jobs, and starts another; the TaskManagers find it."""
        stop(self._job_manager, signal.SIGKILL)
        self._job_manager = self._start_job_manager()
        self._wait_for_slots()

    def _start_job_manager(self) -> "subprocess.Popen[bytes]":
        main = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        return self._java("job-manager", ["-Xmx384m"], [main, f"--configDir={self._folder}"])

    def _start_task_manager(self, host: Host) -> "subprocess.Popen[bytes]":
        main = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        here = [f"-Dtaskmanager.{key}={WORKERS[host.name]}" for key in ("host", "bind-host")]
        memory = ["-Xmx512m", "-XX:MaxDirectMemorySize=768m"]
        return self._java(f"{host.name}-task-manager", memory, [main, f"--configDir={self._folder}", *here], host)

    def _start_job_server(self) -> None:
        main = "org.apache.beam.runners.flink.FlinkJobServerDriver"
        ports = [f"--job-port={JOB_PORT}", "--artifact-port=0", "--expansion-port=0"]
        master = [f"--flink-master=http://{MASTER}:{_REST_PORT}", f"--flink-conf-dir={self._folder}"]
        folder = f"--artifacts-dir={self._folder}/artifacts"
        server = self._java("job-server", ["-Xmx384m"], [main, *master, *ports, "--job-host=localhost", folder])
        log = self._folder / "job-server.log"
        wait_for(lambda: accepts("localhost", JOB_PORT), _START_SECONDS, "Beam's job server", server, log)

    def _java(
        self, name: str, options: list[str], arguments: list[str], host: Host | None = None
    ) -> "subprocess.Popen[bytes]":
        argv = [*_JAVA, *options, "-cp", self._class_path, *arguments]
        log = self._folder / f"{name}.log"
        return self._stack.enter_context(running(host.command(argv) if host else argv, log, cwd=self._folder))

    def _wait_for_slots(self) -> None:
        log = self._folder / "job-manager.log"
        wait_for(_has_all_slots, _START_SECONDS, "the TaskManagers", self._job_manager, log)


def _has_all_slots() -> bool:
    try:
        with urllib.request.urlopen(f"http://{MASTER}:{_REST_PORT}/overview", timeout=5) as answer:
            return bool(json.load(answer)["slots-available"] == len(WORKERS))
    except OSError:  # it does not listen yet
        return False


@contextmanager
def flink_cluster(jars: Path, folder: Path, hosts: Sequence[Host]) -> Iterator[Flink]:
    """Starts a cluster and waits until it is ready; stops it at the end.

    Args:
        jars: Folder of the class path.
        folder: For the configuration and the logs; all hosts see it.
        hosts: The worker hosts.
    """
    with ExitStack() as stack:
        yield Flink(jars, folder, hosts, stack)
