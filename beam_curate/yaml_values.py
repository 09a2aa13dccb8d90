"""What a YAML file may give to a constructor: names and types of values are checked against its annotations."""

import dataclasses
import difflib
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Union

import apache_beam as beam

_KINDS: Final[Mapping[Any, str]] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    Sequence: "a list",
    Mapping: "a map",
}


class YamlConstructor:
    """A constructor with the parameters of what it makes, which refuses names and types of values that are not its own.

    The classes and functions whose parameters it has are loaded when it is called, not with the module.
    """

    def __init__(
        self, constructor: Callable[..., beam.PTransform], sources: Sequence[str], without: Sequence[str]
    ) -> None:
        self._sources, self._without = sources, without
        self.__wrapped__ = constructor
        self.__name__, self.__doc__ = constructor.__name__, constructor.__doc__

    @functools.cached_property
    def __signature__(self) -> inspect.Signature:
        """Its own parameters that may be given by place, those of the sources, and its other own ones, with their types."""
        own = _parameters(self.__wrapped__)
        first = {name: each for name, each in own.items() if each.kind is each.POSITIONAL_OR_KEYWORD}
        found = dict(first)
        for path in self._sources:
            module, _, name = path.partition(":")
            theirs = _parameters(getattr(importlib.import_module(f"beam_curate.{module}"), name))
            found |= {name: each for name, each in theirs.items() if name not in (*own, *self._without)}
        found |= {name: each for name, each in own.items() if each.kind is each.KEYWORD_ONLY}
        return inspect.Signature([each.replace(kind=each.POSITIONAL_OR_KEYWORD) for each in found.values()])

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Makes the transform.

        Raises:
            ValueError: At construction; it names the option, its value, and what it takes.
        """
        signature = self.__signature__
        for name in options:
            if name not in signature.parameters:
                close = difflib.get_close_matches(name, signature.parameters, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise ValueError(f"there is no option {name!r}; {hint}there are: {', '.join(signature.parameters)}")
        given = signature.bind(*args, **options).arguments
        for name, value in given.items():
            kind = signature.parameters[name].annotation
            if not _fits(value, kind):
                raise ValueError(f"{name}={value!r}: give {_in_words(kind)}")
        return self.__wrapped__(**given)


def takes_yaml(
    *sources: str, without: Sequence[str] = ()
) -> Callable[[Callable[..., beam.PTransform]], YamlConstructor]:
    """Makes a YamlConstructor of a function.

    Args:
        sources: Whose parameters it has beside those that it names itself, as `room.module:Name`.
        without: Those of them that it has not.
    """
    return lambda constructor: YamlConstructor(constructor, sources, without)


def taken(options: dict[str, Any], kind: Callable[..., Any]) -> dict[str, Any]:
    """Takes out of the options those that are parameters of a class or function."""
    return {name: options.pop(name) for name in list(options) if name in inspect.signature(kind).parameters}


def _parameters(source: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a class or function that have names, with their types."""
    made = {}
    if dataclasses.is_dataclass(source):
        made = {field.name: field.default_factory for field in dataclasses.fields(source)}
        hints = typing.get_type_hints(source)
    else:
        hints = typing.get_type_hints(vars(source)["__init__"] if isinstance(source, type) else source)
    found = {}
    for name, each in inspect.signature(source).parameters.items():
        if each.kind != each.VAR_KEYWORD:
            factory = made.get(name, dataclasses.MISSING)
            default = each.default if factory is dataclasses.MISSING else factory()
            found[name] = each.replace(annotation=hints[name], default=default)
    return found


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) in (Union, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(kind))
    if typing.get_origin(kind) is Literal:
        return type(value) in {type(each) for each in typing.get_args(kind)}
    if typing.get_origin(kind) is Sequence:
        return isinstance(value, list | tuple) and all(_fits(each, *typing.get_args(kind)) for each in value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, typing.get_origin(kind) or kind)


def _in_words(kind: Any) -> str:
    if typing.get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_in_words(each) for each in typing.get_args(kind))
    if typing.get_origin(kind) is Literal:
        kind = type(typing.get_args(kind)[0])
    return _KINDS[typing.get_origin(kind) or kind]
