import math

import pytest

from beam_curate import reasons
from beam_curate.records import ImageFacts
from beam_curate.rules import Rule, check_columns, first_failure, standard_rules

FACTS = ImageFacts(100, 60, "JPEG", "", 1)


@pytest.mark.parametrize(
    ("scores", "facts", "reason"),
    [
        ({"aesthetic": 5.0, "nsfw": 0.49}, FACTS, ""),
        ({"aesthetic": 4.99, "nsfw": 0.1}, FACTS, reasons.AESTHETIC_BELOW_MIN),
        ({"aesthetic": 6.0, "nsfw": 0.5}, FACTS, reasons.NSFW_ABOVE_MAX),
        ({"aesthetic": 1.0, "nsfw": 0.9}, FACTS, reasons.AESTHETIC_BELOW_MIN),
        ({"aesthetic": 1.0, "nsfw": 0.9}, ImageFacts(49, 100, "JPEG", "", 1), reasons.SIDE_BELOW_MIN),
        ({"aesthetic": math.nan, "nsfw": 0.1}, FACTS, reasons.AESTHETIC_BELOW_MIN),
    ],
)
def test_first_failure(scores, facts, reason):
    assert first_failure(standard_rules(5.0, 0.5, 50), scores, facts)[0] == reason


def test_none_is_off_and_zero_is_a_threshold():
    assert standard_rules() == ()
    (rule,) = standard_rules(min_aesthetic=0.0)
    assert rule.keeps(0.0)
    assert not rule.keeps(-0.1)


def test_message_says_the_value():
    _, message = first_failure(standard_rules(5.0), {"aesthetic": 4.25}, FACTS)
    assert message == "aesthetic is 4.25; kept if >= 5"


def test_a_rule_on_a_missing_score_is_refused():
    with pytest.raises(ValueError, match="needs the score 'nsfw'"):
        check_columns(standard_rules(max_nsfw=0.5), ["aesthetic"])


def test_a_threshold_is_finite():
    with pytest.raises(ValueError, match="give a finite number"):
        Rule("x", "aesthetic", minimum=math.nan)
