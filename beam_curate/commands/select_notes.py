"""What a selection should know of the duplicates in the run that it reads, said before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_curate.commands.endings import printable

if TYPE_CHECKING:
    from beam_curate.duplicates.removal import Duplicates
    from beam_curate.runs.configuration import Configuration
    from beam_curate.runs.summary import Summary

_ALL = "all"


def notes(scores: str, source: Summary, table: Duplicates | None, configuration: Configuration) -> list[str]:
    """One line each.

    Args:
        scores: The run that is read, as the user named it.
        source: Its end.
        table: The table of duplicates that is applied.
        configuration: Of the selection.
    """
    found = _back(scores, source) if table is None else _not_searched(table, configuration)
    return [f"note: {found}"] if found else []


def _back(scores: str, source: Summary) -> str:
    """That duplicates come back, which the run that is read had removed; empty if they do not."""
    from beam_curate.scores.rules_in_force import duplicates, steps

    searches = [step for step in steps(source.configuration) if duplicates(step)]
    if not searches:
        return ""
    rule = searches[-1].duplicates
    table = source.input.duplicates if rule is not None and rule.found is not None else scores
    last = "those of its last search" if len(searches) > 1 else "them"
    return (
        f"the duplicates that {printable(scores)} had removed are candidates again; --duplicates {printable(table)} "
        f"keeps {last} out"
    )


def _not_searched(table: Duplicates, configuration: Configuration) -> str:
    """That rows may be kept which the search of --duplicates has not seen; empty if there are none, or if it is not known."""
    from beam_curate.runs.run import Run

    run = Run(table.folder)
    if not run.is_begun:  # its table of duplicates alone was copied, or is that of a pipeline of the user's own
        return ""
    searched = run.configuration
    rule = searched.duplicates
    if rule is None or rule.found is not None or rule.candidates == _ALL or _keeps_no_more(configuration, searched):
        return ""
    return (
        f"the duplicates in {printable(table.folder)} are among what the rules of that run kept. What these rules keep "
        "beside that has not been searched, and may have duplicates. A search with --candidates all covers all samples"
    )


def _keeps_no_more(here: Configuration, there: Configuration) -> bool:
    """Whether all that the rules here keep is kept by those there, as far as their words tell."""
    from beam_curate.scores.rules_in_force import rules, steps

    mine, theirs = ({pair for step in steps(each) for pair in rules(step).items()} for each in (here, there))
    # By more rules --top chooses among fewer samples, and so others.
    of_the_table = any(name in ("top", "top_fraction") for name, _ in theirs)
    return mine == theirs if of_the_table else theirs <= mine
