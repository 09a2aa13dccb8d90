"""The methods: each file here is one, and is known by being here."""

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from beam_curate.duplicates.method import Method


@cache
def all_methods() -> Sequence[type[Method]]:
    """The kinds of methods, surest first: a method's number is its place here."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    found = (kind for kind in _below(Method) if kind.__module__.startswith(f"{__name__}."))
    return sorted(found, key=lambda kind: kind.place)


def _below(kind: Any) -> Iterator[type[Method]]:
    for below in kind.__subclasses__():
        yield below
        yield from _below(below)


def method_named(name: str) -> type[Method]:
    """The kind of method that has a name.

    Raises:
        KeyError: There is none.
    """
    return {kind.name: kind for kind in all_methods()}[name]


def number_of(method: Method | type[Method]) -> int:
    """The number of a method."""
    return [kind.name for kind in all_methods()].index(method.name)
