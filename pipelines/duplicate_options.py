"""The options that say what duplicates are, of `dedup.py` and `curate.py`, and their checks."""

import math
from typing import TYPE_CHECKING, Any, Final

from pipelines.options import OptionError, comma_list, option

if TYPE_CHECKING:
    from beam_curate.duplicates.search import DuplicateSearch
    from beam_curate.runs.configuration import DuplicateRule
    from beam_curate.runs.table_parts import TablePlace
    from beam_curate.selection.rejudging import Selection

METHODS: Final = ("exact", "pixels", "perceptual", "semantic")
MOST_BITS: Final = 8


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
    return option(0, "semantic: clusters in which embeddings are compared; 0: the square root of their number")


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


class DuplicateOptions:
    """What both options classes, which are dataclasses, do with these options."""

    keep_by: str
    eps: float
    n_clusters: int
    border: float
    max_distance: int

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
        if self.keep_by in ("hard", "easy") and "semantic" not in named:
            raise OptionError(f"--keep_by {self.keep_by} needs the clusters of semantic; add it to --{option_name}")

    def duplicate_rule(self, methods: str, **others: Any) -> "DuplicateRule":
        """What they take for a duplicate, as the configuration has it; others are its further fields."""
        from beam_curate.runs.configuration import DuplicateRule

        named = {name: getattr(self, name) for name in ("eps", "n_clusters", "border", "max_distance", "keep_by")}
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
        from beam_curate.duplicates.clusters import Clustering
        from beam_curate.duplicates.search import DuplicateSearch
        from beam_curate.threads import usable_cores

        named = comma_list(methods)
        return DuplicateSearch(
            selection,
            self.keep_by,
            exact="exact" in named,
            pixels="pixels" in named,
            perceptual=self.max_distance if "perceptual" in named else None,
            clustering=Clustering(self.eps, self.n_clusters, self.border) if "semantic" in named else None,
            against=against,
            action=action,
            threads=usable_cores(),
        )


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
