"""What Beam asks itself anew for each step of a pipeline, answered once in a process.

More than half the time of a small pipeline goes into these questions (a selection from twelve rows has 220 steps, whose DoFns
are looked at 900 times, and whose options are read 1100 times):

- which signature a function has (`get_signature`): kept by its code, if it has neither annotations nor defaults;
- which arguments a method of a DoFn has (`get_function_arguments`): kept by its class and by the function that it is;
- which states and timers a DoFn has (`get_dofn_specs`): kept by its class;
- which types a function's annotations name (`IOTypeHints.from_callable`): kept by the function;
- what type a function gives, where it names none (`infer_return_type`): kept by its code, and by what was put into its closure
  and its defaults where these are functions of that kind, classes, texts, numbers, and objects that hold such;
- whether a function both yields and returns (`_check_fn_use_yield_and_return`): kept by its code;
- what the command line says of one group of options (`PipelineOptions.view_as`): kept by the group and the words;
- how large a side input is that a worker keeps (`get_deep_size` of statecache): as large as an empty one, for it keeps 100 MB
  and looks at each object that a value is made of;
- whether a step's function, which it keeps as it is, can be pickled (`roundtrip` of ptransform): its pipeline pickles it anyway;
- what a pickled function or coder is when bzip2 has packed it (`bz2` of cloudpickle_pickler): the last thousands are kept.

And the pieces of a stage are put together in the thread that runs it instead of one that is started for it; and no thread is
started for each bundle that samples how long its steps take, and that the bundle's end waits for (`StateSampler`).

All give what Beam gives, as tests/test_quick_beam.py compares, but for the times of steps, which are 0. Processes that a test
starts are not quickened, but for those of dataflow_stub.py and logging_run.py.
"""

import bz2
import concurrent.futures
import copy
import functools
import sys
import threading
import types
import weakref

from apache_beam.internal import cloudpickle_pickler, pickler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker import bundle_processor, statecache, statesampler
from apache_beam.transforms import core, ptransform, userstate, util
from apache_beam.typehints import decorators, trivial_inference

slow_signature = decorators.get_signature
slow_arguments = core.get_function_args_defaults
slow_arguments_of = core.get_function_arguments
slow_specs = userstate.get_dofn_specs
slow_annotations = decorators.IOTypeHints.from_callable
slow_inference = trivial_inference.infer_return_type
slow_yields = core._check_fn_use_yield_and_return
slow_view = PipelineOptions.view_as
slow_size = statecache.get_deep_size

_SIGNATURES = weakref.WeakKeyDictionary()
_BY_CLASS = weakref.WeakKeyDictionary()
_OF_METHODS = weakref.WeakKeyDictionary()
_OF_FUNCTIONS = weakref.WeakKeyDictionary()
_OF_CLASSES = weakref.WeakKeyDictionary()
_ANNOTATED = {types.FunctionType: weakref.WeakKeyDictionary(), types.MethodType: weakref.WeakKeyDictionary()}
_INFERRED = {}
_YIELDS = weakref.WeakKeyDictionary()
_PARSED = {}
_PLAIN = (str, int, float, type(None))


def _function(f):
    """The plain function that a function or a method is; None for another callable."""
    function = f.__func__ if isinstance(f, types.MethodType) else f
    return function if isinstance(function, types.FunctionType) else None


def _same(function):
    """What functions share that differ in their closure alone: their code, if it says all that their signature does."""
    told = function.__annotations__ or function.__defaults__ or function.__kwdefaults__ or function.__dict__
    return function if told else function.__code__


def quick_signature(func):
    """The signature of a callable."""
    key = _same(func) if isinstance(func, types.FunctionType) else func
    if key is func:
        return slow_signature(func)
    if key not in _SIGNATURES:
        _SIGNATURES[key] = slow_signature(func)
    return _SIGNATURES[key]


def quick_arguments(f):
    """The names and the defaults of what a function or a method takes, in lists of the caller's own."""
    function, known = _function(f), _OF_METHODS if isinstance(f, types.MethodType) else _OF_FUNCTIONS
    if function is None:
        return slow_arguments(f)
    key = _same(function)
    if key not in known:
        known[key] = slow_arguments(f)
    return tuple(map(list, known[key]))


def quick_arguments_of(obj, func):
    """The same for a method by its name, where it is its class's, in lists of the caller's own."""
    kind = type(obj)
    plain = kind.__getattribute__ is object.__getattribute__ and not hasattr(kind, f"_inspect_{func}")
    if not plain or func in getattr(obj, "__dict__", ()):
        return slow_arguments_of(obj, func)
    known = _BY_CLASS.setdefault(kind, {})
    if func not in known:
        known[func] = slow_arguments_of(obj, func)
    names, defaults = known[func]
    return names[:], defaults[:]


def quick_specs(dofn):
    """The states and the timers of a DoFn, in sets of the caller's own."""
    held = vars(dofn)
    if any(isinstance(value, types.MethodType) for value in held.values()):
        return slow_specs(dofn)
    known = _OF_CLASSES.setdefault(type(dofn), {})
    hidden = frozenset(name for name in held if hasattr(type(dofn), name))
    if hidden not in known:
        known[hidden] = slow_specs(dofn)
    return tuple(map(set, known[hidden]))


def quick_annotations(cls, fn):
    """The type hints that a function's annotations are; they cannot be changed."""
    function = _function(fn)
    if function is None or cls is not decorators.IOTypeHints or hasattr(function, "_beam_no_annotations"):
        return slow_annotations.__func__(cls, fn)
    known, key = _ANNOTATED[type(fn)], _same(function)
    if key not in known:
        known[key] = slow_annotations(fn)
    return known[key]


