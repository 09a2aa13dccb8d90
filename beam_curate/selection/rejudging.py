"""Selecting again: new verdicts for the rows of a finished score table, without decoding or inference.

A part of the table, one input shard, is read as far as the rules need it, judged, and an overlay with the verdicts written (see
`runs.table_parts`); whoever packs the kept rows of it need not know that they were not scored just now.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate import reasons, records
from beam_curate.heads.head import EmbeddingScore
from beam_curate.records import Removed, ScorePart
from beam_curate.runs import score_table
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.table_parts import IDENTITY, VERDICT, Part, TablePlace
from beam_curate.scores.rules import Condition, all_keep, explain
from beam_curate.scores.scorers import EmbeddingsScorer, run_embeddings, set_up_scorer
from beam_curate.selection.top import Cutoff, Keys, TopRule, among_top, sort_keys

Flags = npt.NDArray[np.bool_]

_BATCH: Final = 64  # embeddings that a scorer of the user's own is given at once, as in the main job


@dataclass(frozen=True)
class Selection:
    """What decides which rows of a score table are kept.

    Attributes:
        table: Where the table lies.
        rules: The rules on each row, in the order in which they are tried; None: the verdicts in the table stand.
        top: The rule on the whole table, tried last; None for none.
        scorers: Scores of the embedding to add to the table first.
        own: Scorers of the user's own whose columns are added after these; set up by whoever runs the selection.
    """

    table: TablePlace
    rules: Sequence[Condition] | None = ()
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
    def rule_columns(self) -> list[str]:
        """The columns that the rules on each row read."""
        return list(dict.fromkeys(name for rule in self.rules or () for name in rule.columns))

    @property
    def columns(self) -> list[str]:
        """The columns that all rules read."""
        return list(dict.fromkeys([*self.rule_columns, *([self.top.column] if self.top else [])]))


def read_rows(selection: Selection, shard_index: int, columns: Sequence[str]) -> pa.Table:
    """Reads columns of a part of the source table, and the new scores among them.

    Args:
        selection: The selection.
        shard_index: The part.
        columns: The columns to read, by the names that rules use, beside status and step.
    """
    with selection.table.open(shard_index) as part:
        return _read(selection, part, columns)


def _read(selection: Selection, part: Part, columns: Sequence[str]) -> pa.Table:
    added = [name for name in selection.added if name in columns]
    stored = {name for column in columns for name in _stored(column) if name not in added}
    table = part.read(list({*stored, "status", "step", *(["embedding"] if added else [])}))
    for name, values in _scores(selection, table, added).items() if added else ():
        table = table.append_column(pa.field(name, pa.float32()), values)
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


def passing(selection: Selection, shard_index: int) -> npt.NDArray[np.int64]:
    """The places of a part's rows that pass the rules on each row, ascending; reads the columns of these rules alone."""
    return np.flatnonzero(_passes(selection, read_rows(selection, shard_index, selection.rule_columns)))


def _passes(selection: Selection, table: pa.Table) -> Flags:
    """Says which rows pass the rules on each row."""
    if selection.rules is None:
        kept: Flags = pc.equal(table.column("status"), records.KEPT).to_numpy(zero_copy_only=False)
        return kept
    columns = rule_columns(selection.rule_columns, table)
    return judgeable(table) & all_keep(selection.rules, columns, table.num_rows)


def candidates(selection: Selection, shard_index: int, removed: Iterable[Removed] = ()) -> Keys:
    """The sort keys of the rows of a part among which the top rule chooses, in order.

    Args:
        selection: The selection.
        shard_index: The part.
        removed: Its rows that are rejected beside the rules.
    """
    if selection.top is None:
        raise ValueError("the selection has no top rule")
    table = read_rows(selection, shard_index, selection.columns)
    left = _passes(selection, table)
    for some in removed:
        left[_places(some, table.num_rows)] = False
    keys, present = sort_keys(rule_columns([selection.top.column], table)[selection.top.column])
    return keys[present & left]


def _places(removed: Removed, rows: int) -> npt.NDArray[np.int64]:
    places = np.asarray(removed.rows, np.int64)
    if len(places) != len(removed.messages) or ((places < 0) | (places >= rows)).any():
        raise ValueError(
            f"{len(places)} rows with {len(removed.messages)} messages are to be rejected for {removed.reason!r} in a part of "
            f"{rows} rows: give a message for each, and places from 0 to {rows - 1}"
        )
    return places


