from beam_curate.runs.configuration import read_configuration
from beam_curate.scores import rules_in_force
from beam_curate.scores.rules import Rule
from beam_curate.scores.rules_in_force import rules, thresholds, top_column

SCORED = {"min_aesthetic": 4.0, "max_nsfw": None, "min_side": 0, "keep": "", "screen": "side > 9", "top": "nsfw=5"}
DEDUP = {"methods": "exact, semantic", "eps": 0.01, "max_distance": 4, "keep_by": "first", "against": ""}


def after(step, before):
    """A configuration as version 0.1.0 wrote it."""
    return {**step, "source": {"configuration": before}}


def steps(flat):
    return rules_in_force.steps(read_configuration(flat))


def duplicates(flat):
    (step,) = steps(flat)
    return rules_in_force.duplicates(step)


def test_a_search_for_duplicates_keeps_the_rules_and_a_selection_sets_them_anew():
    unique = after(DEDUP, SCORED)
    assert [rules(step) for step in steps(unique)] == [
        {"screen": "side > 9", "min_side": 0, "min_aesthetic": 4.0, "top": "nsfw=5"},
        {},
    ]
    assert top_column(read_configuration(unique)) == "nsfw"
    chosen = after({"keep": "aesthetic >= 5 and nsfw < 0.5", "top_fraction": "side = 0.5"}, unique)
    assert [rules(step) for step in steps(chosen)] == [
        {"screen": "side > 9"},
        {"keep": "aesthetic >= 5 and nsfw < 0.5", "top_fraction": "side = 0.5"},
    ]
    assert not any(map(rules_in_force.duplicates, steps(chosen)))
    assert top_column(read_configuration(chosen)) == "side"
    assert [rules(step) for step in steps(after({"keep": ""}, chosen))] == [{"screen": "side > 9"}, {}]
    named, found = (thresholds(read_configuration(each)) for each in (unique, after(DEDUP, chosen)))
    assert [(rule.column, rule.minimum) for rule in named] == [("side", 0), ("aesthetic", 4.0)]
    assert found == [
        Rule("not_kept_by_rule", "aesthetic", minimum=5.0),
        Rule("not_kept_by_rule", "nsfw", maximum=0.5),
    ]


def test_what_was_taken_for_a_duplicate():
    wanted = {"methods": "exact,semantic", "eps": 0.01, "keep_by": "first"}
    assert duplicates(DEDUP) == wanted
    assert duplicates({"dedup": "perceptual", "eps": 0.01, "max_distance": 4, "keep_by": "largest"}) == {
        "methods": "perceptual",
        "max_distance": 4,
        "keep_by": "largest",
    }
    assert duplicates({**DEDUP, "against": "other", "against_action": "keep"}) == {
        "methods": "exact,semantic",
        "eps": 0.01,
        "against_action": "keep",
    }
    used = {
        "methods": ["exact", "semantic"],
        "eps": 0.01,
        "keep_by": "first",
        "between_datasets": False,
        "action": "drop",
        **{"groups": 1, "duplicates": 1, "by_method": {"exact": 1, "semantic": 0}, "largest_group": 2},
    }
    assert duplicates({"keep": "", "duplicates": used}) == wanted
    assert not duplicates({"dedup": ""})
