"""Selecting again: new verdicts for the rows of a finished score table, without decoding or inference.

A part of the table, one input shard, is read, judged and written as a part of a new table; whoever packs the kept rows of the
new table need not know that they were not scored just now.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate import reasons, records, score_table
from beam_curate.heads import EmbeddingScore
from beam_curate.records import ScorePart
from beam_curate.rules import Condition, all_keep, explain, judge
from beam_curate.score_parts import write_part
from beam_curate.scorers import EmbeddingsScorer, run_embeddings, set_up_scorer
from beam_curate.storage import join, open_read
from beam_curate.top import Cutoff, Keys, TopRule, among_top, sort_keys

_BATCH: Final = 64  # embeddings that a scorer of the user's own is given at once, as in the main job


@dataclass(frozen=True)
class Selection:
    """What decides which rows of a score table are kept.

    Attributes:
        source: Folder of the run that holds the table.
        rules: The rules, in the order in which they are tried.
        top: The rule on the whole table, tried last; None for none.
        scorers: Scores of the embedding to add to the table first.
        own: Scorers of the user's own whose columns are added after these; set up by whoever runs the selection.
    """

    source: str
    rules: Sequence[Condition] = ()
    top: TopRule | None = None
    scorers: Sequence[EmbeddingScore] = ()
    own: Sequence[EmbeddingsScorer] = ()

    @property
    def added(self) -> list[str]:
        """The names of the scores that are added."""
        return [
            *(scorer.name for scorer in self.scorers),
            *(column for scorer in self.own for column in scorer.columns),
        ]

    def set_up(self) -> None:
        """Sets up the user's scorers: once in a process, before the first part."""
        for scorer in self.own:
            set_up_scorer(scorer)

    @property
    def columns(self) -> list[str]:
        """The columns that the rules read."""
        names = [name for rule in self.rules for name in rule.columns]
        return list(dict.fromkeys([*names, *([self.top.column] if self.top else [])]))


