"""What another run over the same input keeps in place of this one: counts, where on each score, and pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

import numpy as np

from beam_curate.records import FAILED, KEPT, REJECTED
from beam_curate.report.samples import Gallery
from beam_curate.report.spread import Spread
from beam_curate.report.table import RANDOM, Rows
from beam_curate.runs.table_parts import TablePlace

BOTH: Final = "kept in both"
HERE: Final = "kept only here"
THERE: Final = "kept only there"
NEITHER: Final = "kept in neither"
PICTURES: Final = 12  # of each side


class OtherInputError(ValueError):
    """Two runs that are compared are over other inputs; the message names the part and the remedy."""


def _galleries() -> list[Gallery]:
    sides = (("Kept only here", KEPT), ("Kept only there", REJECTED))
    return [Gallery(title, RANDOM, True, status, size=PICTURES) for title, status in sides]


@dataclass
class Changes:
    """What differs in some parts.

    Attributes:
        counts: Samples by BOTH, HERE, THERE, NEITHER.
        statuses: Samples of the other run by status.
        spreads: Of each column: samples that are kept only here (as kept) and only there (as rejected).
        galleries: Some of each side, drawn by chance.
    """

    counts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    galleries: list[Gallery] = field(default_factory=_galleries)

    @classmethod
    def none(cls, bounds: Mapping[str, tuple[tuple[str, float], ...]]) -> "Changes":
        """Those of no part, by the thresholds on each column."""
        return cls(spreads={name: Spread.none(name, some) for name, some in bounds.items()})

    @classmethod
    def of(cls, bounds: Mapping[str, tuple[tuple[str, float], ...]], rows: Rows, other: TablePlace) -> "Changes":
        """Those of a part; reads the verdicts of the other run on it.

        Raises:
            OtherInputError: The part there is of other samples.
            ScoreTableError: There is none, or it is damaged.
        """
        group = rows.group
        with other.open(group.shard_index) as part:
            table = part.read(["key", "index", "status"])
        here = rows.table.select(["key", "index"])
        if not table.select(["key", "index"]).equals(here):
            raise OtherInputError(
                f"part {group.shard_index} of the score tables is of other samples in {other.verdicts or other.scores}; compare "
                "runs over the same `input`"
            )
        status = table.column("status").to_numpy(zero_copy_only=False)
        kept, kept_there = group.statuses[KEPT], status == KEPT
        sides = {KEPT: kept & ~kept_there, REJECTED: kept_there & ~kept}
        moved = group._replace(statuses={**sides, FAILED: ~(sides[KEPT] | sides[REJECTED])})
        found = cls.none(bounds)
        flags = {BOTH: kept & kept_there, HERE: sides[KEPT], THERE: sides[REJECTED], NEITHER: ~kept & ~kept_there}
        found.counts.update({name: int(np.count_nonzero(some)) for name, some in flags.items()})
        found.statuses.update(status.tolist())
        found.spreads = {name: Spread.of(name, some, moved) for name, some in bounds.items()}
        for gallery in found.galleries:
            gallery.look(moved)
        return found

    def empty(self) -> "Changes":
        """Those of no part, by the same thresholds."""
        return Changes.none({name: spread.bounds for name, spread in self.spreads.items()})

    def merge(self, other: "Changes") -> None:
        """Adds those of other parts."""
        self.counts.update(other.counts)
        self.statuses.update(other.statuses)
        self.spreads = {name: spread + other.spreads[name] for name, spread in self.spreads.items()}
        for gallery, found in zip(self.galleries, other.galleries, strict=True):
            gallery.merge(found.ranked)


def check_same_input(here: Sequence[str], there: Sequence[str], against: str) -> None:
    """Refuses to compare runs over other shards.

    Raises:
        OtherInputError: It names the first shard that differs.
    """
    for number, (one, two) in enumerate(zip_longest(here, there, fillvalue="")):
        if one != two:
            raise OtherInputError(
                f"{against} is over other shards: shard {number} is {two or 'none'} there and {one or 'none'} here; compare runs "
                "over the same `input`"
            )