class _UnknownError(Exception):
    """Something of which it cannot be said whether it is the same as another."""


def _made_of(value, depth=9):
    """What a function's result type follows from: its code, its module, and what was put into it.

    Of a text and of a fraction it is their class, of an object its class and what it holds.
    """
    if isinstance(value, (type, types.BuiltinFunctionType)):
        return value
    if type(value) in (bool, int, type(None)):
        return type(value), value
    if type(value) in (str, float):
        return (type(value),)
    if not depth:
        raise _UnknownError
    if isinstance(value, (tuple, list)):
        return type(value), *(_made_of(piece, depth - 1) for piece in value)
    if type(value) in (dict, types.MappingProxyType):
        return type(value), *(pair for name, held in value.items() for pair in (name, _made_of(held, depth - 1)))
    if isinstance(value, types.MethodType):
        return types.MethodType, _made_of(value.__func__, depth - 1), _made_of(value.__self__, depth - 1)
    if isinstance(value, types.FunctionType):
        cells = value.__closure__ or ()
        held = (*(cell.cell_contents for cell in cells), None, *(value.__defaults__ or ()))
        named = value.__kwdefaults__ or {}
        return value.__code__, value.__module__, *(_made_of(piece, depth - 1) for piece in (*held, named))
    if type(value).__module__.startswith(("apache_beam", "beam_curate")) and hasattr(value, "__dict__"):
        return type(value), _made_of(vars(value), depth - 1)
    raise _UnknownError


def quick_inference(c, input_types, debug=False, depth=5):
    """The type that a function gives."""
    if not isinstance(c, (types.FunctionType, types.MethodType)) or debug:
        return slow_inference(c, input_types, debug, depth)
    try:
        key = (_made_of(c), tuple(map(repr, input_types)), depth)
    except (_UnknownError, ValueError, TypeError):  # a cell may be empty, a name of a kind that has no hash
        return slow_inference(c, input_types, debug, depth)
    if key not in _INFERRED:
        _INFERRED[key] = slow_inference(c, input_types, debug, depth)
    return _INFERRED[key]


def quick_yields(fn):
    """Whether a function both yields and returns, which its source says."""
    function = _function(fn)
    if function is None:
        return slow_yields(fn)
    if function.__code__ not in _YIELDS:
        _YIELDS[function.__code__] = slow_yields(fn)
    return _YIELDS[function.__code__]


def quick_view(self, cls):
    """The view of the options as one of their groups; values that the options hold already are theirs."""
    if self._flags is None:  # then Beam reads the command line of the process
        return slow_view(self, cls)
    key = (cls, tuple(self._flags))
    if key not in _PARSED:
        _PARSED[key] = copy.deepcopy(slow_view(self, cls)._visible_options)
    parsed = copy.copy(_PARSED[key])
    values = vars(parsed)
    for name, value in values.items():
        if not isinstance(value, _PLAIN):
            values[name] = copy.deepcopy(value)
        self._all_options.setdefault(name, values[name])
    view = cls.__new__(cls)
    vars(view).update(_flags=self._flags, _visible_options=parsed, _all_options=self._all_options)
    return view


def quick_size(*objs):
    """The bytes of an object without anything in it."""
    return sys.getsizeof(objs)


@functools.lru_cache(maxsize=4000)
def quick_compress(data, compresslevel=9):
    """The data, packed."""
    return bz2.compress(data, compresslevel)


@functools.lru_cache(maxsize=4000)
def quick_decompress(data):
    """The data, unpacked."""
    return bz2.decompress(data)


def quick_roundtrip(value):
    """A copy of a step's arguments; its function, in whose place the step puts it again, as it is."""
    if isinstance(value, (dict, list, tuple)):
        return pickler.roundtrip(value) if value else copy.copy(value)
    return value


class HereExecutor(concurrent.futures.Executor):
    """Does at once, in the thread that asks, what a pool of one thread does."""

    def __init__(self, max_workers=1, thread_name_prefix=""):
        assert max_workers == 1

    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as a pool hands it on
            future.set_exception(error)
        return future


def unsampled_start(self):
    """Begins as Beam's does, without the thread."""
    self.tracked_thread = threading.current_thread()
    statesampler.set_current_tracker(self)
    self.started = True


def unsampled_stop(self):
    """Ends as Beam's does; there is no thread to wait for."""
    statesampler.set_current_tracker(None)
    self.finished = True


def quicken():
    """Has this process's pipelines use them."""
    for module in (decorators, core, ptransform, util):
        module.get_signature = quick_signature
    core.get_function_args_defaults = quick_arguments
    core.get_function_arguments = quick_arguments_of
    userstate.get_dofn_specs = quick_specs
    decorators.IOTypeHints.from_callable = classmethod(quick_annotations)
    trivial_inference.infer_return_type = quick_inference
    core._check_fn_use_yield_and_return = quick_yields
    PipelineOptions.view_as = quick_view
    statecache.get_deep_size = quick_size
    cloudpickle_pickler.bz2 = types.SimpleNamespace(compress=quick_compress, decompress=quick_decompress)
    ptransform.pickler = types.SimpleNamespace(dumps=pickler.dumps, loads=pickler.loads, roundtrip=quick_roundtrip)
    futures = types.SimpleNamespace(ThreadPoolExecutor=HereExecutor, TimeoutError=concurrent.futures.TimeoutError)
    bundle_processor.concurrent = types.SimpleNamespace(futures=futures)
    statesampler.StateSampler.start = unsampled_start
    statesampler.StateSampler.stop = unsampled_stop
