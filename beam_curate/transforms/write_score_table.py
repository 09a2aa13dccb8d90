"""WriteScoreTable: ScoredSample in, one Parquet part per input shard written, ScorePart out."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

from beam_curate.records import ScoredSample, ScorePart
from beam_curate.runs import part_files, score_table
from beam_curate.runs.own_parts import open_own_part
from beam_curate.runs.score_parts import replace_failed, write_part
from beam_curate.storage.files import join
from beam_curate.transforms.global_window import require_global_window

_COMPLETE = "complete"
_INCOMPLETE = "incomplete"


@dataclass(eq=False)
class WriteScoreTable(beam.PTransform):
    """Writes all rows, kept, rejected and failed, as soon as the last row of their input shard has come.

    In: PCollection[ScoredSample]. Out: PCollection[ScorePart], one per input shard.

    While reading, decoding and inference are fused with this step, as they are unless something stands between that regroups
    the rows, a shard's rows come together and its part is written at once, with no shuffle; a stopped run keeps it. The rows of
    a shard that come in several bundles are grouped first.

    Attributes:
        output: Folder of the run; parts go to `scores/part-<input shard>.parquet` below it.
        score_names: Names of the score columns.
        embedding_dim: D, the width of the embeddings.
        second_embeddings: By the names of second embeddings their widths.
        scoring_hints: Beam's resource hints of the steps before this one: the writing of rows that come together has them too,
            since steps with different hints are not fused.

    Raises:
        ValueError: At construction, where a score has the name of a column, and where the rows come in windows.
    """

    output: str
    score_names: Sequence[str]
    embedding_dim: int
    second_embeddings: Mapping[str, int] = field(default_factory=dict)
    scoring_hints: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        score_table.schema(
            self.score_names, self.embedding_dim, self.second_embeddings
        )  # refuses a name that clashes with a column

    def expand(self, rows: beam.PCollection[ScoredSample]) -> beam.PCollection[ScorePart]:
        """Writes complete shards where they are, and groups the rows of the others."""
        require_global_window(rows, self)
        write = _PartWriter(
            self.output, tuple(self.score_names), self.embedding_dim, tuple(self.second_embeddings.items())
        )
        complete = beam.ParDo(_WriteComplete(write)).with_resource_hints(**self.scoring_hints)
        doors = rows | "WriteComplete" >> complete.with_outputs(_INCOMPLETE, main=_COMPLETE)
        # Beam infers one element type for all doors; the second one's differs.
        regrouped = (
            doors[_INCOMPLETE]
            | "ByShard" >> beam.GroupByKey().with_input_types(tuple[int, ScoredSample])
            | "WriteRegrouped" >> beam.MapTuple(lambda _, group: write(group)).with_output_types(ScorePart)
        )
        return (doors[_COMPLETE], regrouped) | beam.Flatten().with_output_types(ScorePart)


@dataclass(frozen=True)
class _PartWriter:
    output: str
    score_names: tuple[str, ...]
    embedding_dim: int
    second: tuple[tuple[str, int], ...]

    def __call__(self, group: Iterable[ScoredSample]) -> ScorePart:
        """Writes the rows of one input shard in the order of the shard; rows scored again replace the failed ones.

        Raises:
            RuntimeError: Rows are missing or doubled; a bug, which must not go into the table.
        """
        rows = sorted(group, key=lambda row: row.ref.index)
        ref = rows[-1].ref
        indexes = [row.ref.index for row in rows]
        if len(rows) != ref.shard_rows or (not ref.again and indexes != list(range(len(rows)))):
            raise RuntimeError(f"{ref.shard}: {len(rows)} rows came to the score table, {ref.shard_rows} were read")
        table = score_table.to_table(rows, self.score_names, self.embedding_dim, dict(self.second))
        path = score_table.part_name(ref.shard_index)
        skipped = ref.skipped
        if ref.again:
            before = join(self.output, path)
            with open_own_part(self.output, before) as part, part_files.damage_named(before):
                skipped = part_files.part_counts(part.schema_arrow).skipped
                table = replace_failed(part.read(), table)
        return write_part(self.output, ref.shard_index, ref.shard, table, skipped=skipped)


class _WriteComplete(beam.DoFn):
    """Holds a shard's rows until the last one has come; at the end of a bundle, gives up the incomplete ones."""

    def __init__(self, write: _PartWriter) -> None:
        self._write = write
        self._parts = Metrics.counter("beam_curate.runs.score_table", "parts")

    def start_bundle(self) -> None:
        self._rows: dict[int, list[ScoredSample]] = defaultdict(list)
        self._expected: dict[int, int] = {}

    def process(self, row: ScoredSample) -> Iterator[ScorePart]:
        shard = row.ref.shard_index
        self._rows[shard].append(row)
        if row.ref.shard_rows:
            self._expected[shard] = row.ref.shard_rows
        if len(self._rows[shard]) == self._expected.get(shard):
            del self._expected[shard]
            yield self._write(self._rows.pop(shard))
            self._parts.inc()

    def finish_bundle(self) -> Iterator[Any]:
        for shard, rows in self._rows.items():
            for row in rows:
                yield beam.pvalue.TaggedOutput(_INCOMPLETE, GlobalWindows.windowed_value((shard, row)))
