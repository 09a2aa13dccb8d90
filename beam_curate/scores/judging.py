"""Verdicts: which rows are kept, by the rules on each row and by what the whole table knows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from beam_curate import reasons
from beam_curate.records import KEPT, REJECTED, Removed
from beam_curate.scores.rules import Columns, Condition, explain
from beam_curate.scores.top import Cutoff, TopRule, among_top, sort_keys

Flags = npt.NDArray[np.bool_]
Texts = npt.NDArray[np.object_]
Places = npt.NDArray[np.int64]


class Rejection(NamedTuple):
    """Rows that are rejected for a reason: (M,) their places, and (M,) a message for each; nothing if none were asked for."""

    step: str
    reason: str
    places: Places
    messages: Sequence[str]


@dataclass(frozen=True)
class Verdicts:
    """What was decided.

    Attributes:
        judged: (N,) the rows on which was decided.
        left: For each rule, that about duplicates and the top rule included if there are any: (N,) the rows that are left after
            it and all before it.
        rejections: Who was rejected, and why.
    """

    judged: Flags
    left: Sequence[Flags]
    rejections: Sequence[Rejection]

    @property
    def kept(self) -> Flags:
        """(N,) the judged rows that all rules keep."""
        return self.left[-1] if self.left else self.judged

    def over(self, before: Mapping[str, Texts]) -> dict[str, Texts]:
        """Columns of a verdict (see `score_table.VERDICT`): those of before, with these verdicts on the judged rows."""
        found = {name: texts.copy() for name, texts in before.items()}
        for name, texts in found.items():
            texts[self.judged] = KEPT if name == "status" else None
            for step, reason, places, messages in self.rejections:
                values = {"status": REJECTED, "step": step, "reason": reason, "error_message": messages}
                texts[places] = values[name]
        return found


def judge(
    rules: Iterable[Condition],
    columns: Columns,
    judged: Flags,
    *,
    removed: Iterable[Removed] | None = None,
    top: TopRule | None = None,
    cutoff: Cutoff | None = None,
    say: bool = True,
) -> Verdicts:
    """Tries the rules in order: those on each row, then what is a duplicate, then whether it is among the best.

    Args:
        rules: The rules on each row.
        columns: All columns that the rules read, of N values each.
        judged: (N,) the rows to decide on.
        removed: Rows that are rejected by what other rows hold, in whatever order; None where nobody looked for any.
        top: The rule on the whole table.
        cutoff: Where it cuts in these rows.
        say: Whether the rejections have messages; without them it is faster.

    Raises:
        ValueError: There is a top rule without a cutoff, or removed rows that are not there.
    """
    left, found, rejections = judged, [], []
    for rule in rules:
        keeps = rule.keeps(columns, len(judged)).to_numpy(zero_copy_only=False)
        out = np.flatnonzero(left & ~keeps)
        left = left & keeps
        messages = explain(rule.columns, columns, out, rule.wanted) if say else ()
        rejections.append(Rejection(reasons.FILTER, rule.reason, out, messages))
        found.append(left)
    if removed is not None:
        left = left.copy()
        for some in sorted(removed, key=lambda each: (each.reason, *each.rows)):
            places = _places(some, len(judged))
            still = left[places]
            left[places] = False
            said = np.array(some.messages, object)[still].tolist() if say else ()
            rejections.append(Rejection(reasons.DEDUP, some.reason, places[still], said))
        found.append(left)
    if top is not None:
        if cutoff is None:
            raise ValueError("a top rule needs its cutoff")
        keys, present = sort_keys(columns[top.column])
        best = left & present
        best[best] = among_top(keys[best], cutoff)
        out = np.flatnonzero(left & ~best)
        messages = explain([top.column], columns, out, top.words) if say else ()
        rejections.append(Rejection(reasons.FILTER, top.reason, out, messages))
        found.append(best)
    return Verdicts(judged, found, rejections)


def _places(removed: Removed, rows: int) -> Places:
    places = np.asarray(removed.rows, np.int64)
    if len(places) != len(removed.messages) or ((places < 0) | (places >= rows)).any():
        raise ValueError(
            f"{len(places)} rows with {len(removed.messages)} messages are to be rejected for {removed.reason!r} in a part of "
            f"{rows} rows: give a message for each, and places from 0 to {rows - 1}"
        )
    return places
