"""The page of a report: its sections, made of what was found in a run."""

import json
import math
from typing import Any, Final, NamedTuple

from beam_curate.reasons import DESCRIPTIONS
from beam_curate.records import FAILED, KEPT, REJECTED
from beam_curate.report.charts import funnel_bar, histogram
from beam_curate.report.data import AT_LEAST, BELOW, ReportData
from beam_curate.report.duplicate_figures import duplicates_section, used_section
from beam_curate.report.duplicates import ShownDuplicates
from beam_curate.report.figures import Images, gallery_section
from beam_curate.report.html import Child, Element, count, foreign, page, share, shorten, table, tag
from beam_curate.report.samples import MAX_FAILURES
from beam_curate.report.spread import Distribution
from beam_curate.report.style import STYLE
from beam_curate.report.table import RANDOM
from beam_curate.runs.configuration import SCORE, Funnel
from beam_curate.runs.summary import Summary
from beam_curate.scores.rules_in_force import Step, duplicates, rules, steps
from beam_curate.storage.json_records import to_json
from beam_curate.tars.skipped import KINDS, lost

_MAX_JSON: Final = 60_000  # characters of the configuration
_BLURRED_FROM: Final = 0.5  # NSFW score, where the run has no threshold
_PASSING: Final = (0.95, 0.75, 0.5, 0.25, 0.05)


class DuplicatesShown(NamedTuple):
    """What is shown of the run's own duplicates table, and the pictures of all samples in it, by place."""

    shown: ShownDuplicates
    images: Images


def render(
    summary: Summary,
    data: ReportData,
    images: Images,
    duplicates: DuplicatesShown | None = None,
    *,
    preview_of: str = "",
) -> bytes:
    """The document.

    Args:
        summary: summary.json, or what it would say.
        data: What was found in the score table.
        images: The pictures of the samples in `data.galleries`, by place.
        duplicates: What is shown of the run's own duplicates table; None if it has none.
        preview_of: The folder of the score table on which rules were only tried; empty for a run.
    """
    title = "Preview of a selection" if preview_of else "Curation report"
    funnel = summary.funnel
    blur_from = _blur_from(summary, data)
    pattern = summary.input.pattern or ""
    body = tag(
        "body",
        tag(
            "header",
            tag("h1", title),
            tag("p", foreign(str(pattern), 300, "code"), " · ", _facts(summary), class_="quiet"),
        ),
        tag(
            "main",
            _preview_note(preview_of) if preview_of else None,
            *_warnings(summary, data),
            _funnel_section(summary, data),
            _duplicates_section(summary, duplicates, blur_from),
            *(_score_section(distribution, data, images, blur_from) for distribution in data.distributions),
            _random_section(data, images, blur_from),
            _failures_section(funnel, data),
            _run_section(summary),
        ),
    )
    return page(title, STYLE, body)


def _preview_note(source: str) -> Element:
    text = (
        " The rules were tried on the score table of ",
        foreign(source, 300, "code"),
        "; what is called kept or rejected here is what select.py would keep or reject with the same options.",
    )
    return tag("div", tag("strong", "A preview: nothing was selected."), *text, class_="box notice", role="note")


def _blur_from(summary: Summary, data: ReportData) -> float:
    """The NSFW score from which pictures are blurred."""
    if summary.scores_meaningless:
        return math.inf
    found = [distribution.bounds for distribution in data.distributions if distribution.column == "nsfw"]
    limits = [value for bounds in found for name, value in bounds if name.endswith(BELOW)]
    return min(limits, default=_BLURRED_FROM)


def _facts(summary: Summary) -> str:
    shards = f"{count(summary.input_shards)} input shards, {count(summary.output_shards)} output shards"
    words = [shards, summary.configuration.clip_model, summary.started]
    return " · ".join(shorten(str(word), 100) for word in words if word)


def _warnings(summary: Summary, data: ReportData) -> list[Element]:
    funnel, found = summary.funnel, []
    if summary.scores_meaningless:
        names = " and ".join(map(str, summary.random or ())) or "weights"
        text = f" Random {names}: they show that the run works, and nothing about the images."
        found.append(tag("div", tag("strong", "The scores are meaningless."), text, class_="box alarm", role="note"))
    texts = []
    if funnel.input and funnel.failed == funnel.input:
        texts.append(("All samples failed.", " See the failures below."))
    elif funnel.input and not funnel.kept:
        texts.append(("Nothing was kept.", " No sample passes all the rules."))
    for distribution in data.distributions:
        for (name, value), below in zip(distribution.bounds, distribution.below, strict=True):
            rejected = below if name.endswith(AT_LEAST) else distribution.count - below
            if distribution.count and rejected < 0.01 * distribution.count:
                texts.append((f"{name} {value:g} rejects almost nothing:", f" {share(rejected, distribution.count)}."))
            elif distribution.count and rejected > 0.99 * distribution.count:
                texts.append(
                    (f"{name} {value:g} rejects almost everything:", f" {share(rejected, distribution.count)}.")
                )
    if any(data.statuses[status] != getattr(funnel, status) for status in (KEPT, REJECTED, FAILED)):
        words = ", ".join(f"{count(data.statuses[status])} {status}" for status in (KEPT, REJECTED, FAILED))
        texts.append(("Charts and funnel differ:", f" the score table gives {words}."))
    return found + [tag("div", tag("strong", title), rest, class_="box notice", role="note") for title, rest in texts]


