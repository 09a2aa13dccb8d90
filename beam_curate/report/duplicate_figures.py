"""What a report says of duplicates: whether --eps is right, seen from pairs around it, and the largest groups."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from beam_curate.duplicates.search import KEEP
from beam_curate.records import KEPT
from beam_curate.report.duplicates import DuplicateGroup, GroupMember, ShownDuplicates
from beam_curate.report.html import count, number, shorten
from beam_curate.report.rows import Row

_METHODS: Final = {
    "exact": "the same bytes",
    "pixels": "the same pixels, in other bytes",
    "perceptual": "the pHashes differ in few of 64 bits",
    "semantic": "the embeddings are near each other",
}
_KEPT_BY: Final = {
    "largest": "the one with the most pixels",
    "first": "the first in the input",
    "hard": "the one farthest from its cluster's centre",
    "easy": "the one nearest to its cluster's centre",
}


class DuplicateWords(NamedTuple):
    """What a search for duplicates found, in words.

    Attributes:
        counts: Duplicates, groups, the largest group.
        methods: Of each method its name, its duplicates, and what is alike.
        kept: Which one of a group is kept.
        by: The score by which it is the best, if it is one of the user's; else empty.
        cut: Embeddings that were compared in fewer clusters than they are near to.
        digits: Of a similarity.
    """

    counts: tuple[int, int, int]
    methods: Sequence[tuple[str, int, str]]
    kept: str
    by: str
    cut: int
    digits: int


def duplicate_words(found: Mapping[str, Any]) -> DuplicateWords:
    """The words for what the summary of a duplicates table says, in numbers."""
    methods = [(name, found["by_method"].get(name, 0), _METHODS[name]) for name in found["methods"]]
    if found["between_datasets"]:
        what = "only these are kept" if found["action"] == KEEP else "these are rejected"
        kept, by = f"A duplicate is a sample that is in the other dataset too; {what}.", ""
    else:
        known = _KEPT_BY.get(found["keep_by"])
        kept = (
            f"Of a group one sample is kept, of those that the other rules keep: {known or 'the one with the highest'}"
        )
        by = "" if known else found["keep_by"]
    counts = found["duplicates"], found["groups"], found["largest_group"]
    eps = found.get("eps")
    digits = min(6, max(4, 2 - math.floor(math.log10(eps)))) if eps else 4
    return DuplicateWords(counts, methods, kept, by, found["compared_in_fewer_clusters"], digits)


def group_title(group: DuplicateGroup, shown: ShownDuplicates) -> str:
    """How large a group is, and whether one of its samples is kept."""
    rows = [shown.rows.get(member.place) for member in group.members]
    own = sum(not member.place.other for member in group.members)
    title = f"{count(group.size)} samples"
    if own < group.size:
        title += f", {count(own)} of them here"
    if own < len(rows):
        title += ", like one of the other dataset"
    elif not any(row and row.status == KEPT for row in rows):
        title += "; none of those here is kept"
    return title


def member_method(member: GroupMember) -> str:
    """How a sample was found; empty for the best of a group."""
    if member.method == "semantic":
        return f"semantic {member.similarity:.4f}"
    return f"perceptual {round(64 * member.similarity)}/64 bits" if member.method == "perceptual" else member.method


def member_facts(row: Row | None, keep_by: str) -> list[str]:
    """What decides which sample of a group is the best."""
    facts = [f"{row.width} × {row.height}"] if row and row.width else []
    better = row.values.get(keep_by, math.nan) if row else math.nan
    return [*facts, f"{shorten(keep_by, 20)} {number(better)}"] if math.isfinite(better) else facts


def member_verdict(member: GroupMember, row: Row) -> str:
    """What became of a sample; of a rejected one the reason, unless its method says it."""
    told = row.status == KEPT or (member.method and row.reason == f"duplicate_{member.method}")
    return row.status if told else f"{row.status}: {row.reason}"
