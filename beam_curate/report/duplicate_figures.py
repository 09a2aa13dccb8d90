"""The section of a report on duplicates: whether --eps and --max_distance are right, seen from pairs, and the largest groups."""

import math
from collections.abc import Mapping
from typing import Any, Final

from beam_curate.duplicates.method import Method
from beam_curate.duplicates.methods import method_named
from beam_curate.duplicates.search import KEEP
from beam_curate.records import KEPT
from beam_curate.report.duplicates import DuplicateGroup, GroupMember, Pair, ShownDuplicates
from beam_curate.report.figures import Images, frame, number
from beam_curate.report.html import Child, Element, count, foreign, share, shorten, table, tag
from beam_curate.report.samples import Row

_UNFOLDED: Final = 4
"""Groups that are seen at once; a reader unfolds the others."""
_KEPT_BY: Final = {
    "largest": "the one with the most pixels",
    "first": "the first in the input",
    "hard": "the one farthest from its cluster's centre",
    "easy": "the one nearest to its cluster's centre",
}


def duplicates_section(shown: ShownDuplicates, images: Images, blur_from: float) -> Element:
    """The section.

    Args:
        shown: What is shown.
        images: The pictures of all samples in it, by place.
        blur_from: See gallery_section.
    """
    return tag(
        "section",
        tag("h2", "Duplicates"),
        *_counts(shown.found),
        *(child for name in shown.found["methods"] for child in _pairs(method_named(name), shown, images, blur_from)),
        *(_groups(shown, images, blur_from) if shown.groups else ()),
    )


def used_section(found: Mapping[str, Any], folder: str) -> Element:
    """What a run tells of a duplicates table of another folder, which it used.

    Args:
        found: What the table's summary says, in numbers.
        folder: The folder.
    """
    words = "; the report.html there shows pairs and groups, if that run wrote shards."
    where = tag("p", "Of the duplicates table in ", foreign(folder, 300, "code"), words)
    return tag("section", tag("h2", "Duplicates"), *_counts(found), where)


def _counts(found: Mapping[str, Any]) -> list[Element]:
    total = found["duplicates"]
    many = f" in {count(found['groups'])} groups, the largest of {count(found['largest_group'])}." if total else "."
    rows: list[list[Child]] = []
    for name in found["methods"]:
        number_found = found["by_method"].get(name, 0)
        alike = method_named(name).alike
        rows.append([tag("code", name), count(number_found), share(number_found, total), alike])
    head = ("Method", "Duplicates", "Share", "What is alike")
    caption = "How they were found: each counts once, by the surest method"
    notes = [tag("p", tag("strong", f"{count(total)} duplicates"), many, class_="verdict"), _what_is_kept(found)]
    return [*notes, table(head, rows, caption, (1, 2))]


def _what_is_kept(found: Mapping[str, Any]) -> Element:
    if found["between_datasets"]:
        what = "only these are kept" if found["action"] == KEEP else "these are rejected"
        return tag("p", f"A duplicate is a sample that is in the other dataset too; {what}.")
    by = _KEPT_BY.get(found["keep_by"])
    better = by or tag("span", "the one with the highest ", foreign(found["keep_by"], 60, "code"))
    return tag("p", "Of a group one sample is kept, of those that the other rules keep: ", better, ".")


def _pairs(method: type[Method], shown: ShownDuplicates, images: Images, blur_from: float) -> list[Element]:
    """Pairs on both sides of the limit of a method that has one."""
    value = shown.found.get(method.option)
    if not method.option or value is None:
        return []
    option, limit = f"--{method.option} {value:g}", method.measured(method.limit(value), value)
    title = tag("h3", f"Is {option} right?")
    pairs = [pair for pair in shown.pairs if pair.method == method.name]
    if not pairs:
        return [title, tag("p", f"No two samples were seen with a {method.measure} near {limit}.")]
    above, below = ([pair for pair in pairs if pair.duplicate is side] for side in (True, False))
    line = tag("p", tag("b", option), f" · {method.measure} {limit}", class_="line")
    tiles = [
        *(_pair(pair, value, shown, images, blur_from) for pair in above),
        *([] if above else [tag("p", "No pair is above the line.", class_="none")]),
        line,
        *(_pair(pair, value, shown, images, blur_from) for pair in below),
        *([] if below else [tag("p", "No pair was seen below the line.", class_="none")]),
    ]
    advice = (
        "Pairs drawn by chance, the most similar first. Above the line they count as duplicates: if you see different pictures "
        "there, take a smaller value. Below it they do not: if you see the same picture twice there, take a larger one."
    )
    return [title, tag("p", advice), tag("div", *tiles, class_="pairs")]


