"""What a report looks at: the scores and thresholds that it draws, and around which it looks for samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from beam_curate import reasons
from beam_curate.images.decoding import MAX_PIXELS
from beam_curate.report.table import stored_scores
from beam_curate.runs.table_parts import TablePlace
from beam_curate.scores.expressions import ExpressionError
from beam_curate.scores.rules import FACT_UNITS, KeepRule, Rule, keep_rule
from beam_curate.selection.rejudging import Selection

AT_LEAST: Final = "≥"
BELOW: Final = "<"
_DECIDING: Final = ("aesthetic", "nsfw")
"""Scores that decide, whether there is a threshold or not."""


@dataclass(frozen=True)
class ReportPlan:
    """What a report looks at.

    Attributes:
        selection: The table and what decides: without rules the verdicts in the table count.
        scores: The scores to draw.
        thresholds: The thresholds to draw and to look around.
        top: The column by which the best were taken; empty if they were not. Its lowest kept value is a threshold too.
        rest: What the rules ask beside thresholds.
        max_pixels: Larger images have no picture.
        against: The table of the run to compare with, if any.
    """

    selection: Selection
    scores: tuple[str, ...]
    thresholds: tuple[Rule, ...] = ()
    top: str = ""
    rest: tuple[KeepRule, ...] = ()
    max_pixels: int = MAX_PIXELS
    against: TablePlace | None = None

    @property
    def deciding(self) -> list[str]:
        """The columns that decide: those that usually do first."""
        tops = [self.top] if self.top else []
        usual = [name for name in _DECIDING if name in self.scores]
        return list(dict.fromkeys([*usual, *(rule.column for rule in self.thresholds), *tops]))

    @property
    def columns(self) -> list[str]:
        """The columns that are drawn: those that decide first."""
        return list(dict.fromkeys([*self.deciding, *self.scores]))

    def cut_at(self, lowest_kept: float) -> "ReportPlan":
        """The plan, with the lowest kept value of the top column."""
        if not self.top or not math.isfinite(lowest_kept):
            return self
        return replace(self, thresholds=(*self.thresholds, Rule(reasons.BELOW_TOP, self.top, minimum=lowest_kept)))

    def spreads(self) -> dict[str, tuple[tuple[str, float], ...]]:
        """By column the thresholds on it, as what passes and its value."""
        return {
            name: tuple(
                (f"{name} {sign}", float(value))
                for rule in self.thresholds
                for sign, value in ((AT_LEAST, rule.minimum), (BELOW, rule.maximum))
                if rule.column == name and value is not None
            )
            for name in self.columns
        }


def plan_report(
    selection: Selection,
    part: int | None,
    thresholds: Sequence[Rule],
    top: str = "",
    rest: Sequence[str] = (),
    max_pixels: object = None,
) -> ReportPlan:
    """Plans a report of a table.

    Args:
        selection: The table and what decides.
        part: The index of one of the table's parts; None if there are none.
        thresholds: The thresholds to draw and to look around; those on columns that the table does not have are left out.
        top: The column by which the best were taken, if they were.
        rest: Expressions: what the rules ask beside thresholds; those that the table's columns cannot answer are left out.
        max_pixels: The run's own bound on images, if it is known.

    Raises:
        ScoreTableError: The score table is of another version, or none.
        StorageError: The part cannot be read.
    """
    stored = () if part is None else stored_scores(selection.table, part)
    scores = (*stored, *selection.added)
    known = (*scores, *FACT_UNITS)
    on_known = tuple(rule for rule in thresholds if rule.column in known)
    rules = tuple(rule for text in rest for rule in _read_rule(text, scores))
    pixels = max_pixels if isinstance(max_pixels, int) else MAX_PIXELS
    return ReportPlan(selection, scores, on_known, top if top in known else "", rules, pixels)


def _read_rule(text: str, scores: Sequence[str]) -> tuple[KeepRule, ...]:
    try:
        return keep_rule(text, scores)
    except ExpressionError:
        return ()
