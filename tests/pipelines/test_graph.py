"""How large the graph of a job is: each step costs start-up time, each stage a bundle at least, whatever the number of rows."""

import pytest

from beam_curate.commands import select
from benchmarks.graph import graphs
from benchmarks.selecting import make_run, make_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run with a score table of one part."""
    path = tmp_path_factory.mktemp("graph")
    make_run(path / "scored", make_source(path / "source.tar", 100), 1)
    return path


def size(found):
    (graph,) = found
    return graph.steps, len(graph.stages)


def test_select_has_no_more_steps_and_stages_than_it_needs(folder):
    words = [f"--scores={folder}/scored", f"--output={folder}/selected", "--keep=aesthetic >= 0.99"]
    with graphs() as found:
        assert select.main(words) == 0
    steps, stages = size(found)
    assert 50 < steps <= 132
    assert 10 < stages <= 34
