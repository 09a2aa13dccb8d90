"""The page of a report: what its template is given, made of what was found in a run."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from beam_curate.reasons import DESCRIPTIONS
from beam_curate.records import FAILED, KEPT, REJECTED
from beam_curate.report.changes import HERE, THERE, Changes
from beam_curate.report.charts import Chart, funnel_bar, histogram
from beam_curate.report.data import ReportData
from beam_curate.report.duplicate_figures import (
    duplicate_words,
    group_title,
    limits,
    member_facts,
    member_method,
    member_verdict,
)
from beam_curate.report.duplicates import ShownDuplicates
from beam_curate.report.html import count, document, share, shorten
from beam_curate.report.plan import AT_LEAST, BELOW
from beam_curate.report.samples import MAX_FAILURES, Gallery
from beam_curate.report.sliders import is_census, picture_places, slider_columns, slider_data
from beam_curate.report.spread import Distribution
from beam_curate.report.table import RANDOM, Place
from beam_curate.report.thumbnails import Thumbnail
from beam_curate.runs.configuration import SCORE
from beam_curate.runs.summary import Summary
from beam_curate.scores.rules_in_force import Step, duplicates, rules, steps
from beam_curate.storage.json_records import to_json
from beam_curate.tars.skipped import KINDS, lost

_MAX_JSON: Final = 60_000  # characters of the configuration
_BLURRED_FROM: Final = 0.5  # NSFW score, where the run has no threshold
_PASSING: Final = (0.95, 0.75, 0.5, 0.25, 0.05)
_STATUSES: Final = (KEPT, REJECTED, FAILED)
_TITLES: Final = {"side": "shorter side in pixels", "size": "size in bytes"}

Images = Mapping[Place, Thumbnail]


class DuplicatesShown(NamedTuple):
    """What is shown of the run's own duplicates table, and the pictures of all samples in it, by place."""

    shown: ShownDuplicates
    images: Images


class Verdict(NamedTuple):
    """What a threshold does: its name and value, the part that passes, and the samples below it and at or above."""

    name: str
    value: float
    passing: str
    below: int
    above: int


class Score(NamedTuple):
    """What is shown of a column."""

    title: str
    distribution: Distribution
    chart: Chart | None
    verdicts: Sequence[Verdict]
    others: Sequence[tuple[str, int, str]]
    galleries: Sequence[Gallery]


def render(
    summary: Summary,
    data: ReportData,
    duplicates: DuplicatesShown | None = None,
    *,
    folder: str,
    preview: bool = False,
) -> bytes:
    """The document.

    Args:
        summary: summary.json, or what it would say.
        data: What was found in the score table.
        duplicates: What is shown of the run's own duplicates table; None if it has none.
        folder: The run, or the one with the score table on which rules were only tried.
        preview: Whether rules were only tried.
    """
    blur_from = _blur_from(summary, data)
    rule = summary.configuration.duplicates
    used = rule if rule is not None and rule.found is not None else None
    searched = folder if duplicates is not None else (summary.input.duplicates or "") if used else ""
    found = duplicates.shown.found.rule if duplicates is not None else used
    columns = slider_columns(data)
    scores = [_score(distribution, data) for distribution in data.distributions]
    split = len(data.plan.deciding)
    counts = _counts(summary)
    return document(
        "page.html",
        title="Preview of a selection" if preview else "Curation report",
        preview_of=folder if preview else "",
        pattern=summary.input.pattern or "",
        facts=_facts(summary),
        funnel=summary.funnel,
        counts=counts,
        statuses=_STATUSES,
        alarm=_alarm(summary),
        notices=list(_notices(summary, data)),
        bar=funnel_bar([(name, counts[name]) for name in _STATUSES]),
        rules=_rules(summary),
        descriptions=DESCRIPTIONS,
        failures=data.failures,
        max_failures=MAX_FAILURES,
        skipped=lost(summary.skipped),
        skipped_kinds=KINDS,
        columns=columns,
        added=data.plan.selection.added,
        census=is_census(data.drawn.rows, data.judgeable),
        drawn=len(data.drawn.rows.number),
        judgeable=data.judgeable,
        sliders=slider_data(data, columns, folder, searched, blur_from),
        deciding=scores[:split],
        further=scores[split:],
        chance=[gallery for gallery in data.galleries if gallery.column == RANDOM],
        shown=data.shown,
        pictures=picture_places(data),
        blur_from=blur_from,
        duplicates=duplicates,
        duplicate_words=duplicate_words(found, found.found) if found and found.found else None,
        duplicates_of=searched,
        limits=limits,
        group_title=group_title,
        member_facts=member_facts,
        member_method=member_method,
        member_verdict=member_verdict,
        origins=data.origins,
        changes=_changed(data),
        speed=list(_speed(summary)),
        details=_details(summary),
    )


class Changed(NamedTuple):
    """What is shown of the run that this one is compared with: its folder, counts, and where on each score they differ."""

    against: str
    changes: Changes
    charts: Sequence[tuple[str, Chart]]


def _changed(data: ReportData) -> Changed | None:
    if data.changes is None or data.plan.against is None:
        return None
    found = [spread.distribution() for spread in data.changes.spreads.values()]
    charts = [
        (each.column, histogram(each, (HERE, THERE)))
        for each in found
        if each.count and each.column in data.plan.deciding
    ]
    return Changed(data.plan.against.verdicts or data.plan.against.scores, data.changes, charts)


