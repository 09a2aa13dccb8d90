"""A search for duplicates as a Dataflow job: submitted to a service on this machine, and run from what was staged."""

import io
import json
import tarfile

import pyarrow.parquet as pq

from beam_curate.duplicates.table import part_name
from tests.conftest import encoded, photo, tar_bytes
from tests.support.dataflow_stub import BUCKET, dataflow, submit

MODEL = ["--clip_model=ViT-S-32-alt", "--pretrained=random", "--aesthetic_head=random", "--nsfw_head=random"]
OFF = ["--min_aesthetic=none", "--max_nsfw=none"]


def shard(number):
    """Six photographs; the last two of the second shard are those of the first: the same bytes, and other bytes."""
    images = [encoded(photo(10 * number + n)) for n in range(6)]
    if number:
        images[4:] = [encoded(photo(4)), encoded(photo(5), quality=60)]
    return tar_bytes([(f"{number}{n}.jpg", image) for n, image in enumerate(images)])


def test_duplicates_in_a_bucket_are_removed_by_a_submitted_job(tmp_path):
    with dataflow(tmp_path) as service:
        for number in range(2):
            service.bucket.write(f"in/{number:05d}.tar", shard(number))
        # The table is of shards in the bucket, and lies there too.
        scoring = [f"--input=gs://{BUCKET}/in/*.tar", f"--output=gs://{BUCKET}/scored", *MODEL, *OFF]
        printed = submit(
            service, tmp_path, "dedup", f"--scores=gs://{BUCKET}/scored", f"--output=gs://{BUCKET}/unique",
            "--methods=exact,perceptual,semantic", "--eps=1e-9", "--keep_by=first", "--samples_per_shard=4",
            before=[("curate", scoring)],
        )  # fmt: skip
        assert "duplicates: 2 samples (exact 1, perceptual 1) in 2 groups" in printed
        summary = json.loads(service.bucket.read("unique/summary.json"))
        assert (summary["runner"], summary["funnel"]["kept"]) == ("DataflowRunner", 10)
        names = service.bucket.names("unique/")
        assert not [name for name in names if "_temporary" in name]
        found = pq.read_table(io.BytesIO(service.bucket.read(f"unique/{part_name(1)}"))).to_pylist()
        assert {row["key"]: (row["method"], row["duplicate_of_key"]) for row in found} == {
            "14": ("exact", "04"),
            "15": ("perceptual", "05"),
        }
        keys = []
        for number in range(3):
            with tarfile.open(fileobj=io.BytesIO(service.bucket.read(f"unique/{number:05d}.tar"))) as archive:
                keys += archive.getnames()
    assert keys == [f"{name}.jpg" for name in ("00", "01", "02", "03", "04", "05", "10", "11", "12", "13")]
