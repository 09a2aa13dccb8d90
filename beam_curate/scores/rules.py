"""Keep or reject: conditions on the columns of the score table, carried out on whole columns."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate import reasons
from beam_curate.scores.expression_bounds import out_of_reach
from beam_curate.scores.expressions import NUMBER, TEXT, Expression, ExpressionError, parse_expression
from beam_curate.scores.scales import SCALES, Scale, scale_problem

Columns = Mapping[str, pa.Array | pa.ChunkedArray]

_SHOWN_CHARACTERS: Final = 300

FACT_KINDS: Final[Mapping[str, str]] = {
    "width": NUMBER,
    "height": NUMBER,
    "side": NUMBER,
    "size": NUMBER,
    "format": TEXT,
    "caption": TEXT,
    "key": TEXT,
    "url": TEXT,
    "shard": TEXT,
}
"""The columns that rules can use beside the scores; `side` is the shorter of width and height, in pixels."""

FACT_UNITS: Final[Mapping[str, str]] = {"width": "pixels", "height": "pixels", "side": "pixels", "size": "bytes"}
"""The numbers among them, all of them whole, and what they count."""


class Condition(Protocol):
    """What decides on a row: `Rule` and `KeepRule`."""

    @property
    def reason(self) -> str:
        """The stable name that a rejected row carries."""

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns that it reads."""

    @property
    def wanted(self) -> str:
        """What keeps a row, in words."""

    def keeps(self, columns: Columns, rows: int) -> pa.BooleanArray:
        """Says for each of `rows` rows whether it passes: (N,) booleans without nulls."""


@dataclass(frozen=True)
class Rule:
    """Keeps a sample whose `column` is at least `minimum` and below `maximum` (None: that end is open).

    Attributes:
        reason: The stable name that a rejected row carries.
        column: A score's name, or a number of FACT_KINDS.
        minimum: Keep if value >= minimum.
        maximum: Keep if value < maximum: the upper bound is rejected, as NeMo Curator's NSFW filter does.
    """

    reason: str
    column: str
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        for bound in (self.minimum, self.maximum):
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"rule {self.reason}: the threshold is {bound}; give a finite number")

    @property
    def columns(self) -> Sequence[str]:
        """The one column."""
        return (self.column,)

    @property
    def wanted(self) -> str:
        """The bounds."""
        low = "" if self.minimum is None else f">= {self.minimum:g}"
        high = "" if self.maximum is None else f"< {self.maximum:g}"
        return f"{low} {high}".strip()

    def keeps(self, columns: Columns, rows: int) -> pa.BooleanArray:
        """Compares; a score that could not be computed, NaN or null, does not pass."""
        values = pc.cast(columns[self.column], pa.float64())
        passed = pc.invert(pc.is_null(values, nan_is_null=True))
        if self.minimum is not None:
            passed = pc.and_(passed, pc.greater_equal(values, self.minimum))
        if self.maximum is not None:
            passed = pc.and_(passed, pc.less(values, self.maximum))
        return pc.fill_null(passed, False)


@dataclass(frozen=True)
class KeepRule:
    """Keeps a sample for which an expression holds: the option `keep`.

    Attributes:
        expression: See `expressions`.
        reason: The stable name that a rejected row carries.
    """

    expression: Expression
    reason: str = reasons.NOT_KEPT_BY_RULE

    @property
    def columns(self) -> Sequence[str]:
        """The columns of the expression."""
        return self.expression.columns

    @property
    def wanted(self) -> str:
        """The expression as written."""
        return self.expression.text

    def keeps(self, columns: Columns, rows: int) -> pa.BooleanArray:
        """Evaluates the expression; unknown does not pass."""
        return self.expression.keeps(columns, rows)


def standard_rules(
    min_aesthetic: float | None = None, max_nsfw: float | None = None, min_side: int | None = None
) -> tuple[Rule, ...]:
    """The rules of the named options, in the order in which they are tried; None turns one off, 0 is a threshold."""
    rules = (
        Rule(reasons.SIDE_BELOW_MIN, "side", minimum=min_side),
        Rule(reasons.AESTHETIC_BELOW_MIN, "aesthetic", minimum=min_aesthetic),
        Rule(reasons.NSFW_ABOVE_MAX, "nsfw", maximum=max_nsfw),
    )
    return tuple(rule for rule in rules if rule.minimum is not None or rule.maximum is not None)


def keep_rule(
    text: str,
    scores: Iterable[str],
    reason: str = reasons.NOT_KEPT_BY_RULE,
    prompts: Mapping[str, Scale] = MappingProxyType({}),
) -> tuple[KeepRule, ...]:
    """The rule of `keep` or `screen`; none if the text is empty.

    Args:
        text: The expression.
        scores: The names of the scores.
        reason: The stable name that a rejected row carries.
        prompts: The scales of the scores from words, see `scales.prompt_scales`.

    Raises:
        ExpressionError: The expression cannot be understood, names a column that is not there, or compares
            something with a number that it cannot reach by the scales of its columns.
    """
    if not text.strip():
        return ()
    expression = parse_expression(text, {**dict.fromkeys(scores, NUMBER), **FACT_KINDS})
    if problem := out_of_reach(text, {**SCALES, **prompts}):
        raise ExpressionError(f"{text!r}: {problem}")
    return (KeepRule(expression, reason),)


def check_columns(rules: Iterable[Condition], scores: Sequence[str]) -> None:
    """Refuses a rule on a column that no score gives, and a threshold outside the scale of its column.

    Raises:
        ValueError: It names the rule, the column and the columns there are, or the scale.
    """
    known = (*scores, *FACT_KINDS)
    for rule in rules:
        if isinstance(rule, Rule) and (problem := scale_problem(rule.column, (rule.minimum, rule.maximum))):
            raise ValueError(f"rule {rule.reason}: {problem}")
        for column in rule.columns:
            if column not in known:
                raise ValueError(
                    f"rule {rule.reason} needs the score {column!r}, which is turned off; there are: "
                    f"{', '.join(known)}. Turn the rule off too, or the score on"
                )


def explain(names: Sequence[str], columns: Columns, places: npt.NDArray[np.int64], wanted: str) -> list[str]:
    """Says why rows are rejected: their values in the columns named, and what would keep them.

    Args:
        names: The columns that a rule reads.
        columns: These columns.
        places: (M,) the rejected rows.
        wanted: What keeps a row, in words.
    """
    taken = pa.array(places)
    shown = [[f"{name} is {value}" for value in _all_shown(columns[name].take(taken))] for name in names]
    # The rule is in the summary; a row need not repeat all of a long one.
    end = f"; kept if {wanted if len(wanted) <= _SHOWN_CHARACTERS else wanted[:_SHOWN_CHARACTERS] + '…'}"
    if not shown:
        return [end] * len(places)
    return [", ".join(values) + end for values in zip(*shown, strict=True)]


def _all_shown(values: pa.Array | pa.ChunkedArray) -> list[str]:
    if pa.types.is_floating(values.type) and not pc.any(pc.is_null(values, nan_is_null=True)).as_py():
        return [f"{value:g}" for value in values.to_numpy().tolist()]
    return [_shown(value) for value in values.to_pylist()]


def _shown(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "missing"
    return f"{value:g}" if isinstance(value, int | float) else repr(value)[:80]