def _funnel_section(summary: Summary, data: ReportData) -> Element:
    funnel = summary.funnel
    total = funnel.input
    tiles = [
        tag(
            "div",
            tag("dt", name),
            tag(
                "dd",
                tag("b", count(getattr(funnel, name))),
                tag("span", share(getattr(funnel, name), total) if name != "input" else "samples"),
            ),
            class_=f"tile tile-{name}",
        )
        for name in ("input", KEPT, REJECTED, FAILED)
    ]
    rows: list[list[Child]] = []
    for reason, number in funnel.reasons.items():
        status = FAILED if reason in data.failures.counts else REJECTED
        badge = tag("span", status, class_=f"badge badge-{status}")
        about = DESCRIPTIONS.get(reason, "")
        rows.append([foreign(reason, 100, "code"), badge, count(number), share(number, total), about])
    head = ("Reason", "Status", "Samples", "Share of input", "What it means")
    reasons = table(head, rows, "Why samples were not kept", (2, 3)) if rows else None
    counts = lost(summary.skipped)
    others: list[list[Child]] = [[tag("code", kind), count(counts[kind]), KINDS.get(kind, "")] for kind in counts]
    title = "Members of the input without a row of their own"
    skipped = table(("Kind", "Members", "What it means"), others, title, (1,)) if others else None
    bar = funnel_bar([(name, getattr(funnel, name)) for name in (KEPT, REJECTED, FAILED)])
    rules = _rules(summary)
    return tag(
        "section",
        tag("h2", "What became of the samples"),
        tag("dl", *tiles, class_="tiles"),
        bar,
        rules,
        reasons,
        skipped,
    )


def _duplicates_section(summary: Summary, duplicates: DuplicatesShown | None, blur_from: float) -> Element | None:
    """The duplicates that the run found, or those of another folder that it used."""
    if duplicates is not None:
        return duplicates_section(duplicates.shown, duplicates.images, blur_from)
    rule = summary.configuration.duplicates
    if rule is None or rule.found is None:
        return None
    return used_section({**to_json(rule), **rule.found}, summary.input.duplicates or "")


def _rules(summary: Summary) -> Element:
    """The rules of all steps whose verdicts count as options; those that are off are left out."""
    lines = [words for step in steps(summary.configuration) if (words := _options(step, summary))]
    spaced = [part for words in lines for part in (", then", *words)]
    return tag("p", "Rules:", *spaced[1:]) if spaced else tag("p", "No rule is set: all that did not fail is kept.")


def _options(step: Step, summary: Summary) -> list[Child]:
    given = rules(step)
    found = duplicates(step)
    if found and step.step == SCORE:
        found["dedup"] = found.pop("methods")
    if step.duplicates and step.duplicates.found is not None:
        found = {"duplicates": summary.input.duplicates}
    if step.duplicates and step.duplicates.against:
        found["against"] = step.duplicates.against
    words = [foreign(f"--{name} {value}", 200, "code") for name, value in {**given, **found}.items()]
    return [part for word in words for part in (" ", word)]


def _score_section(distribution: Distribution, data: ReportData, images: Images, blur_from: float) -> Element:
    name = "shorter side in pixels" if distribution.column == "side" else distribution.column
    verdicts = [
        _verdict(distribution, bound, value, below)
        for (bound, value), below in zip(distribution.bounds, distribution.below, strict=True)
    ] or [tag("p", "No threshold is set.", class_="verdict")]
    if not distribution.count:
        return tag("section", tag("h2", foreign(name, 60)), tag("p", "No sample has a value."))
    mean = f"mean {distribution.mean:.4g}"
    facts = f"{count(distribution.count)} values, {distribution.lowest:.4g} to {distribution.highest:.4g}, {mean}"
    if distribution.missing:
        facts += f"; {count(distribution.missing)} samples without a value"
    facts += f"; the tallest bar is {count(int((distribution.kept + distribution.rejected).max()))}"
    legend = tag(
        "p",
        *(part for status in (KEPT, REJECTED) for part in (tag("i", class_=f"key key-{status}"), f"{status} ")),
        tag("span", facts, class_="quiet"),
        class_="legend",
    )
    galleries = [
        gallery_section(gallery, images, blur_from)
        for gallery in data.galleries
        if gallery.column == distribution.column
    ]
    return tag(
        "section",
        tag("h2", foreign(name, 60)),
        *verdicts,
        histogram(distribution),
        legend,
        _others(distribution),
        tag("div", *galleries, class_="galleries"),
    )


