"""A repeated bundle does no work again that is done: reads and model calls are counted."""

import collections

from beam_curate.storage import ranged_reading
from tests.support.storage_jobs import SAMPLES, run_job, shard_bytes
from tests.support.stubs import StubHandler

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

    CALLS.clear()
    monkeypatch.setattr(ranged_reading.RangeReader, "_fetch", counted)
    summary = run_job(
        str(data), output, options=[f"--direct_runner_bundle_repeat={repeats}"], per_shard=1000, handler=CountingHandler,
        min_aesthetic=None, max_nsfw=None,
    )  # fmt: skip
    monkeypatch.undo()
    assert summary["funnel"]["input"] == SAMPLES
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
