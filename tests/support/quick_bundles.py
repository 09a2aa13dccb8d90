"""What Beam does anew for each stage that it runs, done for what the stage needs alone.

Beam describes each stage with all collections and all coders of the pipeline, so that a pipeline of twice as many steps costs
four times as much. Here a stage is described by what it names:

- its description (`_build_process_bundle_descriptor`): the collections that its steps read and write, and the coders of these;
- a stage is not watched by a thread of its own, which counts the milliseconds of its steps (`StateSampler`): these are 0,
  and are not told (`BundleProcessor.monitoring_infos`), which is four of the five or six numbers that each step tells;
- where in the source a type hint was given (`IOTypeHints._make_origin`), which errors tell, is not looked up;
- whether a group of options has an option (`PipelineOptions.__getattr__`) is asked of the group, without sorting its names;
- a function that a step has unpickled, and pickles again with its windowing, goes to the step's operation as it is
  (`pickler.dumps` of bundle_processor), which would unpickle it twice or three times.

Whatever reaches the stages' functions is as before: tests/test_quick_bundles.py compares.
"""

import threading
import types

from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.execution import BundleContextManager
from apache_beam.runners.worker import bundle_processor, operations, statesampler
from apache_beam.runners.worker.bundle_processor import BeamTransformFactory
from apache_beam.typehints import decorators
from apache_beam.utils import proto_utils

slow_description = BundleContextManager._build_process_bundle_descriptor
slow_origin = decorators.IOTypeHints._make_origin
slow_start, slow_stop = statesampler.StateSampler.start, statesampler.StateSampler.stop
slow_option = PipelineOptions.__getattr__
slow_infos = bundle_processor.BundleProcessor.monitoring_infos


def _named_coders(message):
    """The ids of coders that a message of the runner API names, wherever they are within it."""
    for field, value in message.ListFields():
        if field.name.endswith("coder_id"):
            yield value
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for held in value.values():
                    yield from _named_coders(held)
        elif field.message_type is not None:
            for held in value if field.is_repeated else (value,):
                yield from _named_coders(held)


def _coders_of_step(step):
    """The ids of coders that the parameters of a step name."""
    _, kind = BeamTransformFactory._known_urns.get(step.spec.urn, (None, None))
    return _named_coders(proto_utils.parse_Bytes(step.spec.payload, kind)) if isinstance(kind, type) else ()


def quick_description(self):
    """The description of a stage: of the collections, coders and windows, those that its steps name."""
    whole = self.execution_context.pipeline_components
    steps = {step.unique_name: step for step in self.stage.transforms}
    names = {name for step in steps.values() for name in (*step.inputs.values(), *step.outputs.values())}
    collections = {name: whole.pcollections[name] for name in names}
    windows = {
        name: whole.windowing_strategies[name]
        for name in {collection.windowing_strategy_id for collection in collections.values()}
    }
    wanted = [coder for step in steps.values() for coder in _coders_of_step(step)]
    wanted += [collection.coder_id for collection in collections.values()]
    wanted += [window.window_coder_id for window in windows.values()]
    coders = {}
    while wanted:
        name = wanted.pop()
        if name not in coders:
            coders[name] = whole.coders[name]
            wanted += coders[name].component_coder_ids
    return beam_fn_api_pb2.ProcessBundleDescriptor(
        id=self.bundle_uid,
        transforms=steps,
        pcollections=collections,
        coders=coders,
        windowing_strategies=windows,
        environments=dict(whole.environments.items()),
        state_api_service_descriptor=self.state_api_service_descriptor(),
        timer_api_service_descriptor=self.data_api_service_descriptor(),
    )


def quick_start(self):
    """A stage begins, whose time is not counted."""
    self.tracked_thread = threading.current_thread()
    statesampler.set_current_tracker(self)
    self.started = True


def quick_stop(self):
    """It has ended."""
    statesampler.set_current_tracker(None)
    self.finished = True


def quick_infos(self):
    """What the steps of a stage tell, without times; a step that tells more than others, all that it tells."""
    told = {}
    for name, step in self.ops.items():
        outputs = dict(self.process_bundle_descriptor.transforms[name].outputs)
        if type(step).monitoring_infos is operations.Operation.monitoring_infos:
            told.update(step.pcollection_count_monitoring_infos(outputs))
            told.update(step.user_monitoring_infos(name))
        else:
            told.update(step.monitoring_infos(name, outputs))
    return list(told.values())


def quick_origin(cls, bases, tb=True, msg=()):
    """Where hints come from, without the lines of the source."""
    return slow_origin.__func__(cls, bases, False, msg)


def quick_option(self, name):
    """The value of an option of the group."""
    if name[:2] != "__" and name[:1] != "_" and name in vars(self._visible_options):
        return self._all_options[name]
    return slow_option(self, name)


class HandedOn:
    """What is put in place of the bytes that a step pickles for the operation that it makes: what is pickled."""

    def __init__(self, value, **options):
        self.value = value


def quick_unpickling(encoded, **options):
    """What was pickled. What was handed on is one operation's, so it is the same one whenever that asks."""
    return encoded.value if isinstance(encoded, HandedOn) else pickler.loads(encoded, **options)


def quicken():
    """Has this process's pipelines use them."""
    bundle_processor.pickler = types.SimpleNamespace(loads=quick_unpickling, dumps=HandedOn)
    operations.pickler = types.SimpleNamespace(loads=quick_unpickling)
    BundleContextManager._build_process_bundle_descriptor = quick_description
    statesampler.StateSampler.start = quick_start
    statesampler.StateSampler.stop = quick_stop
    bundle_processor.BundleProcessor.monitoring_infos = quick_infos
    decorators.IOTypeHints._make_origin = classmethod(quick_origin)
    PipelineOptions.__getattr__ = quick_option
