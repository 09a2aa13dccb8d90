"""What a report says of duplicates: whether --eps and --max_distance are right, seen from pairs, and the largest groups."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from beam_curate.duplicates.methods import method_named
from beam_curate.duplicates.search import KEEP
from beam_curate.records import KEPT
from beam_curate.report.duplicates import DuplicateGroup, GroupMember, Pair, ShownDuplicates
from beam_curate.report.html import count, number, shorten
from beam_curate.report.rows import Row
from beam_curate.runs.configuration import DuplicateCounts, DuplicateRule

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
    """

    counts: tuple[int, int, int]
    methods: Sequence[tuple[str, int, str]]
    kept: str
    by: str


def duplicate_words(rule: DuplicateRule, found: DuplicateCounts) -> DuplicateWords:
    """The words for what was looked for, and for what was found, in numbers."""
    methods = [(name, found.by_method.get(name, 0), method_named(name).alike) for name in rule.methods]
    if rule.between_datasets:
        what = "only these are kept" if rule.action == KEEP else "these are rejected"
        kept, by = f"A duplicate is a sample that is in the other dataset too; {what}.", ""
    else:
        keep_by = rule.keep_by or ""
        known = _KEPT_BY.get(keep_by)
        kept = (
            f"Of a group one sample is kept, of those that the other rules keep: {known or 'the one with the highest'}"
        )
        by = "" if known else keep_by
    return DuplicateWords((found.duplicates, found.groups, found.largest_group), methods, kept, by)


class Limit(NamedTuple):
    """Pairs on both sides of the limit of a method, with how similar they are in words.

    Attributes:
        option: The option that sets it, with its value.
        measure: What is measured of a pair.
        limit: The limit, measured.
        duplicates: Pairs that count as duplicates, the most similar first.
        apart: Those that do not.
    """

    option: str
    measure: str
    limit: str
    duplicates: Sequence[tuple[str, Pair]]
    apart: Sequence[tuple[str, Pair]]


def limits(shown: ShownDuplicates) -> list[Limit]:
    """Of each method that has a limit, in the order of the methods."""
    found = []
    for method in map(method_named, shown.found.methods):
        value = shown.found.value(method)
        if value is None:
            continue
        pairs = [(method.measured(pair.similarity, value), pair) for pair in shown.pairs if pair.method == method.name]
        found.append(
            Limit(
                f"--{method.option} {value:g}",
                method.measure,
                method.measured(method.limit(value), value),
                [(words, pair) for words, pair in pairs if pair.duplicate],
                [(words, pair) for words, pair in pairs if not pair.duplicate],
            )
        )
    return found


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


def member_method(member: GroupMember, shown: ShownDuplicates) -> str:
    """How a sample was found, and how similar it is if its method has a limit; empty for the best of a group."""
    method = method_named(member.method) if member.method else None
    value = shown.found.value(method) if method else None
    if method is None or value is None:
        return member.method
    return f"{member.method} {method.measured(member.similarity, value)}"


def member_facts(row: Row | None, keep_by: str) -> list[str]:
    """What decides which sample of a group is the best."""
    facts = [f"{row.width} × {row.height}"] if row and row.width else []
    better = row.values.get(keep_by, math.nan) if row else math.nan
    return [*facts, f"{shorten(keep_by, 20)} {number(better)}"] if math.isfinite(better) else facts


def member_verdict(member: GroupMember, row: Row) -> str:
    """What became of a sample; of a rejected one the reason, unless its method says it."""
    told = row.status == KEPT or (member.method and row.reason == f"duplicate_{member.method}")
    return row.status if told else f"{row.status}: {row.reason}"