def _verdict(distribution: Distribution, bound: str, value: float, below: int) -> Element:
    above, total = distribution.count - below, distribution.count
    passing = above if bound.endswith(AT_LEAST) else below
    return tag(
        "p",
        tag("strong", f"{bound} {value:g}"),
        f" lets {share(passing, total)} pass: ",
        tag("b", count(below)),
        " samples below it, ",
        tag("b", count(above)),
        " at or above.",
        class_="verdict",
    )


def _others(distribution: Distribution) -> Element | None:
    """How many samples other thresholds would let pass: at the edges of bins, where the counts are exact."""
    upper = any(bound.endswith(BELOW) for bound, _ in distribution.bounds)
    totals = (distribution.kept + distribution.rejected).tolist()
    below = [sum(totals[:place]) for place in range(len(totals) + 1)]
    whole = distribution.count
    passing = below if upper else [whole - number for number in below]
    places = sorted(
        {min(range(len(passing)), key=lambda at: (abs(passing[at] - part * whole), at)) for part in _PASSING}
    )
    sign = "<" if upper else "≥"
    rows: list[list[Child]] = [
        [f"{sign} {distribution.edges[at]:.6g}", count(passing[at]), share(passing[at], whole)] for at in places
    ]
    head = ("If kept were", "Samples", "Share")
    shown = table(head, rows, "What other thresholds would let pass", (1, 2))
    return tag("details", tag("summary", "Other thresholds"), shown)


def _random_section(data: ReportData, images: Images, blur_from: float) -> Element:
    galleries = [gallery_section(gallery, images, blur_from) for gallery in data.galleries if gallery.column == RANDOM]
    return tag("section", tag("h2", "Samples drawn by chance"), tag("div", *galleries, class_="galleries"))


def _failures_section(funnel: Funnel, data: ReportData) -> Element:
    groups: list[Child] = []
    for reason, rows in sorted(data.failures.rows.items(), key=lambda item: (-data.failures.counts[item[0]], item[0])):
        number = data.failures.counts[reason]
        cells: list[list[Child]] = [
            [
                foreign(row.key or "(whole shard or a damaged spot)", 100, class_="name"),
                row.step,
                foreign(row.message, 250),
                foreign(row.shard.rstrip("/").rpartition("/")[2], 80, "code"),
            ]
            for row in rows
        ]
        shown = f"the first {MAX_FAILURES}" if number > len(rows) else "all of them"
        head = tag("summary", foreign(reason, 100, "code"), f" {count(number)}")
        about = tag("p", f"{DESCRIPTIONS.get(reason, '')} — {shown}:".lstrip(" —"), class_="quiet")
        groups.append(tag("details", head, about, table(("Key", "Step", "Message", "Shard"), cells, "Failed samples")))
    none = None if groups else tag("p", "No sample failed.")
    title = f"Failures: {count(getattr(funnel, FAILED))} ({share(getattr(funnel, FAILED), funnel.input)})"
    return tag("section", tag("h2", title), none, *groups)


def _run_section(summary: Summary) -> Element:
    rows: list[list[Child]] = [[name, value] for name, value in _speed(summary)]
    speed = table(("Measure", "Value"), rows, "Throughput", (1,)) if rows else None
    said = to_json(summary)
    rest = {name: value for name, value in said.items() if name not in ("funnel", "configuration")}
    return tag(
        "section",
        tag("h2", "The run"),
        speed,
        _json("Configuration", said["configuration"]),
        _json("Models, versions and everything else", rest),
    )


def _json(title: str, value: Any) -> Element:
    text = json.dumps(value, indent=2, ensure_ascii=True)
    cut = "" if len(text) <= _MAX_JSON else "\n… (the rest is in summary.json)"
    return tag("details", tag("summary", title), tag("pre", text[:_MAX_JSON] + cut, tabindex="0"))


def _speed(summary: Summary) -> list[tuple[str, str]]:
    """What the summary tells of time; runs may tell nothing."""
    found = []
    seconds = summary.more.get("seconds")
    if isinstance(seconds, int | float) and seconds > 0:
        found += [
            ("Wall time", f"{seconds:,.1f} s"),
            ("Samples a second", f"{summary.funnel.input / seconds:,.1f}"),
        ]
    for name in ("throughput", "timings"):
        inner = summary.more.get(name)
        if isinstance(inner, dict):
            numbers = {key: value for key, value in inner.items() if isinstance(value, int | float)}
            found += [(shorten(f"{name}: {key}", 100), f"{value:,.6g}") for key, value in numbers.items()]
    return found
