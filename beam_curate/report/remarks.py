"""What sounds right and is off: thresholds outside the range of what they are compared with, and rules that keep nothing."""

from collections.abc import Iterator

from beam_curate.records import FAILED, KEPT, REJECTED
from beam_curate.report.data import ReportData
from beam_curate.report.html import count, number
from beam_curate.report.plan import AT_LEAST
from beam_curate.report.spread import Distribution


def remarks(data: ReportData) -> Iterator[str]:
    """Lines for whoever started the run, each with the numbers that explain it; none if nothing is off."""
    if data.statuses[REJECTED] and not data.statuses[KEPT]:
        yield _all_rejected(data)
    for distribution in data.distributions:
        for (name, value), below in zip(distribution.bounds, distribution.below, strict=True):
            passing = distribution.count - below if name.endswith(AT_LEAST) else below
            if distribution.count and passing in (0, distribution.count):
                does = "rejects no sample" if passing else "rejects every sample"
                yield f"{name} {value:g} {does}: {_range(distribution)}"


def _all_rejected(data: ReportData) -> str:
    """The rule that rejected the most, and between which values that lies which it reads."""
    total = data.statuses[REJECTED]
    failed = f", and {count(data.statuses[FAILED])} failed" if data.statuses[FAILED] else ""
    rejections = {reason: samples for reason, samples in data.reasons.items() if reason not in data.failures.counts}
    said = ", ".join(f"{reason} {count(samples)}" for reason, samples in rejections.items())
    first = next(iter(rejections), "")
    columns = {rule.column for rule in data.plan.thresholds if rule.reason == first}
    ranges = [_range(found) for found in data.distributions if found.column in columns and found.count]
    return f"all {count(total)} samples were rejected{failed}: {'; '.join([said, *ranges])}"


def _range(distribution: Distribution) -> str:
    return in_words(distribution.column, (distribution.lowest, distribution.highest))


def in_words(column: str, ends: tuple[float, float]) -> str:
    """Between which values a column lies.

    Args:
        column: Its name.
        ends: Its smallest and its largest value.
    """
    return f"{column} is {number(ends[0])} to {number(ends[1])} in this data"
