"""Equal bytes: the image's SHA-256."""

from dataclasses import dataclass
from typing import ClassVar

from beam_curate.duplicates.digests import EqualDigests


@dataclass(frozen=True)
class Exact(EqualDigests):
    """Images of the same bytes."""

    name: ClassVar[str] = "exact"
    place: ClassVar[int] = 10
    alike: ClassVar[str] = "the same bytes"
    columns: ClassVar[tuple[str, ...]] = ("sha256",)

    @classmethod
    def told(cls, similarity: float) -> str:
        """See Method."""
        del similarity
        return "the same bytes as"
