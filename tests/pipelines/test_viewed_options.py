"""Options whose views are made once are those of Beam."""

import copy
import pickle

import pytest
from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, PipelineOptions, TypeOptions

from beam_curate.commands.viewed_options import ViewedOptions
from tests.support import quick_beam
from tests.test_quick_beam import WORDS, below


@pytest.fixture(autouse=True)
def beams_own_views(monkeypatch):
    monkeypatch.setattr(PipelineOptions, "view_as", quick_beam.slow_view)


@pytest.mark.parametrize("words", WORDS, ids=len)
def test_all_groups_have_the_values_that_beam_gives_them(words):
    slow, viewed = PipelineOptions(list(words)), ViewedOptions(list(words))
    for group in sorted(below(PipelineOptions) - {ViewedOptions}, key=lambda cls: cls.__qualname__):
        expected, found = slow.view_as(group), viewed.view_as(group)
        assert type(found) is type(expected)
        names = expected._visible_option_list()
        assert found._visible_option_list() == names
        assert [repr(getattr(found, name)) for name in names] == [repr(getattr(expected, name)) for name in names]
    assert viewed.get_all_options().keys() == slow.get_all_options().keys()


def test_a_group_is_parsed_once_and_copies_have_values_of_their_own(monkeypatch):
    parsed = []
    real = pipeline_options._BeamArgumentParser.parse_known_args
    monkeypatch.setattr(
        pipeline_options._BeamArgumentParser,
        "parse_known_args",
        lambda self, *rest: parsed.append(1) or real(self, *rest),
    )
    options = ViewedOptions(["--experiments=a", "--project=b"])
    debug = options.view_as(DebugOptions)
    before = len(parsed)
    debug.experiments.append("c")
    options.view_as(TypeOptions).disable_beartype = True
    for _ in range(5):
        assert options.view_as(DebugOptions).experiments == ["a", "c"]
        assert options.view_as(TypeOptions).disable_beartype
    assert len(parsed) == before + 1
    for other in (copy.deepcopy(options), pickle.loads(pickle.dumps(options))):
        assert other.view_as(DebugOptions).experiments == ["a", "c"]
        other.view_as(DebugOptions).experiments.append("d")
        other.view_as(GoogleCloudOptions).project = "e"
    assert options.view_as(DebugOptions).experiments == ["a", "c"]
    assert options.view_as(GoogleCloudOptions).project == "b"
