"""What the tests of the engines share: the data, the local run that is the reference, and the hosts."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests_engines.commands import Commands
from tests_engines.hosts import Host, namespaces, worker_hosts
from tests_engines.job import ROOT, WEIGHTS, curate, make_dataset, make_weights, written

TOOLS = ROOT / ".tools"


def installed(engine: str) -> Path:
    """The file or folder of an engine; skips the test, with the reason, when it could not be installed."""
    missing = TOOLS / f"{engine}.missing"
    if missing.exists():
        pytest.skip(missing.read_text().strip())
    path = TOOLS / engine
    if not path.exists():
        pytest.skip(f"{engine} is not installed: run `make engines`")
    return path


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all hosts of a cluster see, like a network file system."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """The input shards; beside them, the weights of the model."""
    folder = shared / "data"
    folder.mkdir()
    make_dataset(folder)
    make_weights(shared / WEIGHTS)
    return folder


@pytest.fixture(scope="session")
def reference(data: Path, shared: Path) -> dict[str, bytes]:
    """What the local runner writes."""
    curate(data, shared / "local", shared / "local.log")
    files = written(shared / "local")
    assert sum(name.endswith(".tar") for name in files) > 1
    assert "summary.json" in files
    return files


@pytest.fixture(scope="session")
def commands(reference: dict[str, bytes], shared: Path) -> Commands:
    """The other commands; the local runner has run them."""
    assert reference
    found = Commands(shared)
    for files in found.expected.values():
        assert {"summary.json", "duplicates/summary.json"} & files.keys()
    return found


@pytest.fixture(scope="session")
def workers(shared: Path) -> Iterator[list[Host]]:
    """Two hosts, which share a folder and the installed software with this one, and nothing else."""
    refusal = namespaces()
    if refusal:
        pytest.skip(f"a cluster of several hosts needs Linux namespaces: {refusal}")
    logs = shared / "hosts"
    logs.mkdir()
    with worker_hosts([ROOT, Path(sys.prefix), Path(sys.base_prefix), shared], logs) as hosts:
        yield hosts
