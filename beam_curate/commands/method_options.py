"""What the commands know of a method to find duplicates before it is loaded: its name, its options and their checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from beam_curate.commands.option_groups import DUPLICATES
from beam_curate.commands.options import CheckedOptions, option

if TYPE_CHECKING:
    from beam_curate.duplicates.method import Method


@dataclass(frozen=True, kw_only=True)
class MethodOptions(CheckedOptions, ABC):
    """The base of the options of a method. A new one is a file in `duplicate_methods`, beside its search in `duplicates.methods`.

    Attributes:
        name: As --methods and --dedup call it.
        place: Its place among the methods, the surest first.
        about: What are duplicates by it, in a few words.
        decodes: Whether it decodes the images again.
    """

    name: ClassVar[str]
    place: ClassVar[int]
    about: ClassVar[str]
    decodes: ClassVar[bool] = False

    def check_with(self, methods: tuple[str, ...], named_by: str, keep_by: str) -> None:
        """Checks what depends on other options.

        Args:
            methods: The names of all methods that are asked for.
            named_by: The option that names them.
            keep_by: The value of --keep_by.

        Raises:
            OptionError: It names the option, its value, and the remedy.
        """

    @abstractmethod
    def method(self) -> Method:
        """The method, with these options."""


def method_option(default: Any, help: str, **settings: Any) -> Any:
    """An option of a method, see `options.option`."""
    return option(default, help, group=DUPLICATES, **settings)
