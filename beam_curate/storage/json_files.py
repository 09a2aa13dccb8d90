"""JSON files that say how far a run is: read with the shape that their readers rely on, damage told by name and remedy."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from beam_curate.storage.files import read_bytes

Shape = type | tuple[type, ...] | Mapping[str, Any] | Sequence[Any] | Callable[[Any], str]
"""What a value must be: of a type, or of one of several; an object with at least these keys (those that end in `?` may be
missing; the key `*` stands for all others); a list of one shape, `[str]`; or what a function finds nothing wrong with."""


class DamagedFileError(ValueError):
    """A file of a run holds something else than what was written there; the message names it and says what to do."""


def read_object(path: str, shape: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: The file.
        shape: What it must have, see Shape.
        remedy: What to do if it has not: the end of the message.

    Raises:
        DamagedFileError: It is empty, cut, no JSON, or of another shape.
        StorageError: It cannot be read.
    """
    value = read_any(path, remedy)
    refuse_misfit(path, value, shape, remedy)
    found: dict[str, Any] = value
    return found


def refuse_misfit(path: str, value: Any, shape: "Shape", remedy: str) -> None:
    """Raises DamagedFileError, as `read_object`, if what was read has another shape."""
    problem = misfit(value, shape)
    if problem:
        raise DamagedFileError(f"{path} is damaged: {problem}; {remedy}")


def read_any(path: str, remedy: str) -> Any:
    """Reads JSON of whatever shape, for `refuse_misfit`; errors as `read_object`."""
    data = read_bytes(path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        problem = "it is empty" if not data.strip() else f"it is not JSON ({error})"
        raise DamagedFileError(f"{path} is damaged: {problem}; {remedy}") from error


def misfit(value: Any, shape: Shape, name: str = "") -> str:
    """What is wrong with a value; empty if it has the shape.

    Args:
        value: From JSON.
        shape: See Shape.
        name: Of the value, with dots.
    """
    if isinstance(shape, Mapping):
        return _object_misfit(value, shape, name)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _is_no(value, "list", name)
        return next((text for at, each in enumerate(value) if (text := misfit(each, shape[0], f"{name}[{at}]"))), "")
    if isinstance(shape, (type, tuple)):
        kinds: tuple[type, ...] = shape if isinstance(shape, tuple) else (shape,)
        # True is an int to Python, and no number in JSON.
        if (isinstance(value, bool) and bool not in kinds) or not isinstance(value, kinds):
            return _is_no(value, " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds), name)
        return ""
    found: str = shape(value)  # type: ignore[operator]
    return f"{name}: {found}" if found and name else found


_WORDS = {
    dict: "object",
    list: "list",
    str: "text",
    int: "whole number",
    float: "number",
    bool: "truth value",
    type(None): "null",
}


def _object_misfit(value: Any, shape: Mapping[str, Any], name: str) -> str:
    if not isinstance(value, dict):
        return _is_no(value, "object", name)
    for key, inner in shape.items():
        plain = key.removesuffix("?")
        if key == "*":
            others = (each for each in value if each not in shape and f"{each}?" not in shape)
            found = next((text for each in others if (text := misfit(value[each], inner, _dotted(name, each)))), "")
        elif plain in value:
            found = misfit(value[plain], inner, _dotted(name, plain))
        else:
            found = "" if key.endswith("?") else f"it has no {_dotted(name, plain)}"
        if found:
            return found
    return ""


def _dotted(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _is_no(value: Any, wanted: str, name: str) -> str:
    return f"{name or 'what it holds'} is {str(value)[:40]!r}, and no {wanted}"
