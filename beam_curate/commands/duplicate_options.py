"""The options that say what duplicates are, of `dedup` and `curate`, and their checks."""

import logging
import math
import sys
from typing import TYPE_CHECKING, Any, Final

from beam_curate.commands.options import OptionError, comma_list, option

if TYPE_CHECKING:
    from beam_curate.duplicates.search import DuplicateSearch
    from beam_curate.runs.configuration import DuplicateRule
    from beam_curate.runs.table_parts import TablePlace
    from beam_curate.selection.rejudging import Selection

METHODS: Final = ("exact", "pixels", "perceptual", "semantic")
MOST_BITS: Final = 8
MOST_COMPARISONS: Final = 1e14
"""All three are said by beam_curate.duplicates, and written here for `--help` to be quick."""


def methods_help() -> str:
    """What the methods are, in words."""
    return (
        "a comma list of exact (equal bytes), pixels (equal pixels in other bytes), perceptual (pHashes that differ in few "
        "bits) and semantic (near embeddings); pixels and perceptual decode the images again"
    )


def keep_by_option() -> Any:
    """--keep_by."""
    return option(
        "aesthetic",
        "which of two duplicates is kept: the one with the higher value of this score, or largest (most pixels), first (in the "
        "input), hard or easy (far from or near to its cluster's centre)",
    )


def eps_option() -> Any:
    """--eps."""
    return option(0.01, "semantic: duplicates have a cosine similarity of at least 1 - eps")


def n_clusters_option() -> Any:
    """--n_clusters."""
    return option(
        0,
        "semantic: clusters to which embeddings are spread; 0: one for every 32,768, and for hard and easy the square root of "
        "their number",
    )


def border_option() -> Any:
    """--border."""
    return option(
        0.35,
        "semantic: how near to the border of another cluster an embedding is compared there too, as a part of the distance of "
        "duplicates; 0.5 misses no pair, 0 is a single cluster for each, as in SemDeDup",
    )


def max_distance_option() -> Any:
    """--max_distance."""
    return option(4, "perceptual: of 64 bits of the pHash, duplicates differ in at most so many")


def mirrored_option() -> Any:
    """--mirrored."""
    return option(False, "perceptual: mirror images of each other are duplicates too", action="store_true")


def max_comparisons_option() -> Any:
    """--max_comparisons."""
    return option(
        MOST_COMPARISONS,
        "semantic: a search that will compare more pairs, by an estimate from a sample, is refused before it starts; 1e14 are "
        "some 55 hours of a core",
        type=float,
    )


class DuplicateOptions:
    """What both options classes, which are dataclasses, do with these options."""

    keep_by: str
    eps: float
    n_clusters: int
    border: float
    max_distance: int
    mirrored: bool
    max_comparisons: float

    def check_duplicates(self, option_name: str, methods: str) -> None:
        """Checks them.

        Args:
            option_name: The option that names the methods.
            methods: Its value.

        Raises:
            OptionError: It names the option, its value, and the remedy.
        """
        named = comma_list(methods)
        unknown = [name for name in named if name not in METHODS]
        if unknown:
            raise OptionError(f"--{option_name} {unknown[0]!r} is none; give a comma list of {', '.join(METHODS)}")
        if not (math.isfinite(self.eps) and 0 < self.eps < 1):
            raise OptionError(f"--eps is {self.eps}; give a number above 0 and below 1, such as 0.01")
        if self.n_clusters < 0:
            raise OptionError(f"--n_clusters is {self.n_clusters}; give 0 to have it chosen, or a number of clusters")
        if not 0 <= self.border <= 0.5:
            raise OptionError(f"--border is {self.border}; give 0 (fastest) to 0.5 (misses no pair)")
        if not 0 <= self.max_distance <= MOST_BITS:
            raise OptionError(f"--max_distance is {self.max_distance}; give 0 to {MOST_BITS} bits")
        if self.mirrored and "perceptual" not in named:
            raise OptionError(f"--mirrored is of perceptual; add it to --{option_name}, or leave --mirrored out")
        if not (math.isfinite(self.max_comparisons) and self.max_comparisons > 0):
            raise OptionError(f"--max_comparisons is {self.max_comparisons}; give a number above 0, such as 1e14")
        if self.keep_by in ("hard", "easy") and "semantic" not in named:
            raise OptionError(f"--keep_by {self.keep_by} needs the clusters of semantic; add it to --{option_name}")

    def duplicate_rule(self, methods: str, **others: Any) -> "DuplicateRule":
        """What they take for a duplicate, as the configuration has it; others are its further fields."""
        from beam_curate.runs.configuration import DuplicateRule

        names = ("eps", "n_clusters", "border", "max_distance", "mirrored", "keep_by")
        named = {name: getattr(self, name) for name in names}
        return DuplicateRule(comma_list(methods), **named, **others)

    def search(
        self, methods: str, selection: "Selection", against: "TablePlace | None" = None, action: str = "drop"
    ) -> "DuplicateSearch":
        """The search that they ask for.

        Args:
            methods: A comma list.
            selection: The table, and among which of its rows.
            against: The table of another dataset.
            action: What is done with samples that are there too.
        """
        from beam_curate.duplicates.methods.exact import Exact
        from beam_curate.duplicates.methods.perceptual import Perceptual
        from beam_curate.duplicates.methods.pixels import Pixels
        from beam_curate.duplicates.methods.semantic import Semantic
        from beam_curate.duplicates.search import DuplicateSearch
        from beam_curate.threads import usable_cores

        made = (
            Exact(),
            Pixels(),
            Perceptual(self.max_distance, self.mirrored),
            Semantic(self.eps, self.n_clusters, self.border),
        )
        named = comma_list(methods)
        return DuplicateSearch(
            selection,
            [method for method in made if method.name in named],
            self.keep_by,
            against=against,
            action=action,
            most_comparisons=self.max_comparisons,
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


def check_keep_by(keep_by: str, numbers: list[str]) -> None:
    """Checks that a score to rank by is there.

    Raises:
        OptionError: It is neither a rule nor a score.
    """
    from beam_curate.duplicates.candidates import RULES

    if keep_by not in (*RULES, *numbers):
        raise OptionError(
            f"--keep_by {keep_by}: there is no such score in the table; give one of {', '.join([*numbers, *RULES])}"
        )
