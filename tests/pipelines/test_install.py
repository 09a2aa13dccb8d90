"""What `pip install` gives: one program, and no package whose name is not ours."""

import os
import subprocess
import sys
import zipfile

import pytest

from beam_curate.commands.cli import COMMANDS
from beam_curate.version import __version__
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the installed package, and the wheel that it came from."""
    folder = tmp_path_factory.mktemp("install")
    uv = [sys.executable, "-m", "uv"]
    build = [*uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", str(folder / "dist"), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run(
        [*uv, "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True
    )
    return folder / "site", wheel


def test_the_wheel_has_the_package_the_licence_and_the_program(site):
    _, wheel = site
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "beam-curate = beam_curate.commands.starting:run" in archive.read(entry).decode()
    assert {name.split("/")[0] for name in names} == {"beam_curate", f"beam_curate-{__version__}.dist-info"}
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert "beam_curate/py.typed" in names


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_installed_program_has_help_for_each_command(site, command, tmp_path):
    folder, _ = site
    words = [sys.executable, str(folder / "bin" / "beam-curate"), *([command] if command else []), "--help"]
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: beam-curate {command or 'COMMAND'} ")


@pytest.mark.parametrize("name", ["curate", "fetch_models"])
def test_the_scripts_of_a_checkout_still_work(name):
    for words in ([f"pipelines/{name}.py"], ["-m", f"pipelines.{name}"]):
        done = subprocess.run([sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.split()[:2]) == (0, ["usage:", f"{name}.py"]), done.stderr
