"""Python looks for garbage seldom while a command loads, and as usual from when its pipeline runs."""

import gc

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate.commands import endings, launch, starting
from beam_curate.commands.garbage import look_as_usual
from tests.support import quick_garbage

PYTHONS_OWN = (700, 10, 10)


@pytest.fixture
def usual():
    """Python's own thresholds, which the test may change; nothing is frozen, as in a process without tests."""
    before = gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(*PYTHONS_OWN)
    yield PYTHONS_OWN
    look_as_usual()
    gc.freeze()
    gc.set_threshold(*before)


_SEEN = []


def _look(_):
    _SEEN.append(gc.get_threshold())


def _run():
    """The thresholds in a pipeline of this process."""
    _SEEN.clear()
    options = PipelineOptions(["--runner=FnApiRunner"])
    root = launch.build_pipeline(lambda root: root | beam.Create([1]) | beam.Map(_look), options)
    launch.run_and_wait(root, "test", 0)
    return list(_SEEN)


def test_seldom_from_the_start_of_a_command_and_as_usual_in_its_pipeline(monkeypatch, usual):
    loading = []
    monkeypatch.setattr(starting, "listen", lambda: None)
    monkeypatch.setattr(endings, "run_command", lambda main: loading.append(gc.get_threshold()))
    starting.run("curate")
    assert loading[0][0] > 100 * usual[0]
    assert _run() == [usual]
    assert gc.get_freeze_count() > 10_000


def test_a_program_that_calls_a_command_keeps_its_own_ways(usual):
    gc.set_threshold(123, 4, 5)
    assert _run() == [(123, 4, 5)]
    assert gc.get_freeze_count() == 0


def test_the_tests_themselves_do_not_look_among_what_they_loaded():
    """See tests/support/quick_garbage.py: a look among all of it takes a third of a second."""
    assert gc.isenabled()
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[0] == quick_garbage.OBJECTS_BETWEEN_LOOKS
