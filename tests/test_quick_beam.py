"""What the tests quicken of Beam gives what Beam itself gives: see tests/support/quick_beam.py."""

import functools
import sys
import types
import typing

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.internal import cloudpickle_pickler, pickler
from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker import bundle_processor, statecache
from apache_beam.transforms import core, ptransform, userstate, util
from apache_beam.typehints import decorators, trivial_inference, typehints

import beam_curate
from beam_curate.records import Shard
from tests.support import quick_beam


def below(cls):
    return {found for child in cls.__subclasses__() for found in (child, *below(child))}


def test_it_is_in_force():
    assert {each.get_signature for each in (decorators, core, ptransform, util)} == {quick_beam.quick_signature}
    assert core.get_function_args_defaults is quick_beam.quick_arguments
    assert core.get_function_arguments is quick_beam.quick_arguments_of
    assert userstate.get_dofn_specs is quick_beam.quick_specs
    assert decorators.IOTypeHints.from_callable.__func__ is quick_beam.quick_annotations
    inferred = trivial_inference.infer_return_type  # which Beam YAML, once used, puts a function around
    within = [cell.cell_contents for cell in inferred.__closure__ or ()]
    assert quick_beam.quick_inference in (inferred, *within)
    assert core._check_fn_use_yield_and_return is quick_beam.quick_yields
    assert PipelineOptions.view_as is quick_beam.quick_view
    assert statecache.get_deep_size is quick_beam.quick_size
    assert cloudpickle_pickler.bz2.compress is quick_beam.quick_compress
    assert cloudpickle_pickler.bz2.decompress is quick_beam.quick_decompress
    assert ptransform.pickler.roundtrip is quick_beam.quick_roundtrip
    assert bundle_processor.concurrent.futures.ThreadPoolExecutor is quick_beam.HereExecutor


@pytest.fixture(scope="module")
def functions():
    """All functions of all DoFns."""
    for name in beam_curate.__all__:
        getattr(beam_curate, name)
    found = {
        function
        for cls in below(core.DoFn)
        for function in vars(cls).values()
        if isinstance(function, types.FunctionType)
    }
    assert len(found) > 200
    return found


def test_the_arguments_of_all_functions_of_all_dofns(functions):
    for function in functions:
        bound = types.MethodType(function, object())
        for asked in (function, bound, function, bound):
            names, defaults = quick_beam.quick_arguments(asked)
            expected = quick_beam.slow_arguments(asked)
            assert names == expected[0]
            assert [id(value) for value in defaults] == [id(value) for value in expected[1]]
            names.append("of the caller")


def many():
    """Functions of the same code, which differ in what was put into them."""
    made = [each(value) for each in (giving, with_default, with_word, called) for value in (1, "a", len)]
    for given in (int, str):
        made.append(giving(1))
        made[-1].__annotations__ = {"element": given, "return": given}

        @functools.wraps(giving(given))
        def wrapping(first, second):
            return first

        made.append(wrapping)
    return made


def test_the_signatures_of_functions_and_of_others(functions):
    for asked in (*many(), *functions, *map(Plain().process.__func__.__get__, (1, 2)), len, str.upper, Plain, dict):
        for _ in range(2):
            assert quick_beam.quick_signature(asked) == quick_beam.slow_signature(asked)
            if isinstance(asked, types.FunctionType):
                assert quick_beam.quick_arguments(asked) == tuple(map(list, quick_beam.slow_arguments(asked)))
                assert decorators.IOTypeHints.from_callable(asked) == quick_beam.slow_annotations(asked)


METHODS = ("process", "start_bundle", "finish_bundle", "setup", "teardown", "process_batch")