def read_rows(selection: Selection, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a part of the source table, with the new scores in front of the embedding.

    Args:
        selection: The selection.
        path: The part, relative to the source folder.
        columns: The columns to read, by the names that rules use, beside status and step; None reads all.
    """
    added = selection.added
    with open_read(join(selection.source, path)) as stream:
        part = score_table.open_part(stream)
        wanted = None
        if columns is not None:
            added = [name for name in selection.added if name in columns]
            stored = {name for column in columns for name in _stored(column) if name not in added}
            wanted = sorted({*stored, "status", "step", *(["embedding"] if added else [])})
        table = part.read(columns=wanted, use_threads=False)
    if added:
        for name, values in _scores(selection, table, added).items():
            table = table.add_column(table.schema.get_field_index("embedding"), pa.field(name, pa.float32()), values)
    return table


def _stored(column: str) -> Sequence[str]:
    return ("width", "height") if column == "side" else (column,)


def _scores(selection: Selection, table: pa.Table, names: Sequence[str]) -> dict[str, pa.Array]:
    """Scores the rows that have an embedding, for the columns named; the others have none."""
    vectors = table.column("embedding").combine_chunks()
    matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, vectors.type.list_size)
    present = judgeable(table)
    good = matrix[present]
    found = {scorer.name: scorer.score(good) for scorer in selection.scorers if scorer.name in names}
    for scorer in selection.own:
        if set(scorer.columns) & set(names):
            batches = [run_embeddings(scorer, good[at : at + _BATCH]) for at in range(0, max(1, len(good)), _BATCH)]
            found |= {name: np.concatenate([batch[name] for batch in batches]) for name in scorer.columns}
    columns = {}
    for name in names:
        scores = found[name]
        values = np.full(table.num_rows, np.nan, np.float32)
        values[present] = scores
        columns[name] = pa.array(values, mask=np.isnan(values))
    return columns


def judgeable(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Says which rows the rules decide on: those that have an embedding, which neither failed nor were screened out."""
    good = pc.not_equal(table.column("status"), records.FAILED)
    screened = pc.fill_null(pc.equal(table.column("step"), reasons.SCREEN), False)
    found: npt.NDArray[np.bool_] = pc.and_(good, pc.invert(screened)).to_numpy(zero_copy_only=False)
    return found


def rule_columns(names: Sequence[str], table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The columns that rules read, from a table."""
    found = {}
    for name in names:
        if name == "side":
            found[name] = pc.min_element_wise(table.column("width"), table.column("height"))
        else:
            found[name] = table.column(name)
    return found


def candidates(selection: Selection, path: str) -> Keys:
    """The sort keys of the rows of a part among which the top rule chooses, in order."""
    if selection.top is None:
        raise ValueError("the selection has no top rule")
    table = read_rows(selection, path, selection.columns)
    rows = table.filter(pa.array(judgeable(table)))
    columns = rule_columns(selection.columns, rows)
    keys, present = sort_keys(columns[selection.top.column])
    return keys[present & all_keep(selection.rules, columns, rows.num_rows)]


def rejudge(table: pa.Table, selection: Selection, cutoff: Cutoff | None) -> pa.Table:
    """A table with new verdicts; rows that failed or were screened out before inference stay as they are.

    Args:
        table: All columns of a part, from `read_rows`.
        selection: The rules.
        cutoff: Of this part, where there is a top rule.
    """
    good = judgeable(table)
    rows = table.filter(pa.array(good))
    columns = rule_columns(selection.columns, rows)
    verdicts = judge(selection.rules, columns, rows.num_rows)
    if selection.top is not None:
        if cutoff is None:
            raise ValueError("a top rule needs its cutoff")
        keys, present = sort_keys(columns[selection.top.column])
        open_rows = np.array([not reason for reason, _ in verdicts], np.bool_) & present
        best = np.zeros(rows.num_rows, np.bool_)
        best[open_rows] = among_top(keys[open_rows], cutoff)
        for row in np.flatnonzero(~best).tolist():
            if not verdicts[row][0]:
                message = explain([selection.top.column], columns, row, selection.top.words)
                verdicts[row] = (selection.top.reason, message)
    new = iter(verdicts)
    old = table.select(["status", "step", "reason", "error_message"]).to_pylist()
    verdict_rows = [_verdict(*next(new)) if is_good else row for row, is_good in zip(old, good.tolist(), strict=True)]
    for name in ("status", "step", "reason", "error_message"):
        place = table.schema.get_field_index(name)
        table = table.set_column(
            place, table.schema.field(name), pa.array([row[name] for row in verdict_rows], pa.string())
        )
    return table


def _verdict(reason: str, message: str) -> dict[str, str | None]:
    if not reason:
        return {"status": records.KEPT, "step": None, "reason": None, "error_message": None}
    return {"status": records.REJECTED, "step": reasons.FILTER, "reason": reason, "error_message": message}


def rejudge_part(selection: Selection, output: str, shard_index: int, cutoff: Cutoff | None = None) -> ScorePart:
    """Reads a part of the source table, judges it, and writes it as a part of the table in `output`.

    Raises:
        ScoreTableError: The part is none, or has no counts.
    """
    table = read_rows(selection, score_table.part_name(shard_index))
    before = score_table.part_counts(table.schema)
    return write_part(output, shard_index, before.shard, with_schema(rejudge(table, selection, cutoff)))


def with_schema(table: pa.Table) -> pa.Table:
    """The table as a new one of the score table's schema, with the columns that earlier tables lack.

    Lists read from Parquet name their items otherwise.
    """
    table = score_table.with_later_columns(table)
    width = table.schema.field("embedding").type.list_size
    second = score_table.second_embeddings(table.schema)
    return table.cast(score_table.schema(score_table.score_names(table.schema), width, second))