def _pair(pair: Pair, value: float, shown: ShownDuplicates, images: Images, blur_from: float) -> Element:
    rows = [shown.rows.get(place) for place in pair.places]
    frames = [frame(row, images[place], blur_from) for place, row in zip(pair.places, rows, strict=True)]
    names = [_name(row) for row in rows]
    verdict = "duplicate" if pair.duplicate else "kept apart"
    caption = tag(
        "figcaption",
        tag(
            "span",
            tag("b", method_named(pair.method).measured(pair.similarity, value)),
            f" {verdict}",
            class_="similarity",
        ),
        tag("div", *names, class_="both"),
    )
    kind = "pair pair-duplicate" if pair.duplicate else "pair pair-apart"
    return tag("figure", tag("div", *frames, class_="both"), caption, class_=kind)


def _name(row: Row | None) -> Element:
    """The key of a sample, and that it is of the other dataset."""
    key = foreign(row.key, 60, class_="name") if row else None
    badge = tag("span", "other dataset", class_="badge") if row is None or row.other else None
    return tag("div", badge, key, class_="named")


def _groups(shown: ShownDuplicates, images: Images, blur_from: float) -> list[Element]:
    first = "of the other dataset" if shown.found["between_datasets"] else "that is kept"
    words = (
        f"The sample {first} comes first. The similarity of the others is that to the better sample they were found by."
    )
    groups = [_group(group, shown, images, blur_from) for group in shown.groups]
    more = tag(
        "details",
        tag("summary", f"{len(groups) - _UNFOLDED} more groups"),
        tag("div", *groups[_UNFOLDED:], class_="groups"),
    )
    largest = tag("div", *groups[:_UNFOLDED], class_="groups")
    return [tag("h3", "The largest groups"), tag("p", words), largest, *([more] if len(groups) > _UNFOLDED else [])]


def _group(group: DuplicateGroup, shown: ShownDuplicates, images: Images, blur_from: float) -> Element:
    rows = [shown.rows.get(member.place) for member in group.members]
    own = sum(not member.place.other for member in group.members)
    title = f"{count(group.size)} samples"
    if own < group.size:
        title += f", {count(own)} of them here"
    if own < len(rows):
        title += ", like one of the other dataset"
    elif not any(row and row.status == KEPT for row in rows):
        title += "; none of those here is kept"
    figures = [_figure(member, row, shown, images, blur_from) for member, row in zip(group.members, rows, strict=True)]
    return tag("div", tag("h4", title), tag("div", *figures, class_="figures"), class_="group")


def _figure(member: GroupMember, row: Row | None, shown: ShownDuplicates, images: Images, blur_from: float) -> Element:
    found = f"{member.method} {member.similarity:.4f}" if member.method == "semantic" else member.method
    if member.method == "perceptual":
        found = f"perceptual {round(64 * member.similarity)}/64 bits"
    facts = [f"{row.width} × {row.height}"] if row and row.width else []
    better = row.values.get(shown.found["keep_by"], math.nan) if row else math.nan
    if math.isfinite(better):
        facts.append(f"{shorten(shown.found['keep_by'], 20)} {number(better)}")
    caption = tag(
        "figcaption",
        _badge(member, row),
        tag("b", found) if found else None,
        *(tag("span", fact, class_="quiet") for fact in facts),
        foreign(row.key, 60, class_="name") if row else None,
    )
    return tag("figure", frame(row, images[member.place], blur_from), caption)


def _badge(member: GroupMember, row: Row | None) -> Element:
    """What became of a sample; of a rejected one the reason, unless its method says it."""
    if row is None or row.other:
        return tag("span", "other dataset", class_="badge")
    told = row.status == KEPT or (member.method and row.reason == f"duplicate_{member.method}")
    words = row.status if told else f"{row.status}: {row.reason}"
    return foreign(words, 80, "span", class_=f"badge badge-{row.status}")
