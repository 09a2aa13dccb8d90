"""Which rules gave a run its verdicts, told by its configuration, and which of them are thresholds."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from beam_curate import reasons
from beam_curate.runs.configuration import DEDUPLICATE, Configuration, DuplicateRule, Rules
from beam_curate.scores.expression_bounds import beside_bounds, bounds
from beam_curate.scores.rules import Rule, standard_rules

_RULES: Final = ("screen", "min_side", "min_aesthetic", "max_nsfw", "keep", "top", "top_fraction")


@dataclass(frozen=True)
class Step:
    """A run whose verdicts count: what it did, by which rules, and what it took for duplicates."""

    step: str
    rules: Rules
    duplicates: DuplicateRule | None = None


def steps(configuration: Configuration) -> list[Step]:
    """The runs whose verdicts count, in the order in which they ran.

    A search for duplicates keeps the verdicts of the run that it started from. A selection judges anew: of what came before
    only `screen` stands, since a sample without an embedding cannot come back.
    """
    before = steps(configuration.source.configuration) if configuration.source else []
    if configuration.source and configuration.step != DEDUPLICATE:
        before = [Step(step.step, Rules(screen=step.rules.screen)) for step in before if step.rules.screen]
    return [*before, Step(configuration.step, configuration.rules, configuration.duplicates)]


def rules(step: Step) -> dict[str, object]:
    """The rules of a step that are on, by name."""
    found = asdict(step.rules)
    return {name: found[name] for name in _RULES if found[name] not in (None, "")}


def duplicates(step: Step) -> dict[str, object]:
    """What was taken for a duplicate in a step, by argument; empty if none was looked for.

    `against_action` is there if samples were compared with another dataset.
    """
    rule = step.duplicates
    if rule is None or not rule.methods:
        return {}
    found = {
        "methods": ",".join(rule.methods),
        "eps": rule.eps if "semantic" in rule.methods else None,
        "max_distance": rule.max_distance if "perceptual" in rule.methods else None,
        "mirrored": True if rule.mirrored else None,
        "keep_by": None if rule.between_datasets else rule.keep_by,
        "against_action": rule.action if rule.between_datasets else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def thresholds(configuration: Configuration) -> list[Rule]:
    """The rules of a run that compare a column with a number: the named ones, and the bounds in `keep`."""
    found: list[Rule] = []
    for step in steps(configuration):
        named = {name: getattr(step.rules, name) for name in ("min_aesthetic", "max_nsfw", "min_side")}
        found += standard_rules(
            **{name: value for name, value in named.items() if value is not None and math.isfinite(value)}
        )
        found += _bounds(step.rules.keep or "")
    return found


def beside_thresholds(configuration: Configuration) -> list[str]:
    """What the rules of a run ask in `keep` beside comparisons of a column with a number, as expressions."""
    asked = [
        beside_bounds(step.rules.keep) for step in steps(configuration) if step.rules.keep and step.rules.keep.strip()
    ]
    return [text for text in asked if text]


def _bounds(keep: str) -> Iterator[Rule]:
    """The bounds in an expression, each as a rule."""
    for column, minimum, maximum in bounds(keep) if keep.strip() else ():
        yield Rule(reasons.NOT_KEPT_BY_RULE, column, minimum, maximum)


def top_column(configuration: Configuration) -> str:
    """The column by which the best of a run were taken; empty if they were not."""
    texts: Sequence[str] = [step.rules.top or step.rules.top_fraction or "" for step in steps(configuration)]
    return next((text.partition("=")[0].strip() for text in reversed(texts) if text), "")