def test_the_arguments_of_the_methods_of_objects():
    here = Plain()
    here.process = lambda element, here=1: [element]
    wrapped = [core.CallableWrapperDoFn(fn) for fn in (len, lambda element: [element], lambda element, more=2: [more])]
    wrapped += [core._TimeoutDoFn(Plain()), core._TimeoutDoFn(wrapped[-1])]  # their methods are those of what they hold
    plain = [cls for cls in below(core.DoFn) if cls.__getattribute__ is object.__getattribute__]
    plain = [cls.__new__(cls) for cls in plain if cls is not core.CallableWrapperDoFn]
    assert len(plain) > 50
    for asked in (*plain, here, Plain(), *wrapped):
        for method in (*METHODS, *METHODS):
            names, defaults = quick_beam.quick_arguments_of(asked, method)
            expected = quick_beam.slow_arguments_of(asked, method)
            assert names == expected[0]
            assert [id(value) for value in defaults] == [id(value) for value in expected[1]]
            names.append("of the caller")


class Stateful(core.DoFn):
    COUNT = userstate.ReadModifyWriteStateSpec("count", VarIntCoder())
    LATER = userstate.TimerSpec("later", beam.TimeDomain.WATERMARK)
    COUNTED, LATER_TIMER = core.DoFn.StateParam(COUNT), core.DoFn.TimerParam(LATER)

    def process(self, element, count=COUNTED, later=LATER_TIMER):
        yield element

    @userstate.on_timer(LATER)
    def at_last(self, count=COUNTED):
        yield 1


class Plain(core.DoFn):
    def process(self, element):
        yield element


def test_the_states_and_timers_of_dofns():
    hidden, borrowed = Stateful(), Plain()
    hidden.process = lambda element: [element]  # so the state that is left is the timer's
    borrowed.process = Stateful().process
    wrapped = [core.CallableWrapperDoFn(fn) for fn in (len, lambda element: [element], Stateful().process)]
    dofns = [Stateful(), Plain(), hidden, borrowed, *wrapped]
    for dofn in dofns + dofns:
        found = quick_beam.quick_specs(dofn)
        assert found == quick_beam.slow_specs(dofn)
        found[0].add("of the caller")
    assert [len(each) for each in quick_beam.quick_specs(Stateful())] == [1, 1]
    assert [len(each) for each in quick_beam.quick_specs(borrowed)] == [1, 1]
    assert [len(each) for each in quick_beam.quick_specs(hidden)] == [1, 0]


def test_the_annotations_of_all_functions_of_all_dofns(functions):
    for function in functions:
        for asked in (function, types.MethodType(function, object())):
            for _ in range(2):
                assert decorators.IOTypeHints.from_callable(asked) == quick_beam.slow_annotations(asked)


def test_a_function_without_annotations_for_beam_has_none():
    @decorators.no_annotations
    def plain(element: int) -> int:
        return element

    assert decorators.IOTypeHints.from_callable(plain) is None
    del plain._beam_no_annotations
    assert decorators.IOTypeHints.from_callable(plain) == quick_beam.slow_annotations(plain)


def giving(value):
    return lambda element: value


def with_default(value):
    return lambda element, more=value: more


def called(fn):
    return lambda element: (fn(element),)


def with_word(value):
    def with_word(element, *, more=value):
        return more

    return with_word


def at(place):
    return lambda pair: pair[place]


def held(record):
    return lambda element: (record.index, [record])


class Last(beam.CombineFn):
    def __init__(self, value):
        self.value = value

    def create_accumulator(self):
        return self.value

    def add_input(self, accumulator, element):
        return element

    def extract_output(self, accumulator):
        return accumulator


COMBINED = [Last(1), Last("a"), Last([1]), core.CallableWrapperCombineFn(sum), core.CallableWrapperCombineFn(any)]


def later():
    def found(element):
        return value  # its cell is empty

    if sys is None:
        value = 1
    return found


def itself():
    def again(element, depth=0):
        return 1 if depth else again(element, 1)

    return again


