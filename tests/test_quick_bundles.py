"""What the tests quicken of a stage gives what Beam itself gives: see tests/support/quick_bundles.py."""

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.internal import pickler
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import metrics_pb2
from apache_beam.runners.portability.fn_api_runner.execution import BundleContextManager
from apache_beam.runners.worker import bundle_processor, operations, statesampler
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import core, userstate, window
from apache_beam.typehints import decorators

from tests.support import quick_bundles
from tests.test_quick_beam import WORDS, below


class Counting(beam.DoFn):
    """Numbers the elements of each key, and tells the last number by a timer."""

    COUNT = userstate.ReadModifyWriteStateSpec("count", VarIntCoder())
    LATER = userstate.TimerSpec("later", beam.TimeDomain.WATERMARK)
    COUNTED, LATER_TIMER = core.DoFn.StateParam(COUNT), core.DoFn.TimerParam(LATER)

    def process(self, pair, count=COUNTED, later=LATER_TIMER):
        count.write((count.read() or 0) + 1)
        later.set(window.GlobalWindow().max_timestamp())
        beam.metrics.Metrics.counter("quick", "seen").inc()
        beam.metrics.Metrics.distribution("quick", "sizes").update(len(pair[1]))
        yield count.read()

    @userstate.on_timer(LATER)
    def at_last(self, count=COUNTED):
        yield -count.read()


class Ranges(beam.RestrictionProvider):
    def initial_restriction(self, element):
        return OffsetRange(0, element)

    def create_tracker(self, restriction):
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element, restriction):
        return restriction.size()


RANGES = Ranges()


class Splitting(beam.DoFn):
    def process(self, element, tracker=beam.DoFn.RestrictionParam(RANGES)):  # noqa: B008 - as Beam has it
        place = tracker.current_restriction().start
        while tracker.try_claim(place):
            yield place
            place += 1


def every_kind(root):
    """Steps of each kind that Beam makes stages of."""
    words = root | "words" >> beam.Create(["a", "b", "a", "cc"])
    pairs = words | beam.Map(lambda word: (word, word))
    counted = pairs | beam.ParDo(Counting())
    long = words | "long" >> beam.Filter(lambda word: len(word) > 1)
    parts = words | beam.Partition(lambda word, count: len(word) - 1, 2)
    sizes = words | "sizes" >> beam.Map(len) | beam.CombineGlobally(sum)
    within = words | "sided" >> beam.Map(
        # A set: Beam's in-process runner gives the elements twice, for the step that they come from stands in one stage with
        # one that sets a timer; that stage runs again for the timer, and what it gave to a side input is stored again.
        lambda word, size, table, rest: f"{word}{size}{len(table)}{len(set(rest))}",
        beam.pvalue.AsSingleton(sizes), beam.pvalue.AsDict(pairs), beam.pvalue.AsIter(long),
    )  # fmt: skip
    windowed = (
        words | beam.Map(lambda word: window.TimestampedValue((word, 1), 3)) | beam.WindowInto(window.FixedWindows(2))
    )
    read = root | "numbers" >> beam.Create([3]) | beam.ParDo(Splitting())
    return {
        "counted": (counted, [1, 2, 1, 1, -2, -1, -1]),
        "sided": (within, [f"{word}531" for word in ("a", "b", "a", "cc")]),
        "grouped": (pairs | beam.GroupByKey() | beam.MapTuple(lambda word, all: (word, len(list(all)))),
                    [("a", 2), ("b", 1), ("cc", 1)]),
        "windows": (windowed | beam.CombinePerKey(sum), [("a", 2), ("b", 1), ("cc", 1)]),
        "joined": ((parts[0], parts[1]) | beam.Flatten() | beam.Reshuffle(), ["a", "b", "a", "cc"]),
        "split": (read, [0, 1, 2]),
    }  # fmt: skip


def run_every_kind():
    """The counters and distributions of a run of them, by their names; their elements are looked at in it."""
    root = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    for name, (found, expected) in every_kind(root).items():
        assert_that(found, equal_to(expected), label=name)
    result = root.run()
    result.wait_until_finish()
    asked = result.metrics().query()
    mine = [
        metric for metric in (*asked["counters"], *asked["distributions"]) if metric.key.metric.namespace == "quick"
    ]
    return {(metric.key.step, metric.key.metric.name): metric.committed for metric in mine}


def test_it_is_in_force():
    assert BundleContextManager._build_process_bundle_descriptor is quick_bundles.quick_description
    assert statesampler.StateSampler.start is quick_bundles.quick_start
    assert statesampler.StateSampler.stop is quick_bundles.quick_stop
    assert bundle_processor.pickler.dumps is quick_bundles.HandedOn
    assert bundle_processor.pickler.loads is operations.pickler.loads is quick_bundles.quick_unpickling
    assert bundle_processor.BundleProcessor.monitoring_infos is quick_bundles.quick_infos
    assert decorators.IOTypeHints._make_origin.__func__ is quick_bundles.quick_origin
    assert PipelineOptions.__getattr__ is quick_bundles.quick_option


