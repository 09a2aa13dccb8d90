"""A repeated bundle does no work again that is done: reads and model calls are counted."""

import collections

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate import DecodeImages, DecodeOptions, ReadTarShards, ScoreAndFilter, WriteWebDatasetShards
from beam_curate.records import EmbeddedSample
from beam_curate.runs.run_state import prepare_output
from beam_curate.storage import ranged_reading
from beam_curate.storage.files import read_json
from beam_curate.storage.listing import list_shards
from beam_curate.transforms.continue_run import ContinueRun
from tests.storage_jobs import SAMPLES, shard_bytes
from tests.stubs import DIM, StubHandler, stub_heads

CALLS = collections.Counter()


class CountingHandler(StubHandler):
    def run_inference(self, batch, model, inference_args=None):
        CALLS["images"] += len(batch)
        return super().run_inference(batch, model, inference_args)


def work_done(tmp_path, monkeypatch, repeats):
    """Runs the whole job with each bundle run so many times; gives images scored, and reads by file."""
    data, output = tmp_path / "data", str(tmp_path / f"out{repeats}")
    read = collections.Counter()
    fetch = ranged_reading.RangeReader._fetch

    def counted(reader, start, stop):
        read[reader.path.removeprefix(output)] += 1
        return fetch(reader, start, stop)

    prepare_output(output, {"stub": 1}, list_shards(f"{data}/*.tar*"))
    CALLS.clear()
    monkeypatch.setattr(ranged_reading.RangeReader, "_fetch", counted)
    options = PipelineOptions(["--runner=FnApiRunner", f"--direct_runner_bundle_repeat={repeats}"])
    score = ScoreAndFilter(stub_heads(), min_aesthetic=None, max_nsfw=None)
    with beam.Pipeline(options=options) as root:
        run = root | ContinueRun(output)
        rows = (
            run.pending
            | ReadTarShards()
            | DecodeImages(DecodeOptions(size=32))
            | RunInference(CountingHandler()).with_output_types(EmbeddedSample)
            | score
        )
        _ = rows | WriteWebDatasetShards(output, score.score_names, DIM, 1000, None, run.done)
    monkeypatch.undo()
    assert read_json(f"{output}/summary.json")["funnel"]["input"] == SAMPLES
    return CALLS["images"], {path: number for path, number in read.items() if ".tar" in path}


def test_a_bundle_that_is_run_again_scores_and_copies_nothing_again(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    for name, content in shard_bytes().items():
        (data / name).write_bytes(content)
    once, twice = (work_done(tmp_path, monkeypatch, repeats) for repeats in (1, 2))
    assert once[0] == SAMPLES
    assert len(once[1]) == 3
    assert twice == once