def test_the_types_that_functions_give(functions):
    lambdas = [lambda pair: pair[0], lambda pair: (pair, 1), lambda pair: [pair], len, later(), itself()]
    holding = [Shard(0, "a", 1), beam_curate.DecodeOptions(size=32), {"a": 1}, {"a": "b"}, types.MappingProxyType({})]
    for value in (1, "a", "b", 1.0, True, None, str, len, [1], ["a"], (1, "a"), ("a", 1), typing.Any, int, *holding):
        lambdas += [giving(value), with_default(value), with_word(value), called(giving(value)), called(value)]
        lambdas.append(called(called(giving(value))))
    lambdas += [at(place) for place in (0, 1)]
    lambdas += [called(each) for each in (["a"].count, "a".count, Last(1).extract_output)]
    lambdas += [held(each) for each in (Shard(0, "a", 1), types.SimpleNamespace(index="a"))]
    lambdas += [core.CombineValuesDoFn(None, fn, False).process for fn in COMBINED]
    for asked in (*lambdas, *functions):
        for kind in (int, typing.Any, typehints.Tuple[int, str], typehints.List[float]):
            for _ in range(2):
                assert quick_beam.quick_inference(asked, [kind]) == quick_beam.slow_inference(asked, [kind])
    for value, kind in ((1, int), ("a", str), (2, int), ("b", str)):
        for made in (giving(value), called(giving(value))):
            assert quick_beam.quick_inference(made, [int]) in (kind, typehints.Tuple[kind])
    assert quick_beam.quick_inference(lambdas[0], [typehints.Tuple[int, str]]) is int
    assert quick_beam.quick_inference(lambdas[0], [typehints.Tuple[str, int]]) is str


def test_whether_functions_yield_and_return(functions):
    def both(element):
        if element:
            return [element]
        yield element

    for asked in (both, Plain().process, len, *functions):
        for _ in range(2):
            assert quick_beam.quick_yields(asked) == quick_beam.slow_yields(asked)
    assert quick_beam.quick_yields(both)


def test_a_worker_keeps_what_it_is_told_to_keep(monkeypatch):
    def kept():
        cache = statecache.StateCache(100 << 20)
        for number in range(100):
            cache.put((b"key", number), [b"a" * 1000] * number)
        return [cache.peek((b"key", number)) for number in range(100)], cache.size()

    assert 0 < quick_beam.quick_size([1] * 1000) < quick_beam.slow_size([1] * 1000)
    quick = kept()
    monkeypatch.setattr(statecache, "get_deep_size", quick_beam.slow_size)
    assert kept() == quick


def test_what_is_packed():
    for data in (b"", b"a", b"a" * 1000, b"b" * 1000):
        for _ in range(2):
            assert quick_beam.quick_compress(data, compresslevel=9) == quick_beam.bz2.compress(data, 9)
            assert quick_beam.quick_decompress(quick_beam.quick_compress(data, compresslevel=9)) == data


def test_a_step_has_its_function_and_copies_of_its_arguments(monkeypatch):
    def made():
        dofn, held = Plain(), ["a"]
        step = beam.ParDo(dofn, held, more=held)
        assert step.fn is dofn
        assert step.args[0] is not held
        assert step.kwargs["more"] is not held
        assert [*beam.ParDo(dofn).args, *beam.ParDo(dofn).kwargs] == []
        return step.args, step.kwargs

    quick = made()
    monkeypatch.setattr(ptransform, "pickler", pickler)
    assert made() == quick


def test_what_cannot_be_pickled_is_found_with_its_pipeline():
    root = beam.Pipeline(runner="FnApiRunner")
    with pytest.raises((TypeError, RuntimeError), match="pickle"):
        root | beam.Create([1]) | beam.Map(print, sys._getframe())
    held = sys._getframe()
    root | "one" >> beam.Create([1]) | "held" >> beam.Map(lambda element: (element, held))
    with pytest.raises(RuntimeError) as raised:
        root.run()
    assert "pickle" in str(raised.value.__cause__)


def test_what_is_done_here_fails_as_in_a_thread():
    with quick_beam.HereExecutor(max_workers=1, thread_name_prefix="a") as executor:
        assert executor.submit(divmod, 7, 2).result(timeout=1) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 7, 0).result(timeout=1)


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
