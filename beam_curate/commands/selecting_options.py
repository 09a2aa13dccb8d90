"""The options of `curate` and `select` that say which samples are kept, and their checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from beam_curate.commands.options import OptionError, number_or_none, option
from beam_curate.commands.run_options import ShardOptions

if TYPE_CHECKING:
    from beam_curate.runs.configuration import Rules
    from beam_curate.scores.top import TopRule

_THRESHOLDS: Final = {"min_aesthetic": "aesthetic", "max_nsfw": "nsfw", "min_side": "side"}


@dataclass(frozen=True, kw_only=True)
class SelectingOptions(ShardOptions):
    """The scores and rules that decide which samples are kept."""

    head: tuple[str, ...] = option(
        (),
        "JSON description of a head of your own, with its safetensors file beside it; several are separated by ; (on a command "
        "line the option may be repeated)",
        action="append",
        metavar="FILE",
    )
    scorer: tuple[str, ...] = option(
        (),
        "a scorer of your own, package.module:Class, with options as a JSON object behind it; several are separated by ; "
        "(on a command line the option may be repeated)",
        action="append",
        metavar="MODULE:CLASS",
    )
    min_aesthetic: float | None = option(
        None, "keep if aesthetic >= this; none: no such rule", type=number_or_none(float)
    )
    max_nsfw: float | None = option(
        None, "keep if the NSFW probability < this; none: no such rule", type=number_or_none(float)
    )
    min_side: int | None = option(
        None, "keep if the shorter side in pixels >= this; none: no such rule", type=number_or_none(int)
    )
    keep: str = option(
        "",
        "keep if this holds, beside the other rules: a condition on scores, width, height, side, size, format, caption, key, "
        "url and shard, such as \"aesthetic >= 5 and nsfw < 0.3 and width >= 256 and format in ('JPEG', 'PNG')\"",
        once=True,
    )
    top: str = option(
        "",
        "of what the other rules keep, keep so many with the highest values: aesthetic=1000000",
        metavar="COLUMN=COUNT",
    )
    top_fraction: str = option(
        "",
        "of what the other rules keep, keep the share with the highest values: aesthetic=0.3",
        metavar="COLUMN=FRACTION",
    )

    def check(self) -> None:
        """See CheckedOptions."""
        super().check()
        for name in _THRESHOLDS:
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise OptionError(f"--{name} is {value}; give a finite number, or none")

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
            raise OptionError(
                f"--{option}: there is no column of numbers {rule.column!r}; there are: {', '.join(numbers)}"
            )
        return rule

    @property
    def rules(self) -> Rules:
        """The rules, as the configuration has them."""
        from beam_curate.runs.configuration import Rules

        return Rules(
            min_aesthetic=self.min_aesthetic,
            max_nsfw=self.max_nsfw,
            min_side=self.min_side,
            keep=self.keep,
            top=self.top,
            top_fraction=self.top_fraction,
        )