class _Verdicts:
    """The verdicts of a part under way: (N,) texts or None in each column of VERDICT, and whether the row is kept so far."""

    def __init__(self, table: pa.Table) -> None:
        self.texts = {name: table.column(name).to_numpy(zero_copy_only=False).copy() for name in VERDICT}
        self.kept: Flags = self.texts["status"] == records.KEPT

    def keep(self, flags: Flags) -> None:
        for name, value in zip(VERDICT, (records.KEPT, None, None, None), strict=True):
            self.texts[name][flags] = value
        self.kept |= flags

    def reject(self, places: npt.NDArray[np.int64], step: str, reason: str, messages: npt.ArrayLike) -> None:
        for name, value in zip(VERDICT, (records.REJECTED, step, reason, messages), strict=True):
            self.texts[name][places] = value
        self.kept[places] = False

    def columns(self) -> list[pa.Array]:
        return [pa.array(self.texts[name], pa.string()) for name in VERDICT]


def rejudge(
    table: pa.Table, selection: Selection, removed: Iterable[Removed] = (), cutoff: Cutoff | None = None
) -> list[pa.Array]:
    """New verdicts on rows, as the columns VERDICT; failed ones and those screened out before inference keep theirs.

    Args:
        table: The columns VERDICT of a part, and those that the rules read, from `read_rows`.
        selection: The rules.
        removed: Rows of this part that are rejected beside the rules: tried after the rules on each row, before the top rule.
        cutoff: Of this part, where there is a top rule.
    """
    columns = rule_columns(selection.columns, table)
    verdicts = _Verdicts(table)
    if selection.rules is not None:
        verdicts.keep(judgeable(table))
    for rule in selection.rules or ():
        keeps = rule.keeps(columns, table.num_rows).to_numpy(zero_copy_only=False)
        out = np.flatnonzero(verdicts.kept & ~keeps)
        verdicts.reject(out, reasons.FILTER, rule.reason, explain(rule.columns, columns, out, rule.wanted))
    for some in sorted(removed, key=lambda each: (each.reason, *each.rows)):
        places, messages = _places(some, table.num_rows), np.array(some.messages, object)
        still = verdicts.kept[places]
        verdicts.reject(places[still], reasons.DEDUP, some.reason, messages[still])
    if selection.top is not None:
        if cutoff is None:
            raise ValueError("a top rule needs its cutoff")
        top = selection.top
        keys, present = sort_keys(columns[top.column])
        left = np.flatnonzero(verdicts.kept & present)
        best = left[among_top(keys[left], cutoff)]
        verdicts.kept[best] = False
        out = np.flatnonzero(verdicts.kept)
        verdicts.reject(out, reasons.FILTER, top.reason, explain([top.column], columns, out, top.words))
        verdicts.kept[best] = True
    return verdicts.columns()


def rejudge_part(
    selection: Selection, output: str, shard_index: int, removed: Iterable[Removed] = (), cutoff: Cutoff | None = None
) -> ScorePart:
    """Reads a part of the source table, judges it, and writes an overlay of it in `output`.

    Raises:
        ScoreTableError: The part is none, or has no counts.
    """
    with selection.table.open(shard_index) as part:
        added = [*part.added, *selection.added]
        table = _read(selection, part, [*selection.columns, *IDENTITY, *VERDICT, *added])
        metadata = {score_table.SOURCE_METADATA: part.scores_footprint}
        counts, groups = score_table.part_counts(part.scores.schema_arrow), part.group_rows
    schema = score_table.schema(added, 1)
    names = [*IDENTITY, *VERDICT, *added]
    schema = pa.schema([schema.field(name) for name in names], schema.metadata)
    arrays = [
        *table.select(IDENTITY).columns,
        *rejudge(table, selection, removed, cutoff),
        *table.select(added).columns,
    ]
    overlay = pa.Table.from_arrays(arrays, schema=schema)
    folder, skipped = score_table.VERDICTS, counts.skipped
    return write_part(output, shard_index, counts.shard, overlay, folder, metadata, groups, skipped)
