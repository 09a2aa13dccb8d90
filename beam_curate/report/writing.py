"""The report of a finished run: one HTML file without script that shows whether the thresholds are right."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from beam_curate.images import MAX_PIXELS
from beam_curate.report import page
from beam_curate.report.data import collect
from beam_curate.report.thumbnails import make_thumbnails
from beam_curate.rules import Rule, standard_rules
from beam_curate.storage import atomic_output, exists, join, read_json
from beam_curate.summary import SUMMARY

if TYPE_CHECKING:
    from beam_curate.rules import Condition

REPORT = "report.html"


class ReportError(ValueError):
    """There is nothing to report on; the message says what is missing and what to do."""


def write_report(output: str, *, scores: str | None = None, rules: "Sequence[Condition] | None" = None) -> str:
    """Writes `report.html` beside the summary of a finished run, atomically; returns its path.

    The file needs nothing else, is below 2 MB, and depends on the run alone: the same run gives the same bytes. Sources that are
    gone cost the pictures, no more. Memory is bounded whatever the size of the score table.

    Args:
        output: The run's folder, on any file system that Beam reads.
        scores: The folder of the score table's parts, or of the run that made them; None: the table of `output`.
        rules: What decides on kept and rejected in the charts and pictures, for a table whose column `status` was decided
            otherwise; None: that column. Thresholds are those of `rules`, else of the summary's configuration.

    Raises:
        ReportError: There is no summary or no score table.
        ScoreTableError: The score table is of another version, or none.
        StorageError: A file of the run cannot be read, or the report not be written.
    """
    if not exists(join(output, SUMMARY)):
        raise ReportError(f"{output} holds no finished run: {SUMMARY} is missing; finish the run with --resume first")
    summary = read_json(join(output, SUMMARY))
    configuration = summary.get("configuration") or {}
    data = collect(output, scores, rules, _thresholds(configuration, rules))
    if not data.parts:
        raise ReportError(
            f"there is no score table in {scores or output}: scores/part-*.parquet are missing; restore them"
        )
    limit = configuration.get("max_pixels")
    images = make_thumbnails(
        (row for gallery in data.galleries for row in gallery.rows), limit if isinstance(limit, int) else MAX_PIXELS
    )
    document = page.render(summary, data, images)
    with atomic_output(output, REPORT) as stream:
        stream.write(document)
    return join(output, REPORT)


def _thresholds(configuration: dict[str, Any], rules: "Sequence[Condition] | None") -> list[Rule]:
    if rules is not None:
        return [rule for rule in rules if isinstance(rule, Rule)]
    names = ("min_aesthetic", "max_nsfw", "min_side")
    values = {name: configuration.get(name) for name in names}
    return list(standard_rules(**{name: value for name, value in values.items() if _is_number(value)}))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
