"""The score table where a runner keeps a shard's rows together, and where it does not."""

from dataclasses import replace

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_curate.records import ImageFacts, SampleRef, ScoredSample
from beam_curate.transforms.write_score_table import WriteScoreTable

DIM = 4


def rows(shards=5, samples=7):
    for shard in range(shards):
        for index in range(samples):
            ref = SampleRef(
                shard, f"/{shard}.tar", index, f"{index}", shard_rows=samples if index == samples - 1 else 0
            )
            if index == 2:
                yield ScoredSample(ref, None, b"", {}, "failed", "decode", "not_an_image", "no")
            else:
                yield ScoredSample(ref, ImageFacts(1, 1, "PNG", "a", 1), b"\0<" * DIM, {}, "kept")


def write(output, elements, *between):
    with TestPipeline(runner="FnApiRunner") as root:
        stream = root | beam.Create(elements, reshuffle=False)
        for step in between:
            stream |= step
        parts = stream | WriteScoreTable(str(output), (), DIM)
        counts = parts | beam.Map(
            lambda part: (part.shard_index, part.rows, part.kept, part.failed, dict(part.reasons))
        )
        assert_that(counts, equal_to([(shard, 7, 6, 1, {"not_an_image": 1}) for shard in range(5)]))
    return {path.name: path.read_bytes() for path in (output / "scores").iterdir()}


class SplitBundles(beam.DoFn):
    """Gives every row up at the end of the bundle in another order, as an unfused stage may."""

    def process(self, row):
        yield row.ref.index % 3, row


def test_rows_that_come_apart_give_the_same_parts(tmp_path):
    together = write(tmp_path / "together", list(rows()))
    apart = write(
        tmp_path / "apart",
        list(rows()),
        "Key" >> beam.ParDo(SplitBundles()),
        "Group" >> beam.GroupByKey(),
        "Ungroup" >> beam.FlatMapTuple(lambda _, group: group),
    )
    assert sorted(together) == [f"part-{shard:05d}.parquet" for shard in range(5)]
    assert apart == together


def test_incomplete_shards_are_regrouped(tmp_path):
    """Two bundles, each with a half of every shard."""
    elements = list(rows())
    whole = write(tmp_path / "whole", elements)

    class Halves(beam.DoFn):
        def process(self, half):
            yield from (row for row in elements if row.ref.index % 2 == half)

    options = PipelineOptions(["--direct_num_workers=2", "--direct_running_mode=multi_threading"])
    root = beam.Pipeline("FnApiRunner", options=options)
    _ = (
        root
        | beam.Create([0, 1])
        | beam.Reshuffle()
        | beam.ParDo(Halves()).with_output_types(ScoredSample)
        | WriteScoreTable(str(tmp_path / "halves"), (), DIM)
    )
    result = root.run()
    result.wait_until_finish()
    # No bundle saw a whole shard: all parts came by the grouping.
    assert result.metrics().query(MetricsFilter().with_name("parts"))["counters"] == []
    assert {path.name: path.read_bytes() for path in (tmp_path / "halves" / "scores").iterdir()} == whole


BROKEN = {
    "lost": lambda rows: rows[:3] + rows[4:],
    "doubled": lambda rows: [*rows[:3], rows[2], *rows[3:]],
    "the last one lost": lambda rows: rows[:-1],  # what is left has no gap
    "one of those scored again lost": lambda rows: [again(row, 3) for row in rows[2:7:4]],
}


def again(row, number):
    """A row of `number` that are scored again; the last one says so."""
    return replace(row, ref=replace(row.ref, again=True, shard_rows=number if row.ref.shard_rows else 0))


@pytest.mark.parametrize("broken", BROKEN)
def test_a_lost_or_doubled_row_is_an_error(tmp_path, broken):
    elements = BROKEN[broken](list(rows(shards=1)))
    with pytest.raises(RuntimeError, match="rows came to the score table"), TestPipeline(runner="FnApiRunner") as root:
        _ = root | beam.Create(elements, reshuffle=False) | WriteScoreTable(str(tmp_path), (), DIM)
    assert not (tmp_path / "scores").exists()
