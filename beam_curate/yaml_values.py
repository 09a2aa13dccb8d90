"""What a YAML file may give to a constructor: names and types of values are checked against its annotations."""

import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, ParamSpec, Union

import apache_beam as beam

Given = ParamSpec("Given")

_KINDS: Final[Mapping[Any, str]] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    Sequence: "a list",
    Mapping: "a map",
}


def takes_yaml(constructor: Callable[Given, beam.PTransform]) -> Callable[Given, beam.PTransform]:
    """Makes a constructor refuse names and types of values that are not its own.

    Raises:
        ValueError: At construction; it names the option, its value, and what it takes.
    """
    signature = inspect.signature(constructor)
    kinds = typing.get_type_hints(constructor)

    @functools.wraps(constructor)
    def checked(*args: Given.args, **options: Given.kwargs) -> beam.PTransform:
        for name in options:
            if name not in signature.parameters:
                close = difflib.get_close_matches(name, signature.parameters, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise ValueError(f"there is no option {name!r}; {hint}there are: {', '.join(signature.parameters)}")
        for name, value in signature.bind(*args, **options).arguments.items():
            if not _fits(value, kinds[name]):
                raise ValueError(f"{name}={value!r}: give {_in_words(kinds[name])}")
        return constructor(*args, **options)

    return checked


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) in (Union, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(kind))
    if typing.get_origin(kind) is Sequence:
        return isinstance(value, list | tuple) and all(_fits(each, *typing.get_args(kind)) for each in value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, typing.get_origin(kind) or kind)


def _in_words(kind: Any) -> str:
    if typing.get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_in_words(each) for each in typing.get_args(kind))
    return _KINDS[typing.get_origin(kind) or kind]
