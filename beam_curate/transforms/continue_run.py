"""ContinueRun: what is left of a run to do, and what is done."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import apache_beam as beam

from beam_curate.records import ScorePart, Shard
from beam_curate.runs.run import Run
from beam_curate.runs.score_table import FOLDER, VERDICTS, part_name
from beam_curate.storage.files import exists, join

_PENDING = "pending"
_DONE = "done"


class RunHalves(NamedTuple):
    """Shards of which rows are still to be scored, and the finished parts of the others."""

    pending: beam.PCollection[Shard]
    done: beam.PCollection[ScorePart]


@dataclass(eq=False)
class ContinueRun(beam.PTransform):
    """Splits a prepared run into the shards still to score and the finished parts of its score table.

    In: the pipeline. Out: `RunHalves`. Both come from one look at the folder, whose result is committed by a reshuffle
    before anything new is written, so that each shard is in exactly one half. Only names are shuffled.

    A bundle that a runner repeats, because its worker was lost, finds the parts that it had written: a pending shard whose part
    is there by now is done (not where failed samples are tried again: there a part was there before). This costs a request a
    shard, in the step that is fused with the reading of the shard.

    Attributes:
        output: Folder of the run, made ready by `runs.run.Run.begin`.
        retry: Reasons; a finished part with rows that failed for one of them is pending again, with these rows only.
        folder: Where the parts lie below `output`: `scores`, or `verdicts` of a run that judges another one's table.
        scoring_hints: Beam's resource hints of the steps that follow the pending shards: the last look at the folder has them
            too, for it must stay fused with those.
    """

    output: str
    retry: Sequence[str] = ()
    folder: str = FOLDER
    scoring_hints: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pipeline: beam.pvalue.PBegin) -> "RunHalves":
        """Looks once on one worker, spreads, and looks into the parts."""
        output, retry, folder = self.output, tuple(self.retry), self.folder
        doors = (
            pipeline
            | "Run" >> beam.Create([output])
            | "Look" >> beam.FlatMap(_look, folder).with_outputs(_DONE, main=_PENDING)
        )
        parts = (
            doors[_DONE]
            | "SpreadParts" >> beam.Reshuffle().with_input_types(tuple[Shard, str])
            | "LookInside" >> beam.FlatMapTuple(lambda shard, path: _look_inside(output, shard, path, retry)).with_outputs(
                _PENDING, main=_DONE
            )
        )  # fmt: skip
        pending = doors[_PENDING]
        if retry:
            pending = (pending, parts[_PENDING]) | "Pending" >> beam.Flatten().with_output_types(Shard)
        left = (
            pending
            | "SpreadPending" >> beam.Reshuffle().with_input_types(Shard)
            | "LookAgain"
            >> beam.FlatMap(_look_again, output, folder, bool(retry))
            .with_resource_hints(**self.scoring_hints)
            .with_outputs(_DONE, main=_PENDING)
        )
        done = parts[_DONE]
        if retry:
            # Committed as well: a second look would find what this job has written. The step after it is there because Beam's
            # Flink runner refuses a Flatten, such as the next ones, of a Reshuffle's own output and of a fused step's.
            committed = done | "SpreadDone" >> beam.Reshuffle().with_input_types(ScorePart)
            done = committed | "Done" >> beam.Map(lambda part: part).with_output_types(ScorePart)
        late = left[_DONE] | "DoneByNow" >> beam.Map(lambda part: part).with_output_types(ScorePart)
        still = beam.Map(lambda shard: shard).with_output_types(Shard).with_resource_hints(**self.scoring_hints)
        return RunHalves(
            left[_PENDING] | "StillPending" >> still,
            (done, late) | "AllDone" >> beam.Flatten().with_output_types(ScorePart),
        )


def _look(output: str, folder: str) -> Iterator[Any]:
    run = Run(output)
    parts = run.verdicts if folder == VERDICTS else run.parts
    for shard in run.input_shards:
        if shard.index in parts:
            yield beam.pvalue.TaggedOutput(_DONE, (shard, parts[shard.index]))
        else:
            yield shard


def _look_again(shard: Shard, output: str, folder: str, retried: bool) -> Iterator[Any]:
    path = part_name(shard.index, folder)
    # Where failed samples are tried again, the part that is there may be the one before.
    if not retried and exists(join(output, path)):
        yield beam.pvalue.TaggedOutput(_DONE, Run(output).part_counts(path))
    else:
        yield shard


def _look_inside(output: str, shard: Shard, path: str, retry: Sequence[str]) -> Iterator[Any]:
    run = Run(output)
    part = run.part_counts(path)
    rows = run.failed_rows(path, retry) if set(retry) & set(part.reasons) else []
    if rows or rows is None:
        yield beam.pvalue.TaggedOutput(_PENDING, Shard(shard.index, shard.path, shard.size, tuple(rows or ())))
    else:
        yield part
