"""A Dataflow service on this machine: takes jobs by its REST API and runs them from what was staged, and nothing else.

The bucket is an emulator. A job that is to run gets a worker process of its own: it installs the staged package into an
empty folder, loads the staged pipeline, and runs it there. Its environments are containers, which are replaced by that
process; all the rest is as submitted. Keys are made for one run and sign nothing that anyone accepts.
"""

import contextlib
import fcntl
import http.server
import io
import json
import logging
import os
import pathlib
import sys
import tarfile
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Sequence

from tests.support import forked

PROJECT = "stub-project"
REGION = "us-central1"
BUCKET = "stub-bucket"
ROOT = pathlib.Path(__file__).resolve().parents[2]
Case = tuple[str, list[str]]
"""A command line: a command's name, and its words."""


_WORKER = """
import os, pathlib, sys
log = os.open("log", os.O_WRONLY | os.O_APPEND)
os.dup2(log, 1)
os.dup2(log, 2)
sys.path.insert(0, sys.argv[1])
import dataflow_stub
dataflow_stub.work(pathlib.Path.cwd())
"""


class Bucket:
    """Objects in the emulator, by plain HTTP."""

    def __init__(self, address: str) -> None:
        self.address = address

    def _open(self, path, data=None):
        return urllib.request.urlopen(f"{self.address}{path}", data, timeout=30).read()

    def write(self, name: str, data: bytes) -> None:
        quoted = urllib.parse.quote(name, safe="")
        self._open(f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quoted}", data)

    def read(self, name: str) -> bytes:
        return self._open(f"/download/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe='')}?alt=media")

    def names(self, prefix: str = "") -> list[str]:
        found = json.loads(self._open(f"/storage/v1/b/{BUCKET}/o?prefix={urllib.parse.quote(prefix, safe='')}"))
        return sorted(item["name"] for item in found.get("items", []))


class Service:
    """The jobs that were created; each has its body, its state, and the output of its worker."""

    def __init__(self, folder: pathlib.Path, bucket: Bucket) -> None:
        self.folder = folder
        self.bucket = bucket
        self.jobs: list[dict] = []
        self.workers: list[forked.Forked] = []
        self.tokens = 0

    def create(self, body: dict) -> dict:
        job = {"body": body, "id": f"job-{len(self.jobs)}", "worker": None}
        self.jobs.append(job)
        if body.get("labels", {}).get("stub") == "run":
            job["worker"] = self._start(job)
        return self.describe(job)

    def _start(self, job: dict) -> forked.Forked:
        options = job["body"]["environment"]["sdkPipelineOptions"]["options"]
        staged = self.folder / job["id"]
        staged.mkdir()
        for name in ("pipeline.pb", "workflow.tar.gz"):
            folder = options["staging_location"].removeprefix(f"gs://{BUCKET}/")
            (staged / name).write_bytes(self.bucket.read(f"{folder}/{name}"))
        (staged / "log").touch()
        worker = forked.Forked(_WORKER, str(ROOT / "tests" / "support"), cwd=staged, env=os.environ | self.environment)
        self.workers.append(worker)
        return worker

    def describe(self, job: dict) -> dict:
        state = "DONE"
        if job["worker"] is not None:
            code = job["worker"].poll()
            state = "RUNNING" if code is None else "FAILED" if code else "DONE"
        return {"id": job["id"], "name": job["body"].get("name", ""), "projectId": PROJECT, "location": REGION,
                "currentState": f"JOB_STATE_{state}"}  # fmt: skip

    def messages(self, job: dict) -> list[dict]:
        if self.describe(job)["currentState"] != "JOB_STATE_FAILED":
            return []
        text = (self.folder / job["id"] / "log").read_text()[-4000:]
        return [
            {"id": "m", "time": "2020-01-01T00:00:00Z", "messageText": text, "messageImportance": "JOB_MESSAGE_ERROR"}
        ]

    environment: dict[str, str]


