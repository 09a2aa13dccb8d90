"""An export as a Dataflow job: submitted to a service on this machine, and run from what was staged, in an emulated bucket."""

import io
import json

import pyarrow.parquet as pq
from tfrecord import tfrecord_loader

from tests.support.dataflow_stub import BUCKET, dataflow, submit
from tests.support.exporting_runs import awkward, curated


def test_a_run_in_a_bucket_is_exported_by_a_submitted_job(tmp_path):
    run = curated(awkward(tmp_path), tmp_path / "run", "--samples_per_shard=5")
    with dataflow(tmp_path) as service:
        for path in run.iterdir():
            if path.is_file():
                service.bucket.write(f"run/{path.name}", path.read_bytes())
        printed = submit(
            service, tmp_path, "export", f"--input=gs://{BUCKET}/run", f"--output=gs://{BUCKET}/records",
            "--format=tfrecord", "--samples_per_file=4", "--shuffle_seed=1", "--resize_shortest=64", "--image_format=jpeg",
        )  # fmt: skip
        assert "exported  21 samples" in printed
        summary = json.loads(service.bucket.read("records/summary.json"))
        assert (summary["runner"], summary["export"]["exported"]) == ("DataflowRunner", 21)
        names = service.bucket.names("records/")
        assert not [name for name in names if "_temporary" in name]
        keys = []
        for number in range(6):
            assert f"records/{number:05d}.tfindex" in names
            (tmp_path / "records").write_bytes(service.bucket.read(f"records/{number:05d}.tfrecord"))
            records = list(tfrecord_loader(str(tmp_path / "records"), None))
            rows = pq.read_table(io.BytesIO(service.bucket.read(f"records/{number:05d}.parquet"))).to_pylist()
            assert [record["image/source_id"].decode() for record in records] == [row["key"] for row in rows]
            keys += [row["key"] for row in rows]
    assert sorted(keys) == [f"{shard}{n}" for shard in range(3) for n in range(7)]
    assert keys != sorted(keys)
