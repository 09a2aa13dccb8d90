"""The options that say what duplicates are, of `dedup` and `curate`, and their checks."""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from beam_curate.commands.duplicate_methods import all_options
from beam_curate.commands.method_options import MethodOptions
from beam_curate.commands.options import CheckedOptions, OptionError, comma_list, option, option_values, parts

if TYPE_CHECKING:
    from beam_curate.duplicates.search import DuplicateSearch
    from beam_curate.runs.configuration import DuplicateRule
    from beam_curate.runs.table_parts import TablePlace
    from beam_curate.selection.rejudging import Selection

MOST_COMPARISONS: Final = 1e14
"""That of `beam_curate.duplicates.search`, which `--help` should not wait for."""


def methods_help() -> str:
    """What the methods are, in words."""
    kinds = all_options()
    return (
        f"a comma list of {_listed([f'{kind.name} ({kind.about})' for kind in kinds], 'and')}; "
        f"{_listed([kind.name for kind in kinds if kind.decodes], 'and')} decode the images again"
    )


def _listed(words: Sequence[str], last: str) -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


@dataclass(frozen=True, kw_only=True)
class DuplicateOptions(CheckedOptions):
    """What duplicates are, and which one of them stays.

    Attributes:
        methods: The options of each method.
    """

    keep_by: str = option(
        "aesthetic",
        "which of two duplicates is kept: the one with the higher value of this score, or largest (most pixels), first (in the "
        "input), hard or easy (far from or near to its cluster's centre)",
    )
    max_comparisons: float = option(
        MOST_COMPARISONS,
        "semantic: a search that will compare more pairs, by an estimate from a sample, is refused before it starts; 1e14 take "
        "some 280 hours of one core",
        type=float,
    )
    of_methods: tuple[MethodOptions, ...] = parts(all_options)

    def check_duplicates(self, named_by: str, methods: str) -> None:
        """Checks what depends on the methods.

        Args:
            named_by: The option that names them.
            methods: Its value, a comma list.

        Raises:
            OptionError: It names the option, its value, and the remedy.
        """
        named, known = comma_list(methods), [kind.name for kind in self.of_methods]
        unknown = [name for name in named if name not in known]
        if unknown:
            raise OptionError(f"--{named_by} {unknown[0]!r} is unknown; give a comma list of {', '.join(known)}")
        if not (math.isfinite(self.max_comparisons) and self.max_comparisons > 0):
            raise OptionError(f"--max_comparisons is {self.max_comparisons}; give a number above 0, such as 1e14")
        for each in self.of_methods:
            each.check_with(named, named_by, self.keep_by)

    def duplicate_rule(self, methods: str, **others: Any) -> DuplicateRule:
        """What they take for a duplicate, as the configuration has it; others are its further fields."""
        from beam_curate.runs.configuration import DuplicateRule

        named = {name: value for each in self.of_methods for name, value in option_values(each).items()}
        known = {field.name for field in dataclasses.fields(DuplicateRule)}
        more = {name: named.pop(name) for name in [*named] if name not in known}
        return DuplicateRule(comma_list(methods), keep_by=self.keep_by, **named, **others, more=more)

    def search(
        self, methods: str, selection: Selection, against: TablePlace | None = None, action: str = "drop"
    ) -> DuplicateSearch:
        """The search that they ask for.

        Args:
            methods: A comma list.
            selection: The table, and among which of its rows.
            against: The table of another dataset.
            action: What is done with samples that are there too.
        """
        from beam_curate.duplicates.search import DuplicateSearch
        from beam_curate.threads import usable_cores

        named = comma_list(methods)
        return DuplicateSearch(
            selection,
            [each.method() for each in self.of_methods if each.name in named],
            self.keep_by,
            against=against,
            action=action,
            max_comparisons=self.max_comparisons,
            threads=usable_cores(),
        )


class _Terminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def say_what_it_costs() -> None:
    """Has what a search for duplicates will cost said on the terminal, if it runs in this process."""
    log = logging.getLogger("beam_curate.duplicates")
    if not log.handlers:
        log.addHandler(_Terminal())
        log.setLevel(logging.INFO)
        log.propagate = False


def check_keep_by(keep_by: str, numbers: Sequence[str]) -> None:
    """Checks that a score to rank by is there.

    Raises:
        OptionError: It is neither a rule nor a score.
    """
    from beam_curate.duplicates.candidates import RULES

    if keep_by not in (*RULES, *numbers):
        raise OptionError(
            f"--keep_by {keep_by}: there is no such score in the table; give one of {', '.join([*numbers, *RULES])}"
        )
