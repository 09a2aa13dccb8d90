"""Modules that run when somebody asks for something in them; what Beam and scipy give then is what they give as ever."""

import importlib
import inspect
import json
import os
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor, wait

import apache_beam.io
import pytest

from beam_curate.deferred import defer, defer_when_imported
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


def test_who_asks_while_a_module_runs_waits_for_its_end(package):
    defer_when_imported({f"{package}.late": ["double"]})
    loaded = importlib.import_module(package)
    running, go_on = threading.Event(), threading.Event()
    importlib.import_module(f"{package}.ran").names = Slow(running, go_on)
    late = importlib.import_module(f"{package}.late")
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(lambda: late.public_late)
        assert running.wait(60)
        others = [threads.submit(lambda: late.public_late), threads.submit(loaded.double, 4)]
        assert not wait(others, timeout=0.2).done
        go_on.set()
        assert [first.result(60), *(each.result(60) for each in others)] == [[1], [1], 8]
    assert len(importlib.import_module(f"{package}.ran").names.added) == 1


class Slow:
    """What a module adds to while it runs."""

    def __init__(self, running, go_on):
        self.running, self.go_on, self.added = running, go_on, []

    def append(self, name):
        self.added.append(name)
        self.running.set()
        assert self.go_on.wait(60)


def test_a_module_that_failed_runs_again_when_it_is_asked_again(package):
    defer_when_imported({f"{package}.late": ["double"]})
    late = importlib.import_module(f"{package}.late")
    names, importlib.import_module(f"{package}.ran").names = ran(package), None
    with pytest.raises(AttributeError, match="append"):
        assert late.public_late
    importlib.import_module(f"{package}.ran").names = names
    assert late.public_late == [1]


def test_a_part_that_is_imported_and_not_named_yet_does_not_run_its_package(package):
    """As another thread sees it between the two: the package would load all that it is deferred for."""
    defer(package)
    late = sys.modules[f"{package}.late"] = types.ModuleType(f"{package}.late")
    assert sys.modules[package].late is late
    assert type(sys.modules[package]).__name__ == "_Deferred"


# Two threads, each in the middle of a module that the other one needs: `part` is imported in one, and asks the package, which is
# run in the other, and imports `part`.
CROSSED = {
    "__init__": "from beam_curate_crossed import part\nvalue = 1\n",
    "part": "import meeting\nmeeting.meet()\nimport beam_curate_crossed\nfound = beam_curate_crossed.value\n",
}
# A second is enough for the other thread to come to where it waits; if it does not, nobody waits and the test passes.
MEETING = """
import threading, time
begun = threading.Event()
def meet():
    begun.set()
    time.sleep(1)
"""


def test_two_threads_never_wait_for_each_other_for_ever(tmp_path):
    folder = tmp_path / "beam_curate_crossed"
    folder.mkdir()
    for name, text in CROSSED.items():
        (folder / f"{name}.py").write_text(text)
    (tmp_path / "meeting.py").write_text(MEETING)
    run = (
        "import sys, threading\nfrom beam_curate.deferred import defer\ndefer('beam_curate_crossed')\n"
        "import beam_curate_crossed, meeting\nends = []\n"
        "def importing():\n    import beam_curate_crossed.part as part; ends.append(part)\n"
        "def asking():\n    meeting.begun.wait(); ends.append(beam_curate_crossed.value)\n"
        "threads = [threading.Thread(target=each, daemon=True) for each in (importing, asking)]\n"
        "for each in threads: each.start()\n"
        "for each in threads: each.join(30)\n"
        "print(sum(each.is_alive() for each in threads), beam_curate_crossed.value)\n"
    )
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", run], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0 1\n", done.stderr


AT_ONCE = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from beam_curate.export.tfrecords import example, record
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)
def work(_):
    barrier.wait()
    return example({"image": b"x"}), record(b"abc")
with ThreadPoolExecutor(8) as threads:
    print(len(set(threads.map(work, range(8)))), "torch" in sys.modules)
"""


def test_threads_that_use_a_deferred_package_at_once_get_the_same_and_run_nothing(tmp_path):
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", AT_ONCE], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
        )
        assert done.stdout == "1 False\n"


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
