"""Modules that run when somebody asks for something in them; what Beam and scipy give then is what they give as ever."""

import importlib
import inspect
import json
import subprocess
import sys

import apache_beam.io
import pytest

from beam_curate.deferred import defer_when_imported
from tests.conftest import ROOT


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose `__init__` takes all of two modules, and a function of one of them; `ran` tells which have run."""
    name = f"package_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "ran.py").write_text("names = []\n")
    for module in ("late", "early"):
        text = f"from {name}.ran import names\nnames.append('{module}')\n__all__ = ['public_{module}']\n"
        text += f"public_{module} = [1]\ndef double(number, *, more=0):\n    return 2 * number + more\n"
        (folder / f"{module}.py").write_text(text)
    (folder / "__init__.py").write_text(
        f"from {name}.late import *\nfrom {name}.early import *\nfrom {name}.late import double\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield name
    sys.meta_path[:] = finders
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


def ran(package):
    return importlib.import_module(f"{package}.ran").names


def test_a_module_runs_once_when_something_in_it_is_asked_for(package):
    defer_when_imported({f"{package}.late": ["double"]})
    loaded = importlib.import_module(package)
    assert ran(package) == ["early"]
    assert not hasattr(loaded, "public_late")  # `import *` took nothing
    late = importlib.import_module(f"{package}.late")
    assert not hasattr(late, "__path__")
    assert ran(package) == ["early"]
    assert late.public_late == [1]
    assert late.__all__ == ["public_late"]
    assert (late.double(2), late.double.__name__, type(late).__name__) == (4, "double", "module")
    assert ran(package) == ["early", "late"]


def test_a_function_that_was_taken_runs_its_module(package):
    defer_when_imported({f"{package}.late": ["double"]})
    double = importlib.import_module(package).double
    assert ran(package) == ["early"]
    assert [double(3, more=1), double(3)] == [7, 6]
    assert ran(package) == ["early", "late"]


def test_what_is_loaded_already_stays_and_what_is_missing_is_missing(package):
    importlib.import_module(package)
    finders = list(sys.meta_path)
    defer_when_imported({f"{package}.late": []})
    assert sys.meta_path == finders
    defer_when_imported({f"{package}.nothing": []})
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        importlib.import_module(f"{package}.nothing")


OF_COMMANDS = """
import json, sys
from beam_curate.commands.beam_parts import load_beam
load_beam()
import apache_beam.ml.inference.base
from apache_beam.ml.inference import model_manager
before = sorted(sys.modules)
import apache_beam.io
lacking = [name for name in json.loads(sys.argv[1]) if not hasattr(apache_beam.io, name)]
from apache_beam.io.gcp.bigquery import ReadFromBigQuery
same = ReadFromBigQuery is apache_beam.io.ReadFromBigQuery
solved = list(model_manager.nnls([[2.0, 0.0], [0.0, 1.0]], [4.0, 3.0])[0])
print(json.dumps([before, lacking, same, solved, hasattr(apache_beam.io, "nothing"), sorted(sys.modules)]))
"""
NOT_USED = {"google.cloud.bigquery", "google.cloud.pubsub_v1", "pymongo", "scipy.linalg"}


def test_beam_lacks_nothing_where_a_command_loaded_it():
    # Its submodules are among them only where another test has imported them.
    names = [name for name, value in vars(apache_beam.io).items() if name[0] != "_" and not inspect.ismodule(value)]
    assert {"ReadFromBigQuery", "WriteToPubSub", "ReadFromMongoDB", "ReadFromText"} <= set(names)
    done = subprocess.run(
        [sys.executable, "-c", OF_COMMANDS, json.dumps(names)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    before, lacking, same, solved, nothing, after = json.loads(done.stdout)
    assert not NOT_USED & set(before)
    assert lacking == []
    assert same
    assert solved == [2, 3]
    assert not nothing
    assert set(after) >= NOT_USED  # what is left out still is what Beam loads: else this test would hold nothing
