"""Frozen dataclasses as JSON objects and back: what a file must hold follows from the type hints of its class.

A field with a default may be missing. A field named `more` takes the keys that no other field has, and its own keys stand beside
the others' in the file.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, Union

from beam_curate.storage.json_files import Shape, misfit, read_any, refuse_misfit

Record = TypeVar("Record")
MORE: Final = "more"


# A class's hints are the same in every file; reading them takes longer than a small file.
_hints: Callable[[Any], Mapping[str, object]] = functools.cache(typing.get_type_hints)


def shape_of(kind: Any) -> Shape:
    """What a JSON value must be, for a type hint: a plain type, a union of such and None, a sequence, a mapping, a dataclass."""
    if dataclasses.is_dataclass(kind):
        return _shape_of_class(kind)  # type: ignore[arg-type]
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        inner = [each for each in typing.get_args(kind) if each is not type(None)]
        if all(isinstance(each, type) and each in _PLAIN for each in inner):
            return (*(found for each in inner for found in _PLAIN[each]), type(None))
        (only,) = inner
        return functools.partial(_optional_misfit, only)
    if origin in (Sequence, tuple):
        return [shape_of(typing.get_args(kind)[0])]
    if origin is Mapping:
        return {"*": shape_of(typing.get_args(kind)[1])}
    return _PLAIN.get(kind, _anything)


_PLAIN: Final[Mapping[Any, tuple[type, ...]]] = {str: (str,), int: (int,), float: (int, float), bool: (bool,)}


@functools.cache
def _shape_of_class(kind: type[Any]) -> Mapping[str, Shape]:
    shape = {}
    for field in dataclasses.fields(kind):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.name != MORE:
            shape[field.name if needed else f"{field.name}?"] = shape_of(_hints(kind)[field.name])
    return shape


def _anything(value: Any) -> str:
    return ""


def _optional_misfit(kind: Any, value: Any) -> str:
    return "" if value is None else misfit(value, shape_of(kind))


def of_json(kind: type[Record], value: Mapping[str, object]) -> Record:
    """The record that a JSON object of its shape holds."""
    hints = _hints(kind)
    known = {name: _of_json(hints[name], inner) for name, inner in value.items() if name in hints and name != MORE}
    if MORE in hints:
        known[MORE] = {name: inner for name, inner in value.items() if name not in known}
    return kind(**known)


def _of_json(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if dataclasses.is_dataclass(kind):
        return of_json(kind, value)  # type: ignore[arg-type]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        classes = [each for each in inner if dataclasses.is_dataclass(each) or typing.get_origin(each)]
        return _of_json(classes[0], value) if classes else value
    if origin in (Sequence, tuple):
        return tuple(_of_json(inner[0], each) for each in value)
    if origin is Mapping:
        return {name: _of_json(inner[1], each) for name, each in value.items()}
    return value


def to_json(value: Any) -> Any:
    """A record, or what is in one, as JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        more = found.pop(MORE, {})
        return {**found, **more}
    if isinstance(value, Mapping):
        return {name: to_json(inner) for name, inner in value.items()}
    return [to_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def read_record(
    kind: type[Record], path: str, remedy: str, modern: Callable[[Any], Any] = lambda value: value
) -> Record:
    """Reads a file that holds a record.

    Args:
        kind: Its class.
        path: The file.
        remedy: What to do if it is damaged: the end of the message.
        modern: Brings what an older version wrote into today's shape, and leaves all else as it is.

    Raises:
        DamagedFileError: It is empty, cut, no JSON, or of another shape.
        StorageError: It cannot be read.
    """
    value = modern(read_any(path, remedy))
    refuse_misfit(path, value, shape_of(kind), remedy)
    return of_json(kind, value)
