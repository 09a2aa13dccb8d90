"""Packages of which each file is one kind of a thing: a new kind is a new file, and is named nowhere else."""

import importlib
import pkgutil
import sys
from typing import Any


def names_in(package: str) -> list[str]:
    """The names of a package's files; none of them is loaded.

    Args:
        package: Its full name; it is loaded.
    """
    return sorted(module.name for module in pkgutil.iter_modules(sys.modules[package].__path__))


def kinds_in(package: str, base: Any) -> list[Any]:
    """The classes below `base` that a package's files define, by the names of the files.

    Args:
        package: Its full name; it is loaded.
        base: The class that they have in common; an abstract one too, which mypy lets nobody pass as a `type`.
    """
    found = []
    for name in names_in(package):
        module = importlib.import_module(f"{package}.{name}")
        own = (kind for kind in vars(module).values() if getattr(kind, "__module__", "") == module.__name__)
        found += [kind for kind in own if isinstance(kind, type) and issubclass(kind, base)]
    return found
