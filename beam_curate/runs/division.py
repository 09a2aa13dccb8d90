"""Division: how many samples an output file holds, and in which order they come."""

from dataclasses import dataclass
from numbers import Integral


@dataclass(frozen=True)
class Division:
    """How kept samples are divided over output files.

    Attributes:
        samples_per_shard: N; every file holds N samples, the last one the rest.
        seed: Shuffles the order of all kept samples; None keeps the source order.

    Raises:
        ValueError: A value cannot be one; it names the argument and what it takes.
    """

    samples_per_shard: int = 1000
    seed: int | None = None

    def __post_init__(self) -> None:
        if not _is_whole(self.samples_per_shard) or self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard is {self.samples_per_shard!r}; give a whole number of at least 1")
        if self.seed is not None and not _is_whole(self.seed):
            raise ValueError(f"seed is {self.seed!r}; give a whole number, or None for the source order")

    def files(self, samples: int) -> int:
        """How many files so many samples fill."""
        return -(-samples // self.samples_per_shard)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral)
