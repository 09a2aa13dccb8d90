"""What the script of a report works on: the rows that were drawn, pictures, and how a threshold is said to `select`."""

import base64
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from beam_curate import reasons
from beam_curate.report.data import ReportData
from beam_curate.report.drawn import Drawn
from beam_curate.report.html import shorten
from beam_curate.report.links import shard_link, web_link
from beam_curate.report.shown import Shown
from beam_curate.report.table import Place
from beam_curate.scores.rules import FACT_UNITS

COMMAND: Final = "beam-curate select"
PICTURE_BYTES: Final = 5_000_000
"""Of the pictures that only the script shows, and of what is known of all."""

_OPTIONS: Final = {("aesthetic", 0): "min_aesthetic", ("nsfw", 1): "max_nsfw", ("side", 0): "min_side"}
_DUPLICATES: Final = (
    reasons.DUPLICATE_EXACT, reasons.DUPLICATE_PIXELS, reasons.DUPLICATE_PERCEPTUAL, reasons.DUPLICATE_SEMANTIC,
    reasons.NOT_IN_OTHER,
)  # fmt: skip


def slider_columns(data: ReportData) -> list[dict[str, object]]:
    """For each column its range, the thresholds that count, and the options of `select` for them; those that decide first."""
    rows = data.drawn.rows
    found = []
    for name, low, high in zip(rows.columns, rows.lows.tolist(), rows.highs.tolist(), strict=True):
        if low > high:
            continue
        rules = [rule for rule in data.plan.thresholds if rule.column == name]
        least = max((rule.minimum for rule in rules if rule.minimum is not None), default=None)
        below = min((rule.maximum for rule in rules if rule.maximum is not None), default=None)
        ends = [value for value in (low, high, least, below) if value is not None]
        found.append(
            {
                "name": name,
                "place": rows.columns.index(name),
                "low": min(ends),
                "high": max(ends),
                "least": least,
                "below": below,
                "options": [_OPTIONS.get((name, 0)), _OPTIONS.get((name, 1))],
                "unit": FACT_UNITS.get(name, ""),
                "deciding": name in data.plan.deciding,
            }
        )
    return found


def slider_data(
    data: ReportData, columns: Sequence[Mapping[str, Any]], folder: str, duplicates: str, blur_from: float
) -> dict[str, object]:
    """The JSON for the script; numbers of the rows as they lie in memory, little-endian and in base64.

    Args:
        data: What was found.
        columns: Those of the sliders.
        folder: The run to select from.
        duplicates: The folder of its duplicates table; empty for none.
        blur_from: Pictures with this NSFW score or more are blurred.
    """
    rows, chances = data.drawn
    wide = not np.array_equal(rows.values, rows.values.astype(np.float32), equal_nan=True)
    return {
        "columns": columns,
        "total": data.judgeable,
        "wide": wide,
        "values": _base64(rows.values.T, "<f8" if wide else "<f4"),
        "chances": _base64(chances, "<f8"),
        "rest": _base64(rows.rest, "u1"),
        "duplicate": _base64(np.isin(rows.reason.astype(str), _DUPLICATES), "u1"),
        "pictures": _pictures(data, columns, blur_from),
        "command": f"{COMMAND} --scores {shlex.quote(folder)}",
        "duplicates": f" --duplicates {shlex.quote(duplicates)}" if duplicates else "",
        "keep": [rule.wanted for rule in data.plan.rest],
    }


def picture_places(data: ReportData) -> dict[Place, int]:
    """The samples with a picture by place, and their numbers: those that are seen without the script first."""
    places = [place for gallery in data.galleries for place in gallery.places]
    return {place: number for number, place in enumerate(dict.fromkeys([*places, *data.pictured]))}


def _pictures(data: ReportData, columns: Sequence[Mapping[str, Any]], blur_from: float) -> list[dict[str, object]]:
    """What is known of each sample with a picture; the pictures that the page shows anyway are not there twice."""
    static = {place for gallery in data.galleries for place in gallery.places}
    found, room = [], PICTURE_BYTES
    for place in picture_places(data):
        shown = data.shown[place]
        said = {
            **_said(shown, columns),
            "picture": "" if place in static else shown.picture.uri,
            "blurred": shown.row.values.get("nsfw", -math.inf) >= blur_from,
        }
        room -= len(json.dumps(said))
        if room < 0:
            break
        found.append(said)
    return found


def _said(shown: Shown, columns: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    row, picture = shown
    values = [row.values.get(column["name"], math.nan) for column in columns]
    return {
        "key": shorten(row.key, 300),
        "caption": shorten(row.caption, 500),
        "url": shorten(row.url, 300),
        "url_link": web_link(row.url),
        "shard": shorten(row.shard, 300),
        "shard_link": shard_link(row.shard),
        "status": row.status,
        "reason": shorten(row.reason, 100),
        "rest": row.rest,
        "duplicate": row.reason in _DUPLICATES,
        "values": [value if math.isfinite(value) else None for value in values],
        "size": [row.width, row.height],
        "sides": [picture.width, picture.height],
        "problem": picture.problem.replace("_", " "),
    }


def _base64(numbers: Any, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers, kind).tobytes()).decode("ascii")


def is_census(rows: Drawn, judgeable: int) -> bool:
    """Whether all rows were drawn, so that counts are exact."""
    return len(rows.number) == judgeable
