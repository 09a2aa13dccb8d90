"""Every block of the tutorial and of the page on one's own data, executed in order, and the notebook."""

import importlib
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Client, Listener
from unittest.mock import Mock

import apache_beam as beam
import nbformat
import pandas
import pyarrow.dataset as ds
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT
from tests.pipelines.test_readme import PHOTOS, checkout, models
from tests.support.blocks import run

__all__ = ["checkout", "models"]  # fixtures

BLOCK = re.compile(r"^```(sh|python|yaml)\n(.*?)^```$", re.M | re.S)
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()


@pytest.fixture(scope="module")
def folder(checkout):
    lines = [f"{name},about {name}" for name in PHOTOS]
    (checkout / "table.csv").write_text("\n".join(["file_name,caption", *lines]))
    return checkout


def statuses(folder):
    table = ds.dataset(folder / "scores").to_table(columns=["key", "status"]).to_pylist()
    return sorted((row["key"], row["status"]) for row in table)


def test_the_tutorial(folder, models):
    steps, _, complete = TUTORIAL.partition("## Complete example")
    before, _, after = steps.partition("As the command, all at once:")
    python = [code for kind, code in BLOCK.findall(before) if kind == "python"]
    yaml = [code for kind, code in BLOCK.findall(before) if kind == "yaml"]
    assert len(python) == len(yaml) + 1 == 6  # a block of each for each step; YAML has none for the run
    (folder / "pipeline.yaml").write_text("".join(yaml))
    for kind, code in BLOCK.findall(before):
        if kind != "sh":
            continue
        done = run(kind, code, folder)
        fetching = "fetch-models" in code  # without a network it says what to get
        assert done.returncode == (1 if fetching else 0), f"{code}\n{done.stdout}\n{done.stderr}"
    rest = [*BLOCK.findall(after), *BLOCK.findall(complete)]
    commands = [code for kind, code in rest if kind == "sh"]
    assert len(commands) == 2
    for code in commands:
        done = run("sh", code, folder)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    code = "\n".join([*python, *(code for kind, code in rest if kind == "python")])
    done = run("python", code, folder)
    assert done.returncode == 0, done.stderr
    assert "aesthetic" in done.stdout
    found = [statuses(folder / name) for name in ("curated", "curated-python", "curated-yaml", "curated-complete")]
    assert len(found[0]) == 12
    assert found[0] == found[1] == found[2] == found[3]


def test_the_comparison_with_nemo_curator_builds_the_pipeline(folder, models, monkeypatch):
    """As far as it needs no pixels: every name, argument and file of it is there."""
    page = (ROOT / "docs" / "from-nemo-curator.md").read_text()
    (code,) = [code for kind, code in BLOCK.findall(page) if kind == "python" and "from beam_curate" in code]
    monkeypatch.chdir(folder)
    built = []
    monkeypatch.setattr(beam.Pipeline, "run", lambda self, *_: built.append(self.to_runner_api()) or Mock())
    exec(code, {})
    steps = {step.unique_name.partition("/")[0] for step in built[0].components.transforms.values()}
    assert {"ReadTarShards", "DecodeImages", "ScoreAndFilter", "WriteWebDatasetShards"} <= steps


def test_the_page_on_your_own_data(folder, models):
    blocks = BLOCK.findall((ROOT / "docs" / "your-own-data.md").read_text())
    assert [kind for kind, _ in blocks] == ["sh", "sh"]
    for name in ("packed", "curated"):
        shutil.rmtree(folder / name, ignore_errors=True)  # of the tutorial, where its test ran before
    for kind, code in blocks:
        done = run(kind, code, folder)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert json.loads((folder / "packed-table" / "summary.json").read_text())["pack"]["packed"] == 12


def test_in_a_notebook_beam_needs_an_older_pandas():
    """As the page says; where this fails, Beam has caught up, and the sentence can go."""
    if int(pandas.__version__.partition(".")[0]) >= 3:
        with pytest.raises(AttributeError, match="has no attribute"):
            importlib.import_module("apache_beam.dataframe.frames")


TOLD = """
from multiprocessing.connection import Client
def tell(line):
    with Client({!r}) as tests:
        tests.send(get_ipython().var_expand(line))
        status, written = tests.recv()
    print(written)
    assert status == 0
get_ipython().system = tell
"""
"""Has a kernel tell the lines for the shell to the tests, which have loaded Beam and torch already."""


def run_notebook(notebook, folder):
    """Runs it in a kernel of its own; but the commands, as the blocks of a page, here."""
    client = NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    with Listener() as listener, ThreadPoolExecutor(1) as pool:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(TOLD.format(listener.address)))
        executed = pool.submit(client.execute)
        executed.add_done_callback(lambda _: Client(listener.address).send(None))
        while True:
            with listener.accept() as kernel:
                if (line := kernel.recv()) is None:
                    break
                done = run("sh", line, folder)
                kernel.send((done.returncode, done.stdout + done.stderr))
    executed.result()


def test_the_notebook(tmp_path):
    notebook = nbformat.read(ROOT / "examples" / "tutorial.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    run_notebook(notebook, tmp_path)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 3
    assert (tmp_path / "curated" / "report.html").exists()
    rows = ds.dataset(tmp_path / "scored" / "scores").to_table(columns=["key", "status"]).to_pylist()
    assert (len(rows), [row["key"] for row in rows if row["status"] == "failed"]) == (33, ["broken"])
