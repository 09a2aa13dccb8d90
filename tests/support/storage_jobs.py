"""The whole job with a stub model on any file system, and what it wrote, for tests of storage."""

import contextlib
import io
import tarfile

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate import DecodeImages, DecodeOptions, ReadTarShards, ScoreAndFilter, WriteWebDatasetShards
from beam_curate.records import EmbeddedSample
from beam_curate.runs.configuration import read_configuration
from beam_curate.runs.run import Run
from beam_curate.runs.wanted import WantedRun
from beam_curate.storage.files import clean_temporary, join, read_json
from beam_curate.storage.listing import list_shards
from beam_curate.transforms.continue_run import ContinueRun
from tests.conftest import encoded, photo, tar_bytes
from tests.support.stubs import DIM, StubHandler, stub_heads

SAMPLES = 20
NOT_COMPARED = ("summary.json", "run.json", "report.html")
"""They hold times, versions and paths."""


def shard_bytes():
    """Three shards by name, of 8 + 7 + 5 samples, of which one is bad; the last is compressed."""
    import gzip

    def sample(key, seed):
        image = encoded(photo(seed, 64, 48))
        return [(f"{key}.jpg", image), (f"{key}.txt", b"caption of %d" % seed), (f"{key}.json", b'{"url": "u"}')]

    def shard(start, count):
        return [member for seed in range(start, start + count) for member in sample(f"{seed:04d}", seed)]

    bad = shard(8, 7)
    bad[3] = (bad[3][0], b"no image at all")
    return {
        "a.tar": tar_bytes(shard(0, 8)),
        "b.tar": tar_bytes(bad, tarfile.PAX_FORMAT),
        "c.tar.gz": gzip.compress(tar_bytes(shard(15, 5)), mtime=0),
    }


def put(folder, files):
    """Stores files without the code under test."""
    for name, data in files.items():
        stream = FileSystems.create(f"{folder}/{name}", compression_type=CompressionTypes.UNCOMPRESSED)
        with contextlib.closing(stream):
            stream.write(data)


def run_job(
    data, output, *, resume=False, overwrite=False, options=(), per_shard=6, seed=None, handler=StubHandler, **rules
):
    """Runs or continues the job as the command does; returns the summary."""
    beam_options = PipelineOptions(["--runner=FnApiRunner", *options])
    FileSystems.set_options(beam_options)
    Run(output).begin(
        WantedRun(read_configuration({"stub": 1}), list_shards(f"{data}/*.tar*"), resume=resume, overwrite=overwrite)
    )
    score = ScoreAndFilter(stub_heads(), **rules)
    with beam.Pipeline(options=beam_options) as root:
        run = root | ContinueRun(output)
        _ = (
            run.pending
            | ReadTarShards()
            | DecodeImages(DecodeOptions(size=32))
            | RunInference(handler()).with_output_types(EmbeddedSample)
            | score
            | WriteWebDatasetShards(output, score.score_names, DIM, per_shard, seed, run.done)
        )
    clean_temporary(output)
    return read_json(join(output, "summary.json"))


def stored(folder):
    """All files below a folder by their path in it."""
    found = {}
    for file in FileSystems.match([f"{folder}/**"])[0].metadata_list:
        stream = FileSystems.open(file.path, compression_type=CompressionTypes.UNCOMPRESSED)
        with contextlib.closing(stream):
            found[file.path.removeprefix(folder).lstrip("/")] = stream.read()
    return found


def comparable(files):
    return {name: data for name, data in files.items() if name not in NOT_COMPARED}


def pathless(files):
    """What must be the same whatever the file system: tables lose the column of paths, statistics are left out."""
    same = {}
    for name, data in comparable(files).items():
        if name.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            table = table.replace_schema_metadata(None)
            same[name] = table.drop_columns([column for column in ("shard", "path") if column in table.column_names])
        elif not name.endswith("_stats.json"):
            same[name] = data
    return same
