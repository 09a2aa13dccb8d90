"""What the tests quicken of Beam gives what Beam itself gives: see tests/support/quick_beam.py."""

import types

import pytest
from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core

import beam_curate
from tests.support import quick_beam


def below(cls):
    return {found for child in cls.__subclasses__() for found in (child, *below(child))}


def test_it_is_in_force():
    assert core.get_function_args_defaults is quick_beam.quick_arguments
    assert PipelineOptions.view_as is quick_beam.quick_view


def test_the_arguments_of_all_functions_of_all_dofns():
    for name in beam_curate.__all__:
        getattr(beam_curate, name)
    functions = {
        function
        for cls in below(core.DoFn)
        for function in vars(cls).values()
        if isinstance(function, types.FunctionType)
    }
    assert len(functions) > 200
    for function in functions:
        bound = types.MethodType(function, object())
        for asked in (function, bound, function, bound):
            names, defaults = quick_beam.quick_arguments(asked)
            expected = quick_beam.slow_arguments(asked)
            assert names == expected[0]
            assert [id(value) for value in defaults] == [id(value) for value in expected[1]]
            names.append("of the caller")


WORDS = [
    [],
    [
        "--runner=FnApiRunner",
        "--project=a",
        "--experiments=b,c",
        "--experiments=d",
        "--labels=x=y",
        "--no_wait_until_finish",
    ],
    [
        "--sdk_container_image=z",
        "--resource_hint=a=1",
        "--save_main_session",
        "--streaming",
        "--type_check_additional=all",
    ],
]


@pytest.mark.parametrize("words", WORDS, ids=len)
def test_the_options_of_all_groups(words):
    groups = sorted(below(PipelineOptions), key=lambda cls: cls.__qualname__)
    slow, quick = PipelineOptions(list(words)), PipelineOptions(list(words))
    for group in groups + groups:
        expected, found = quick_beam.slow_view(slow, group), quick_beam.quick_view(quick, group)
        assert type(found) is type(expected)
        names = expected._visible_option_list()
        assert found._visible_option_list() == names
        assert [repr(getattr(found, name)) for name in names] == [repr(getattr(expected, name)) for name in names]
    assert quick.get_all_options().keys() == slow.get_all_options().keys()


def test_what_is_set_is_seen_by_the_other_views_of_the_same_options_alone():
    words = ["--experiments=a"]
    one, other = PipelineOptions(list(words)), PipelineOptions(list(words))
    debug = one.view_as(pipeline_options.DebugOptions)
    debug.experiments.append("b")
    one.view_as(pipeline_options.StandardOptions).runner = "FnApiRunner"
    assert one.view_as(pipeline_options.DebugOptions).experiments == ["a", "b"]
    assert one.view_as(pipeline_options.StandardOptions).runner == "FnApiRunner"
    assert other.view_as(pipeline_options.DebugOptions).experiments == ["a"]
    assert PipelineOptions(list(words)).view_as(pipeline_options.StandardOptions).runner is None


def test_a_new_command_line_is_read():
    assert PipelineOptions(["--project=a"]).view_as(pipeline_options.GoogleCloudOptions).project == "a"
    assert PipelineOptions(["--project=b"]).view_as(pipeline_options.GoogleCloudOptions).project == "b"
