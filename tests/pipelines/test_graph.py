"""How large the graph of a job is: each step costs start-up time, each stage a bundle at least, whatever the number of rows."""

import logging

import pytest

from beam_curate.commands import dedup, export, select
from benchmarks.graph import graphs
from benchmarks.selecting import make_run, make_source


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A finished run."""
    path = tmp_path_factory.mktemp("graph")
    make_run(path / "scored", make_source(path / "source.tar", 100), 1)
    assert select.main([f"--scores={path}/scored", f"--output={path}/selected", "--keep=aesthetic >= 0"]) == 0
    return path / "selected"


@pytest.mark.parametrize(
    ("command", "words", "most_steps", "most_stages"),
    [
        (select, ("--scores={run}", "--keep=aesthetic >= 0.99"), 109, 28),
        (select, ("--scores={run}", "--top=aesthetic=10"), 178, 51),
        (dedup, ("--scores={run}", "--methods=exact"), 274, 75),
        (export, ("--input={run}", "--format=tfrecord"), 51, 13),
    ],
)
def test_a_job_has_no_more_steps_and_stages_than_it_needs(
    selected, tmp_path, command, words, most_steps, most_stages, caplog
):
    with graphs() as found:
        assert command.main([f"--output={tmp_path}/out", *(word.format(run=selected) for word in words)]) == 0
    (graph,) = found
    assert 40 < graph.steps <= most_steps
    assert 10 < len(graph.stages) <= most_stages
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not warned  # Beam warns of a type hint that it does not understand, at each run