def test_a_stage_tells_what_beam_tells_but_for_times(monkeypatch):
    told = []

    def both(self):
        # A sampled size may be told by one alone: the counters sample as they are asked.
        quick, slow = (
            {info.SerializeToString(deterministic=True) for info in infos(self) if "sampled" not in info.urn}
            for infos in (quick_bundles.quick_infos, quick_bundles.slow_infos)
        )
        assert quick <= slow
        for info in slow - quick:
            time = metrics_pb2.MonitoringInfo.FromString(info)
            assert time.urn.endswith("_msecs:v1")
            assert time.payload == b"\0"
        told.append(len(slow - quick))
        return quick_bundles.quick_infos(self)

    monkeypatch.setattr(bundle_processor.BundleProcessor, "monitoring_infos", both)
    run_every_kind()
    assert sum(told) > 100


def test_a_stage_is_described_as_beam_does_but_for_what_it_does_not_name(monkeypatch):
    """That it lacks nothing which it needs, the run shows."""
    left_out = set()

    def both(self):
        quick, slow = quick_bundles.quick_description(self), quick_bundles.slow_description(self)
        for field in ("pcollections", "coders", "windowing_strategies"):
            some, all_ = getattr(quick, field), getattr(slow, field)
            assert all(all_[name] == held for name, held in some.items())
            if len(all_) > len(some):
                left_out.add(field)
            all_.clear()
            some.clear()
        assert quick == slow
        return quick_bundles.quick_description(self)

    monkeypatch.setattr(BundleContextManager, "_build_process_bundle_descriptor", both)
    run_every_kind()
    assert left_out == {"pcollections", "coders", "windowing_strategies"}


def test_a_run_counts_what_it_counts_in_beam(monkeypatch):
    quick = run_every_kind()
    assert len(quick) == 2
    monkeypatch.setattr(BundleContextManager, "_build_process_bundle_descriptor", quick_bundles.slow_description)
    monkeypatch.setattr(statesampler.StateSampler, "start", quick_bundles.slow_start)
    monkeypatch.setattr(statesampler.StateSampler, "stop", quick_bundles.slow_stop)
    monkeypatch.setattr(bundle_processor, "pickler", pickler)
    monkeypatch.setattr(operations, "pickler", pickler)
    assert run_every_kind() == quick


class Keeping(beam.DoFn):
    """Gives what it was set up with so far; the list is not to be that of another step, or of the process that made the step."""

    def __init__(self):
        self._held = ["made"]

    def setup(self):
        self._held.append("set up")

    def process(self, element):
        yield (element, *self._held)


@pytest.mark.parametrize("slow", [False, True])
def test_each_step_has_a_function_of_its_own(monkeypatch, slow):
    if slow:
        monkeypatch.setattr(bundle_processor, "pickler", pickler)
        monkeypatch.setattr(operations, "pickler", pickler)
    keeping = Keeping()
    for _ in range(2):
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as root:
            for name in "abc":
                found = root | f"made {name}" >> beam.Create([name]) | f"kept {name}" >> beam.ParDo(keeping)
                assert_that(found, equal_to([(name, "made", "set up")]), label=name)
    assert keeping._held == ["made"]


def test_hints_are_the_same_and_tell_what_they_are_based_on(monkeypatch):
    def made():
        return decorators.IOTypeHints.empty().with_input_types(int).with_output_types(beam.typehints.List[str])

    quick = made(), made().strip_iterable()
    with pytest.raises(decorators.TypeCheckError) as found:
        beam.Pipeline() | beam.Create(["a"]) | beam.Map(len).with_input_types(int)
    monkeypatch.setattr(decorators.IOTypeHints, "_make_origin", quick_bundles.slow_origin)
    slow = made(), made().strip_iterable()
    assert [(hints.input_types, hints.output_types) for hints in quick] == [
        (hints.input_types, hints.output_types) for hints in slow
    ]
    assert slow[0].origin
    assert not quick[0].origin
    with pytest.raises(decorators.TypeCheckError) as expected:
        beam.Pipeline() | beam.Create(["a"]) | beam.Map(len).with_input_types(int)
    assert str(found.value).splitlines()[:3] == str(expected.value).splitlines()[:3]


def asked(ask, view, name):
    """Which object an option is, or why there is none."""
    try:
        return id(ask(view, name))
    except AttributeError as error:
        return str(error)


@pytest.mark.parametrize("words", WORDS, ids=len)
def test_the_options_of_all_groups_are_had_by_their_names(words):
    options = PipelineOptions(list(words))
    names = set(options.get_all_options())
    assert len(names) > 100
    for group in below(PipelineOptions):
        view = options.view_as(group)
        for name in (*names, "_none", "__none__", "none_such"):
            found = [asked(ask, view, name) for ask in (quick_bundles.slow_option, quick_bundles.quick_option)]
            assert found[0] == found[1]
