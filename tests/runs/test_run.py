"""Run is the one door to a run's folder: no other room knows the names of the files there."""

import ast

from beam_curate.runs import run_files
from tests.conftest import ROOT

NAMES = {
    run_files.RUN,
    run_files.SUMMARY,
    run_files.INDEX,
    run_files.SIZES,
    run_files.REPORT,
    run_files.CROISSANT,
    run_files.FAILURES,
    run_files.INPUT_SHARDS,
    run_files.CARD,
}
MODULES = sorted(
    path
    for room in ("beam_curate", "pipelines")
    for path in (ROOT / room).rglob("*.py")
    if path.parent != ROOT / "beam_curate" / "runs"
)


def test_no_other_module_knows_a_file_of_the_folder():
    assert len(MODULES) > 150
    for path in MODULES:
        found = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not NAMES & {each for each in found if isinstance(each, str)}, path


def test_nobody_walks_through_the_configurations_of_sources():
    """`Configuration.scored` and `rules_in_force.steps` do; a dictionary of that shape is read nowhere else."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                assert node.slice.value != "source", path
