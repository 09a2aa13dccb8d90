"""ContinueRun: what is left of a run to do, and what is done."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam

from beam_curate.records import ScorePart, Shard
from beam_curate.run_state import input_shards, part_paths, read_part_counts

_PENDING = "pending"
_DONE = "done"


class RunHalves(NamedTuple):
    """Shards without a part of the score table yet, and the parts of the others."""

    pending: beam.PCollection[Shard]
    done: beam.PCollection[ScorePart]


@dataclass(eq=False)
class ContinueRun(beam.PTransform):
    """Splits a prepared run into the shards still to score and the finished parts of its score table.

    In: the pipeline. Out: `RunHalves`. Both come from one look at the folder, whose result is committed by a reshuffle
    before anything new is written, so that each shard is in exactly one half. Only names are shuffled.

    Attributes:
        output: Folder of the run, made ready by `run_state.prepare_output`.
    """

    output: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pipeline: beam.pvalue.PBegin) -> "RunHalves":
        """Looks once on one worker, then spreads both halves."""
        output = self.output
        doors = (
            pipeline
            | "Run" >> beam.Create([output])
            | "Look" >> beam.FlatMap(_halves).with_outputs(_DONE, main=_PENDING)
        )
        pending = doors[_PENDING] | "SpreadPending" >> beam.Reshuffle().with_input_types(Shard)
        done = (
            doors[_DONE]
            | "SpreadDone" >> beam.Reshuffle().with_input_types(str)
            | "Counts" >> beam.Map(lambda path: read_part_counts(output, path)).with_output_types(ScorePart)
        )
        return RunHalves(pending, done)


def _halves(output: str) -> Iterator[Any]:
    parts = part_paths(output)
    for shard in input_shards(output):
        if shard.index in parts:
            yield beam.pvalue.TaggedOutput(_DONE, parts[shard.index])
        else:
            yield shard
