"""The options that `curate.py` and `select.py` share, and their checks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from beam_curate.commands.options import OptionError, comma_list, once, option

if TYPE_CHECKING:
    from beam_curate.scores.top import TopRule

Record = TypeVar("Record")
_THRESHOLDS: Final = {"min_aesthetic": "aesthetic", "max_nsfw": "nsfw", "min_side": "side"}
LAYOUTS: Final = ("clip-retrieval", "datacomp", "laion")


def head_option() -> Any:
    """--head."""
    return option(
        (),
        "JSON description of a head of your own, with its safetensors file beside it; several are separated by ; (on a command "
        "line the option may be repeated)",
        action="append",
        metavar="FILE",
    )


def scorer_option() -> Any:
    """--scorer."""
    return option(
        (),
        "a scorer of your own, package.module:Class, with options as a JSON object behind it; several are separated by ; "
        "(on a command line the option may be repeated)",
        action="append",
        metavar="MODULE:CLASS",
    )


def keep_option() -> Any:
    """--keep."""
    return once(
        "",
        "keep if this holds, beside the other rules: a condition on scores, width, height, side, size, format, caption, key, "
        "url and shard, such as \"aesthetic >= 5 and nsfw < 0.3 and width >= 256 and format in ('JPEG', 'PNG')\"",
    )


def layout_option() -> Any:
    """--layout."""
    return once(
        "",
        "also write the kept rows as other tools read them, to layouts/ in --output: a comma list of "
        + ", ".join(LAYOUTS),
    )


def top_option() -> Any:
    """--top."""
    return option("", "of what the other rules keep, keep the highest: aesthetic=1000000", metavar="COLUMN=COUNT")


def top_fraction_option() -> Any:
    """--top_fraction."""
    return option(
        "", "of what the other rules keep, keep this part, the highest: aesthetic=0.3", metavar="COLUMN=FRACTION"
    )


class SelectingOptions:
    """What both options classes, which are dataclasses, do with the options that they share."""

    min_aesthetic: Any
    max_nsfw: Any
    min_side: Any
    top: str
    top_fraction: str
    layout: str

    def check_selecting(self) -> None:
        """Checks thresholds and layouts.

        Raises:
            OptionError: It names the option, its value, and the remedy.
        """
        for name in _THRESHOLDS:
            value = getattr(self, name, None)
            if value is not None and not math.isfinite(value):
                raise OptionError(f"--{name} is {value}; give a finite number, or none")
        unknown = sorted(set(self.layouts) - set(LAYOUTS))
        if unknown:
            raise OptionError(f"--layout {unknown[0]} is none; give a comma list of {', '.join(LAYOUTS)}")

    def check_scales(self) -> None:
        """Checks that thresholds are on the scales of their columns. It loads Beam, which `--help` should not wait for.

        Raises:
            OptionError: It names the option, its value, and the remedy.
        """
        from beam_curate.scores.scales import SCALES

        for name, column in _THRESHOLDS.items():
            value = getattr(self, name)
            if value is not None and (problem := SCALES[column].problem(value)):
                raise OptionError(f"--{name} is {value}; {problem}, or none")

    def top_rule(self, scores: Sequence[str]) -> TopRule | None:
        """The rule of --top or --top_fraction; None without them.

        Args:
            scores: The names of the scores.

        Raises:
            ValueError: It names the option, what is wrong, and the remedy.
        """
        from beam_curate.scores.expressions import NUMBER
        from beam_curate.scores.rules import FACT_KINDS
        from beam_curate.scores.top import parse_top

        rule = parse_top(self.top, self.top_fraction)
        numbers = [*scores, *(name for name, kind in FACT_KINDS.items() if kind == NUMBER)]
        if rule is not None and rule.column not in numbers:
            option = "top" if self.top else "top_fraction"
            raise OptionError(f"--{option}: there is no number {rule.column!r}; there are: {', '.join(numbers)}")
        return rule

    @property
    def layouts(self) -> tuple[str, ...]:
        """The names of --layout."""
        return comma_list(self.layout)

    def as_record(self, kind: type[Record], **others: Any) -> Record:
        """A part of the configuration whose fields are the options of their names, where there is one, and others."""
        fields: Any = kind
        names = {field.name for field in dataclasses.fields(fields)} - others.keys()
        return kind(**{name: getattr(self, name) for name in names if hasattr(self, name)}, **others)