class _Handler(http.server.BaseHTTPRequestHandler):
    service: Service

    def _answer(self, value: dict, code: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.split("?", 1)[0]
        if path == "/token":
            self.service.tokens += 1
            self._answer({"access_token": "stub", "expires_in": 3600, "token_type": "Bearer"})
        elif path == f"/v1b3/projects/{PROJECT}/locations/{REGION}/jobs":
            self._answer(self.service.create(json.loads(data)))
        else:
            self._answer({"error": {"code": 404, "message": path}}, 404)

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        jobs = {f"/v1b3/projects/{PROJECT}/locations/{REGION}/jobs/{job['id']}": job for job in self.service.jobs}
        if path in jobs:
            self._answer(self.service.describe(jobs[path]))
        elif path.removesuffix("/messages") in jobs:
            self._answer({"jobMessages": self.service.messages(jobs[path.removesuffix("/messages")])})
        elif path.removesuffix("/metrics") in jobs:
            self._answer({"metrics": []})
        else:
            self._answer({"error": {"code": 404, "message": path}}, 404)

    def log_message(self, *args) -> None:
        pass


def service_account(token_uri: str) -> dict[str, str]:
    """A service account key that is valid nowhere."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "stub",
        "private_key": pem.decode(),
        "client_email": f"stub@{PROJECT}.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_uri,
    }


@contextlib.contextmanager
def dataflow(folder: pathlib.Path):
    """Starts the service and the bucket; yields the service, whose `environment` makes a process use both."""
    from gcp_storage_emulator.server import create_server

    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    port = web.server_address[1]
    emulator = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    emulator.start()
    address = f"http://127.0.0.1:{emulator._api._httpd.server_address[1]}"
    service = Service(folder, Bucket(address))
    _Handler.service = service
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    key = folder / "key.json"
    key.write_text(json.dumps(service_account(f"http://127.0.0.1:{port}/token")))
    service.endpoint = f"http://localhost:{port}"
    service.environment = {
        "GOOGLE_APPLICATION_CREDENTIALS": str(key),
        "STORAGE_EMULATOR_HOST": address,
        "NO_GCE_CHECK": "true",
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        # Google's client also asks the real service about the key, in the background: not from here.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "localhost,127.0.0.1",
    }
    try:
        yield service
    finally:
        for worker in service.workers:
            if worker.poll() is None:
                worker.kill()
            worker.close()
        web.shutdown()
        web.server_close()
        emulator.stop()


@contextlib.contextmanager
def staging():
    """One test at a time stages: Beam runs `setup.py sdist` in the checkout, and two of those write over each other's files."""
    with open(pathlib.Path(tempfile.gettempdir()) / "beam-curate-staging.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_DRIVER = """
import importlib, json, sys, traceback
from tests.support import quick_beam, quick_bundles
quick_beam.quicken()
quick_bundles.quicken()
for command, words in json.load(open(sys.argv[1])):
    try:
        status = importlib.import_module(f"beam_curate.commands.{command}").main(words)
    except Exception:  # whatever it is, the other command lines are run too
        traceback.print_exc()
        status = -1
    print(json.dumps({"status": status}), flush=True)
"""


def run_commands(service: Service, folder: pathlib.Path, cases: Sequence[Case]) -> tuple[list[int], str]:
    """Runs command lines, each a command's name and words, in one process; gives their statuses, -1 for a crash, and the log."""
    (folder / "cases.json").write_text(json.dumps(cases))
    with staging():
        done = forked.run(_DRIVER, str(folder / "cases.json"), env=os.environ | service.environment, check=False)
    statuses = [json.loads(line)["status"] for line in done.stdout.splitlines() if line.startswith('{"status"')]
    return statuses, f"{done.stdout}\n{done.stderr}"


def submit(service: Service, folder: pathlib.Path, command: str, *flags: str, before: Sequence[Case] = ()) -> str:
    """Submits a command as a job of this service and waits until it has run; returns what was printed.

    The commands `before` it run in the same process, first, and not as jobs.
    """
    words = [
        *flags, "--runner=DataflowRunner", f"--project={PROJECT}", f"--region={REGION}", f"--temp_location=gs://{BUCKET}/tmp",
        f"--staging_location=gs://{BUCKET}/staging", f"--dataflow_endpoint={service.endpoint}",
        f"--sdk_container_image=us-docker.pkg.dev/stub-project/images/beam-curate-{command}:1", "--setup_file=./setup.py",
        "--labels=stub=run", f"--job_name={command}",
    ]  # fmt: skip
    cases = [*before, (command, words)]
    statuses, log = run_commands(service, folder, cases)
    workers = "".join(path.read_text() for path in folder.glob("*/log"))
    assert statuses == [0] * len(cases), f"{log}\n{workers}"
    return log


def work(staged: pathlib.Path) -> None:
    """What a worker does: installs the staged package where nothing else is, and runs the staged pipeline."""
    package = staged / "package"
    with tarfile.open(fileobj=io.BytesIO((staged / "workflow.tar.gz").read_bytes())) as archive:
        archive.extractall(package, filter="data")
    (unpacked,) = package.iterdir()
    sys.path.insert(0, str(unpacked))
    import beam_curate

    assert pathlib.Path(beam_curate.__file__).is_relative_to(unpacked), beam_curate.__file__
    import quick_beam  # they stand beside this script
    import quick_bundles
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability import common_urns
    from apache_beam.portability.api import beam_runner_api_pb2
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    proto = beam_runner_api_pb2.Pipeline.FromString((staged / "pipeline.pb").read_bytes())
    for environment in proto.components.environments.values():
        assert environment.urn == common_urns.environments.DOCKER.urn
        environment.urn, environment.payload = "beam:env:embedded_python:v1", b""
        del environment.dependencies[:]
    quick_beam.quicken()
    quick_bundles.quicken()
    FnApiRunner().run_via_runner_api(proto, PipelineOptions([])).wait_until_finish()
