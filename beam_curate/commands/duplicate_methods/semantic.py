"""semantic: near embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from beam_curate.commands.method_options import MethodOptions, method_option
from beam_curate.commands.options import OptionError, number_or_none

if TYPE_CHECKING:
    from beam_curate.duplicates.method import Method


@dataclass(frozen=True, kw_only=True)
class SemanticOptions(MethodOptions):
    """How near, and how embeddings are spread."""

    eps: float = method_option(0.01, "semantic: duplicates have a cosine similarity of at least 1 - eps")
    n_clusters: int = method_option(
        0,
        "semantic: number of clusters in which embeddings are compared. 0: one for every 256 embeddings, for "
        "fewer where there are more than a million, 65,536 at most; with --keep_by hard or easy the square root of the number of "
        "embeddings",
        least=0,
    )
    border: float | None = method_option(
        None,
        "semantic: an embedding that is this near to the border of another cluster is compared there too. 1 is the largest "
        "distance of duplicates. 0.5 misses no pair; with 0 each is compared in one cluster only, as in SemDeDup. Without it a "
        "sample decides: as narrow as it may be to miss less than one near pair in a thousand; 0.5 with up to 16,384 embeddings",
        type=number_or_none(float),
        least=0,
        most=0.5,
    )

    name: ClassVar[str] = "semantic"
    place: ClassVar[int] = 40
    about: ClassVar[str] = "near embeddings"

    def check(self) -> None:
        """See CheckedOptions."""
        super().check()
        if not 0 < self.eps < 1:
            raise OptionError(f"--eps is {self.eps}; give a number above 0 and below 1, such as 0.01")

    def check_with(self, methods: tuple[str, ...], named_by: str, keep_by: str) -> None:
        """See MethodOptions."""
        if keep_by in ("hard", "easy") and self.name not in methods:
            raise OptionError(f"--keep_by {keep_by} needs the clusters of semantic; add it to --{named_by}")

    def method(self) -> Method:
        """See MethodOptions."""
        from beam_curate.duplicates.methods.semantic import Semantic

        return Semantic(self.eps, self.n_clusters, self.border)
