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
from beam_curate.runs import part_files, score_table
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.score_table import IDENTITY, VERDICT
from beam_curate.runs.table_parts import Part, TablePlace
from beam_curate.scores.judging import Flags, Texts, Verdicts, judge
from beam_curate.scores.rules import Condition
from beam_curate.scores.scorers import EmbeddingsScorer, run_embeddings, set_up_scorer
from beam_curate.scores.top import Cutoff, Keys, TopRule, sort_keys

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


def judged(selection: Selection, table: pa.Table) -> Flags:
    """Says which rows a selection decides on: those that are kept where its verdicts come on top, else all with an embedding."""
    if selection.rules is None:
        kept: Flags = pc.equal(table.column("status"), records.KEPT).to_numpy(zero_copy_only=False)
        return kept
    return judgeable(table)


def judge_rows(
    selection: Selection,
    table: pa.Table,
    removed: Iterable[Removed] | None = None,
    cutoff: Cutoff | None = None,
    *,
    say: bool = False,
) -> Verdicts:
    """Judges the rows of a part; failed ones and those screened out before inference keep what they have.

    Args:
        selection: The rules.
        table: The columns that the rules read, from `read_rows`.
        removed: Rows of this part that are rejected beside the rules: tried after the rules on each row, before the top rule.
        cutoff: Of this part; None: the top rule is not tried.
        say: Whether to say why.
    """
    top = selection.top if cutoff is not None else None
    columns = rule_columns(selection.columns if top else selection.rule_columns, table)
    rows = judged(selection, table)
    return judge(selection.rules or (), columns, rows, removed=removed, top=top, cutoff=cutoff, say=say)


def passing(selection: Selection, shard_index: int) -> npt.NDArray[np.int64]:
    """The places of a part's rows that pass the rules on each row, ascending; reads the columns of these rules alone."""
    return np.flatnonzero(judge_rows(selection, read_rows(selection, shard_index, selection.rule_columns)).kept)


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
    left = judge_rows(selection, table, removed).kept
    keys, present = sort_keys(rule_columns([selection.top.column], table)[selection.top.column])
    return keys[present & left]


def verdict_texts(table: pa.Table, verdicts: Verdicts) -> dict[str, Texts]:
    """The columns of VERDICT that a table has, with new verdicts."""
    names = [name for name in VERDICT if name in table.column_names]
    return verdicts.over({name: table.column(name).to_numpy(zero_copy_only=False) for name in names})


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
        counts, groups = part_files.part_counts(part.scores.schema_arrow), part.group_rows
    schema = score_table.schema(added, 1)
    names = [*IDENTITY, *VERDICT, *added]
    if selection.top is not None and cutoff is None:
        raise ValueError("a top rule needs its cutoff")
    texts = verdict_texts(table, judge_rows(selection, table, removed, cutoff, say=True))
    schema = pa.schema([schema.field(name) for name in names], schema.metadata)
    arrays = [
        *table.select(IDENTITY).columns,
        *(pa.array(texts[name], pa.string()) for name in VERDICT),
        *table.select(added).columns,
    ]
    overlay = pa.Table.from_arrays(arrays, schema=schema)
    folder, skipped = score_table.VERDICTS, counts.skipped
    return write_part(output, shard_index, counts.shard, overlay, folder, metadata, groups, skipped)
