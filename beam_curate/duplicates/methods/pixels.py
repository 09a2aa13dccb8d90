"""Equal pixels in other bytes: the SHA-256 of the decoded image, upright."""

from dataclasses import dataclass
from typing import ClassVar

from beam_curate.duplicates.digests import EqualDigests


@dataclass(frozen=True)
class Pixels(EqualDigests):
    """Images of the same pixels."""

    name: ClassVar[str] = "pixels"
    place: ClassVar[int] = 20
    alike: ClassVar[str] = "the same pixels, in other bytes"
    columns: ClassVar[tuple[str, ...]] = ("pixels",)

    @classmethod
    def told(cls, similarity: float) -> str:
        """See Method."""
        del similarity
        return "the same pixels as"
