"""Which rules gave a run its verdicts, told by the configuration in its summary, and which of them are thresholds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from beam_curate import reasons
from beam_curate.scores.expression_bounds import bounds
from beam_curate.scores.rules import Rule, standard_rules

_RULES: Final = ("screen", "min_side", "min_aesthetic", "max_nsfw", "keep", "top", "top_fraction")


def steps(configuration: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The configurations of the commands whose verdicts count, in the order in which they ran.

    A search for duplicates keeps the verdicts of the run that it started from. A selection judges anew: of what came before
    only --screen stands, since a sample without an embedding cannot come back.
    """
    before = steps(configuration["source"].get("configuration") or {}) if "source" in configuration else []
    if "source" in configuration and "methods" not in configuration:
        before = [{"screen": step["screen"]} for step in before if step.get("screen")]
    return [*before, configuration]


def rules(step: Mapping[str, Any]) -> dict[str, Any]:
    """The rules of a step that are on, by option."""
    return {name: step[name] for name in _RULES if step.get(name) not in (None, "")}


def duplicates(step: Mapping[str, Any]) -> dict[str, Any]:
    """What was taken for a duplicate in a step, by option; empty if none was looked for.

    `against_action` is there if samples were compared with another dataset.
    """
    used = step.get("duplicates") or {}  # select.py: what the summary of the duplicates table says
    methods = used.get("methods") or _split(step.get("methods") or step.get("dedup") or "")
    if not methods:
        return {}
    said = used or step
    action = used.get("action") if used else step.get("against_action")
    between = used.get("between_datasets") if used else step.get("against")
    found = {
        "methods": ",".join(methods),
        "eps": said.get("eps") if "semantic" in methods else None,
        "max_distance": said.get("max_distance") if "perceptual" in methods else None,
        "keep_by": None if between else said.get("keep_by"),
        "against_action": action if between else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def thresholds(configuration: Mapping[str, Any]) -> list[Rule]:
    """The rules of a run that compare a column with a number: the named options, and the bounds in --keep."""
    found: list[Rule] = []
    for step in steps(configuration):
        values = {name: step.get(name) for name in ("min_aesthetic", "max_nsfw", "min_side")}
        found += standard_rules(**{name: value for name, value in values.items() if _is_number(value)})
        found += _bounds(step.get("keep") or "")
    return found


def _bounds(keep: str) -> Iterator[Rule]:
    """The bounds in an expression, each as a rule."""
    for column, minimum, maximum in bounds(keep) if keep.strip() else ():
        yield Rule(reasons.NOT_KEPT_BY_RULE, column, minimum, maximum)


def top_column(configuration: Mapping[str, Any]) -> str:
    """The column by which the best of a run were taken; empty if they were not."""
    texts = [step.get("top") or step.get("top_fraction") or "" for step in steps(configuration)]
    return next((text.partition("=")[0].strip() for text in reversed(texts) if text), "")


def _split(text: str) -> Sequence[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
