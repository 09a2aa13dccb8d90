"""The names of the package's own API: each loads from its home, and type checkers see the same."""

import re
import subprocess
import sys

import apache_beam as beam
import pytest

import beam_curate
from tests.conftest import ROOT

STEPS = ["ReadTarShards", "DecodeImages", "ScoreAndFilter", "WriteWebDatasetShards", "WriteScoreTable", "PackShards",
         "FinishTable", "SelectRows", "FindDuplicates", "RemoveDuplicates", "ListParts", "JudgeTable", "WriteReport"]  # fmt: skip


@pytest.mark.parametrize("name", beam_curate.__all__)
def test_a_name_is_that_of_its_home(name):
    assert getattr(beam_curate, name).__name__ == name
    assert name in dir(beam_curate)


@pytest.mark.parametrize("name", STEPS)
def test_the_steps_are_public(name):
    assert issubclass(getattr(beam_curate, name), beam.PTransform)


def test_type_checkers_see_the_same_names():
    text = (ROOT / "beam_curate" / "__init__.py").read_text()
    seen = {name: home for home, name in re.findall(r"^    from beam_curate\.(\S+) import (\w+) as \2$", text, re.M)}
    assert seen == beam_curate._HOMES


def test_a_name_that_is_none_is_said():
    with pytest.raises(AttributeError, match="module 'beam_curate' has no attribute 'PackTars'"):
        _ = beam_curate.PackTars


def test_steps_without_a_model_load_no_torch():
    code = (
        f"import sys, beam_curate\nfor name in {STEPS!r}: getattr(beam_curate, name)\nprint('open_clip' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == ["False"]