def _blur_from(summary: Summary, data: ReportData) -> float:
    """The NSFW score from which pictures are blurred."""
    if summary.scores_meaningless:
        return math.inf
    found = [distribution.bounds for distribution in data.distributions if distribution.column == "nsfw"]
    limits = [value for bounds in found for name, value in bounds if name.endswith(BELOW)]
    return min(limits, default=_BLURRED_FROM)


def _facts(summary: Summary) -> str:
    numbers = {"input": summary.input_shards, "output": summary.output_shards}
    shards = ", ".join(f"{count(number)} {name} shard{'' if number == 1 else 's'}" for name, number in numbers.items())
    words = [shards, summary.configuration.clip_model, summary.started]
    return " · ".join(shorten(str(word), 100) for word in words if word)


def _alarm(summary: Summary) -> str:
    """What is random, so that the scores mean nothing; empty if they mean something."""
    return (", ".join(map(str, summary.random or ())) or "weights") if summary.scores_meaningless else ""


def _counts(summary: Summary) -> dict[str, int]:
    """The funnel by name."""
    funnel = summary.funnel
    return {"input": funnel.input, KEPT: funnel.kept, REJECTED: funnel.rejected, FAILED: funnel.failed}


def _notices(summary: Summary, data: ReportData) -> Iterator[tuple[str, str]]:
    """What looks wrong, each with a heading."""
    funnel = summary.funnel
    if funnel.input and funnel.failed == funnel.input:
        yield "All samples failed.", "See the failures below."
    elif funnel.input and not funnel.kept:
        yield "Nothing was kept.", "No sample passes all the rules."
    for distribution in data.distributions:
        total = distribution.count
        for (name, value), below in zip(distribution.bounds, distribution.below, strict=True):
            rejected = below if name.endswith(AT_LEAST) else total - below
            if total and rejected < 0.01 * total:
                yield f"{name} {value:g} rejects almost nothing:", f"{share(rejected, total)}."
            elif total and rejected > 0.99 * total:
                what = "all samples" if rejected == total else "almost everything"
                yield f"{name} {value:g} rejects {what}:", f"{share(rejected, total)}."
    counts = _counts(summary)
    if any(data.statuses[status] != counts[status] for status in _STATUSES):
        words = ", ".join(f"{count(data.statuses[status])} {status}" for status in _STATUSES)
        yield "Charts and funnel differ:", f"the score table gives {words}."


def _rules(summary: Summary) -> list[list[str]]:
    """The rules of all steps whose verdicts count, as options; those that are off are left out."""
    return [words for step in steps(summary.configuration) if (words := _options(step, summary))]


def _options(step: Step, summary: Summary) -> list[str]:
    found = duplicates(step)
    if found and step.step == SCORE:
        found["dedup"] = found.pop("methods")
    if step.duplicates and step.duplicates.found is not None:
        found = {"duplicates": summary.input.duplicates}
    if step.duplicates and step.duplicates.against:
        found["against"] = step.duplicates.against
    return [f"--{name} {value}" for name, value in {**rules(step), **found}.items()]


def _score(distribution: Distribution, data: ReportData) -> Score:
    column = distribution.column
    return Score(
        _TITLES.get(column, column),
        distribution,
        histogram(distribution) if distribution.count else None,
        [
            _verdict(distribution, bound, value, below)
            for (bound, value), below in zip(distribution.bounds, distribution.below, strict=True)
        ],
        _others(distribution),
        [gallery for gallery in data.galleries if gallery.column == column],
    )


def _verdict(distribution: Distribution, bound: str, value: float, below: int) -> Verdict:
    above = distribution.count - below
    passing = above if bound.endswith(AT_LEAST) else below
    return Verdict(bound, value, share(passing, distribution.count), below, above)


def _others(distribution: Distribution) -> list[tuple[str, int, str]]:
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
    return [(f"{sign} {distribution.edge(at)}", passing[at], share(passing[at], whole)) for at in places]


def _details(summary: Summary) -> list[tuple[str, str]]:
    """The configuration and the rest of the summary as text."""
    said = to_json(summary)
    rest = {name: value for name, value in said.items() if name not in ("funnel", "configuration")}
    titled = {"Configuration": said["configuration"], "Models, versions and everything else": rest}
    texts = {title: json.dumps(value, indent=2, ensure_ascii=True) for title, value in titled.items()}
    cut = "\n… (the rest is in summary.json)"
    return [(title, text[:_MAX_JSON] + (cut if len(text) > _MAX_JSON else "")) for title, text in texts.items()]


def _speed(summary: Summary) -> Iterator[tuple[str, str]]:
    """What the summary tells of time; runs may tell nothing."""
    seconds = summary.more.get("seconds")
    if isinstance(seconds, int | float) and seconds > 0:
        yield "Wall time", f"{seconds:,.1f} s"
        yield "Samples a second", f"{summary.funnel.input / seconds:,.1f}"
    for name in ("throughput", "timings"):
        inner = summary.more.get(name)
        for key, value in inner.items() if isinstance(inner, dict) else ():
            if isinstance(value, int | float):
                yield shorten(f"{name}: {key}", 100), f"{value:,.6g}"
