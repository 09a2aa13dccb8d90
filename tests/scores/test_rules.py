import math

import numpy as np
import pyarrow as pa
import pytest

from beam_curate import reasons
from beam_curate.scores.expressions import ExpressionError
from beam_curate.scores.judging import judge
from beam_curate.scores.rules import Rule, check_columns, keep_rule, standard_rules

COLUMNS = {
    "aesthetic": pa.array([5.0, 4.99, 6.0, 1.0, 1.0, math.nan], pa.float32()),
    "nsfw": pa.array([0.49, 0.1, 0.5, 0.9, 0.9, 0.1]),
    "side": pa.array([60, 60, 60, 60, 49, 60], pa.int32()),
    "format": pa.array(["JPEG", "JPEG", "PNG", "JPEG", None, "JPEG"]),
}


def judged(rules):
    """The reason and the message of each row."""
    before = {name: np.full(6, "", object) for name in ("reason", "error_message")}
    texts = judge(rules, COLUMNS, np.ones(6, np.bool_)).over(before)
    return [(reason or "", message or "") for reason, message in zip(*texts.values(), strict=True)]


def test_the_first_rule_that_rejects_gives_the_reason():
    found = [reason for reason, _ in judged(standard_rules(5.0, 0.5, 50))]
    low, high, small = reasons.AESTHETIC_BELOW_MIN, reasons.NSFW_ABOVE_MAX, reasons.SIDE_BELOW_MIN
    assert found == ["", low, high, low, small, low]


def test_none_is_off_and_zero_is_a_threshold():
    assert standard_rules() == ()
    (rule,) = standard_rules(min_aesthetic=0.0)
    assert rule.keeps({"aesthetic": pa.array([0.0, -0.1, None])}, 3).to_pylist() == [True, False, False]


@pytest.mark.parametrize(
    "rule", [Rule("x", "nsfw", minimum=0.1), Rule("x", "nsfw", maximum=0.5), Rule("x", "nsfw", 0.1, 0.5)]
)
@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_a_score_that_is_not_known_passes_no_rule(rule, kind):
    """Above all no maximum, of which no number is above."""
    values = pa.array(np.array([math.nan, 0.2, 0.3], np.float16), pa.float16(), from_pandas=False).cast(kind)
    assert rule.keeps({"nsfw": values}, 3).to_pylist() == [False, True, True]
    missing = pa.array([None, 0.25, None], pa.float64()).cast(kind)
    assert rule.keeps({"nsfw": missing}, 3).to_pylist() == [False, True, False]


def test_message_says_the_value():
    assert judged(standard_rules(5.0))[1][1] == "aesthetic is 4.99; kept if >= 5"
    assert judged([Rule("x", "side", 50, 60)])[0][1] == "side is 60; kept if >= 50 < 60"


def test_an_expression_is_a_rule():
    (rule,) = keep_rule("aesthetic > 4 and format == 'JPEG'", ["aesthetic"])
    verdicts = judged([rule])
    assert [reason for reason, _ in verdicts] == ["", "", *[reasons.NOT_KEPT_BY_RULE] * 4]
    assert verdicts[2][1] == "aesthetic is 6, format is 'PNG'; kept if aesthetic > 4 and format == 'JPEG'"
    assert verdicts[5][1].startswith("aesthetic is missing, format is 'JPEG'")
    assert judged([*standard_rules(5.0), rule])[3][0] == reasons.AESTHETIC_BELOW_MIN
    assert keep_rule(" ", []) == ()
    with pytest.raises(ExpressionError, match="no column 'nsfw'"):
        keep_rule("nsfw < 0.5", ["aesthetic"])


def test_a_rule_on_a_missing_score_is_refused():
    with pytest.raises(ValueError, match="needs the score 'nsfw'"):
        check_columns(standard_rules(max_nsfw=0.5), ["aesthetic"])


def test_a_threshold_is_finite():
    with pytest.raises(ValueError, match="give a finite number"):
        Rule("x", "aesthetic", minimum=math.nan)


def test_a_row_does_not_repeat_all_of_a_long_rule():
    text = f"side in ({', '.join(map(str, range(1000, 1600)))})"
    (_, message), *_ = judged(keep_rule(text, ["aesthetic"]))
    assert message.startswith("side is 60; kept if side in (1000, 1001")
    assert message.endswith("…")
    assert len(message) < 350
