"""The methods: each file here is one, and is known by being here."""

from collections.abc import Sequence
from functools import cache

from beam_curate.duplicates.method import Method
from beam_curate.kinds import kinds_in


@cache
def all_methods() -> Sequence[type[Method]]:
    """The kinds of methods, surest first: a method's number is its place here."""
    return sorted(kinds_in(__name__, Method), key=lambda kind: kind.place)


def method_named(name: str) -> type[Method]:
    """The kind of method that has a name.

    Raises:
        KeyError: There is none.
    """
    return {kind.name: kind for kind in all_methods()}[name]


def number_of(method: Method | type[Method]) -> int:
    """The number of a method."""
    return [kind.name for kind in all_methods()].index(method.name)
