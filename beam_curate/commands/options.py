"""What the commands share about options: typed fields, made into flags, checked before any work starts.

Only the standard library is imported here, so that `--help` answers at once.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from beam_curate.commands.option_groups import place_of

_OF_CHECKS: Final = ("dependent", "least", "most", "once", "group")


def comma_list(text: str) -> tuple[str, ...]:
    """The words of an option that takes a comma list; empty ones do not count."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


class OptionError(ValueError):
    """A wrong option: the message names the option, its value, and the remedy, on one line."""


def option(default: Any, help: str, **settings: Any) -> Any:
    """A field of an options class that becomes `--<name>`.

    Args:
        default: Its value where the user gives none.
        help: What it is.
        settings: For argparse (choices, or a function that gives them, metavar, type, …); and `least` and `most`, the bounds
            of a number; `once`, for a text that holds a list or a condition, of which one would be lost if it were given twice;
            and `group`, for an option that `option_groups` does not name.
    """
    return dataclasses.field(default=default, metadata={"help": help, **settings})


def dependent(default: Any, help: str, **settings: Any) -> Any:
    """A field whose default depends on other options: its default's value counts as given where the user gives it."""
    return option(default, help, dependent=True, **settings)


def required(help: str, **settings: Any) -> Any:
    """A field that the user must give."""
    return dataclasses.field(metadata={"help": help, "required": True, **settings})


def flag_of(name: str) -> str:
    """What a command line calls the option of a field. What a run keeps is called by the library's names, whatever this says."""
    return f"--{name}"


def parts(kinds: Callable[[], Sequence[type[Any]]]) -> Any:
    """A field that holds an object of each of these options classes: their options are the command's, beside its own."""
    return dataclasses.field(default=(), metadata={"parts": kinds})


def option_fields(options: type[Any]) -> list[dataclasses.Field[Any]]:
    """The options of a class, those of its parts too, in the order in which `--help` shows them."""
    found: list[dataclasses.Field[Any]] = []
    for field in dataclasses.fields(options):
        found += (
            [each for kind in field.metadata["parts"]() for each in option_fields(kind)]
            if has_parts(field)
            else [field]
        )
    return sorted(found, key=lambda field: place_of(field, options))


def option_values(options: Any) -> dict[str, Any]:
    """The values of all options by name, those of its parts too."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for part in value if has_parts(field) else ():
            found |= option_values(part)
        if not has_parts(field):
            found[field.name] = value
    return found


def settings_of(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """What argparse, or a template, is told of an option."""
    settings = {name: value for name, value in field.metadata.items() if name not in _OF_CHECKS}
    if callable(settings.get("choices")):
        settings["choices"] = tuple(settings["choices"]())
    return settings


def has_parts(field: dataclasses.Field[Any]) -> bool:
    """Whether a field holds parts, see `parts`, and is not an option itself."""
    return "parts" in field.metadata


@dataclass(frozen=True, kw_only=True)
class CheckedOptions:
    """The base of options classes: their values are checked as they are made."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Checks the bounds of numbers; a class with more to check does so after its base.

        Raises:
            OptionError: It names the option, its value, and the remedy.
        """
        for field in dataclasses.fields(self):
            value, least, most = getattr(self, field.name), field.metadata.get("least"), field.metadata.get("most")
            if value is None or (least is None and most is None):
                continue
            # Not a number is refused too: no comparison with it holds.
            if least is not None and most is not None and not least <= value <= most:
                raise OptionError(f"--{field.name} is {value}; give {least} to {most}")
            if least is not None and not value >= least:
                raise OptionError(f"--{field.name} is {value}; give at least {least}")


def number_or_none(kind: type[float] | type[int]) -> Callable[[str], float | int | None]:
    """Parses a number, or `none`, which turns the option off."""

    def parse(text: str) -> float | int | None:
        return None if text.lower() == "none" else kind(text)

    parse.__name__ = f"{kind.__name__} (or none)"
    return parse
