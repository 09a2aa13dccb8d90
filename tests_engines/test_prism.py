"""The commands on Prism, Beam's portable runner for one machine."""

from pathlib import Path

import pytest

from tests_engines.commands import NAMES, Commands
from tests_engines.conftest import installed
from tests_engines.job import assert_same, curate


@pytest.fixture(scope="module")
def prism() -> Path:
    """Prism's binary."""
    return installed("prism")


def test_same_bytes_as_the_local_runner(prism: Path, data: Path, shared: Path, reference: dict[str, bytes]) -> None:
    """The worker is the command's own process (LOOPBACK, Prism's default); Prism holds the data between the steps."""
    curate(data, shared / "prism", shared / "prism.log", "--runner=PrismRunner", f"--prism_location={prism}")
    assert "PrismRunner" in (shared / "prism" / "summary.json").read_text()
    assert_same(shared / "prism", reference)


@pytest.mark.parametrize("name", NAMES)
def test_the_other_commands_write_the_same_bytes(prism: Path, commands: Commands, name: str) -> None:
    """Duplicates, rules on the whole table, and exports."""
    commands.assert_same(name, "prism", "--runner=PrismRunner", f"--prism_location={prism}")
