"""The whole job on object stores: gs:// on a GCS emulator and s3:// on moto's server, both started here."""

import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import numpy as np
import pyarrow as pa
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from google.api_core.retry import Retry

from beam_curate.records import Shard
from beam_curate.runs import claim_holders, claims
from beam_curate.runs.claims import RunError
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.run import Run
from beam_curate.runs.score_table import embedding_column, write_table
from beam_curate.runs.wanted import WantedRun
from beam_curate.storage import files, ranged_reading, retrying
from beam_curate.storage.exclusive import create_new
from beam_curate.storage.listing import InputError, list_shards
from beam_curate.storage.object_stores import delete_gcs
from beam_curate.storage.parquet_reading import open_parquet
from beam_curate.storage.ranged_reading import RangeReader
from beam_curate.storage.retrying import StorageError
from beam_curate.tars.sources import SourceChangedError, SourceReader
from tests.conftest import tar_bytes
from tests.support.object_stores import BUCKET
from tests.support.storage_jobs import comparable, pathless, put, run_job, shard_bytes, stored


@pytest.fixture(scope="module")
def local_run(tmp_path_factory):
    """What the job makes of the same shards on the local disk."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "data").mkdir()
    for name, data in shard_bytes().items():
        (folder / "data" / name).write_bytes(data)
    run_job(str(folder / "data"), str(folder / "out"))
    return pathless(stored(str(folder / "out")))


def test_the_job_its_refusal_resume_and_overwrite(store, local_run):
    put(f"{store.root}/data", shard_bytes())
    data, output = f"{store.root}/data", f"{store.root}/runs/out"
    summary = run_job(data, output, options=store.options)
    assert summary["funnel"]["input"] == 20
    first = stored(output)
    assert pathless(first) == local_run
    assert not any(name.startswith(files.TEMPORARY) for name in first)

    with pytest.raises(RunError, match="holds a run already"):
        run_job(data, output, options=store.options)

    files.delete([f"{output}/{name}" for name in ("summary.json", "scores/part-00001.parquet", "00002.tar")])
    store.put(f"runs/out/_temporary/{32 * 'a'}-00002.tar", b"half")
    store.sent.clear()
    run_job(data, output, options=store.options, resume=True)
    assert comparable(stored(output)) == comparable(first)

    store.put("runs/out/00009.tar", b"of an older run")
    run_job(data, output, options=store.options, overwrite=True)
    assert comparable(stored(output)) == comparable(first)


ODD = ["plain.tar", "with space.tar", "per%cent.tar", "pct%2F.tar", "hash#1.tar", "amp&eq=.tar",
       "\u00fcn\u00ef.tar", "semi;colon.tar",
       "at@.tar", "apos'.tar", "tilde~.tar", "star*.tar", "bra[1].tar", "back\\slash.tar"]  # fmt: skip


def test_every_object_can_be_named_and_markers_of_folders_are_no_shards(store, tmp_path):
    for name in [*ODD, *(["q?mark.tar", "two//slashes.tar"] if store.root.startswith("s3") else [])]:
        store.put(f"odd/{name}", b"x")
    for marker in ("odd/", "odd/folder.tar/", "odd/old.tar_$folder$"):
        store.put_empty(marker)
    listed = [shard.path.removeprefix(f"{store.root}/odd/") for shard in list_shards(f"{store.root}/odd/**")]
    assert set(listed) >= set(ODD)
    assert not [path for path in listed if path.endswith(("/", "$")) or not path]
    for path in listed:
        assert f"{store.root}/odd/{path}" in [shard.path for shard in list_shards(f"{store.root}/odd/{path}")]
    assert {name for name in listed if "/" not in name} == {
        shard.path.removeprefix(f"{store.root}/odd/") for shard in list_shards(f"{store.root}/odd/*.tar")
    }
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(f"{store.root}/odd/{path}" for path in listed))
    assert len(list_shards(str(listing))) == len(listed)
    with pytest.raises(InputError, match="is a folder; give the shards in it"):
        list_shards(f"{store.root}/odd/")


def test_a_resumed_run_does_not_read_finished_shards(store):
    put(f"{store.root}/more", shard_bytes())
    data, output = f"{store.root}/more", f"{store.root}/out2"
    run_job(data, output, options=store.options, min_aesthetic=20.0)  # keeps nothing, so nothing is read for writing
    files.delete([f"{output}/summary.json", f"{output}/scores/part-00002.parquet"])
    store.sent.clear()
    run_job(data, output, options=store.options, min_aesthetic=20.0, resume=True)
    assert {name: store.sent[name] for name in store.sent if name.startswith("more/")} == {
        "more/c.tar.gz": len(shard_bytes()["c.tar.gz"])
    }


def test_files_and_folders(store):
    root = f"{store.root}/x/y"
    store.put("x/y/a[1].json", b"1")
    store.put("x/y/b.json", b"22")
    store.put("x/y/deep/c.json", b"333")
    store.put("x/yz/d.json", b"4444")
    assert files.files_under(root, "*") == {f"{root}/a[1].json": 1, f"{root}/b.json": 2}
    assert files.files_under(f"{root}/", "deep/*.json") == {f"{root}/deep/c.json": 3}
    assert files.match([f"{root}/*.json", f"{root}/none*"]) == [files.files_under(root, "*"), {}]
    assert files.exists(f"{root}/b.json")
    assert not files.exists(f"{root}/none")
    first, last = (files.status_of(f"{root}/{name}") for name in ("a[1].json", "deep/c.json"))
    assert (first.size, last.size) == (1, 3)
    assert 0 < first.changed <= last.changed
    files.delete([f"{root}/a[1].json", f"{root}/never"])
    assert files.files_under(root, "*") == {f"{root}/b.json": 2}


def test_a_missing_file_is_named_at_once(store, monkeypatch):
    monkeypatch.setattr(retrying, "sleep", None)
    with pytest.raises(StorageError, match=rf"opening {store.root}/never failed: .*(404|Not Found)"):
        files.open_read(f"{store.root}/never")
    nowhere = f"{store.root.replace(BUCKET, 'no-such-bucket')}/*"
    if store.root.startswith("gs"):
        with pytest.raises(StorageError, match=r"listing gs://no-such-bucket/\* failed: "):
            files.match([nowhere])
    else:
        assert files.match([nowhere]) == [{}]  # Beam does not tell a missing bucket from an empty one


def test_a_busy_store_is_asked_again(store, monkeypatch):
    pauses = []
    monkeypatch.setattr(retrying, "sleep", pauses.append)
    # The clients retry on their own first, in real time; here they are stopped from it.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    never = Retry(predicate=lambda error: False)
    monkeypatch.setattr("apache_beam.io.gcp.gcsio_retry.get_retry", lambda options: never)
    output = f"{store.root}/busy"
    store.put("busy/a.bin", bytes(100_000))
    reader = RangeReader(f"{output}/a.bin")
    store.fail_next = 1
    assert reader.read(10, 1000) == bytes(990)
    store.fail_next = 1
    with files.atomic_output(output, "b.bin") as stream:
        stream.write(b"b" * 1000)
    store.fail_next = 1
    files.delete([f"{output}/a.bin"])
    assert len(pauses) >= (3 if store.root.startswith("s3") else 1)  # the GCS client always retries uploads itself
    assert files.files_under(output, "**") == {f"{output}/b.bin": 1000}


def test_streams_come_in_large_ranges_and_once(store, monkeypatch):
    monkeypatch.setattr(ranged_reading, "REMOTE_BUFFER_BYTES", 1 << 20)
    data = random.Random(0).randbytes(5_500_000)
    store.put("large.bin", data)
    store.sent.clear()
    store.requests.clear()
    with files.open_read(f"{store.root}/large.bin") as stream:
        pieces = [stream.read(512)]
        while piece := stream.read(100_000):
            pieces.append(piece)
    assert b"".join(pieces) == data
    assert store.requests["large.bin"] <= 7
    assert store.sent["large.bin"] <= len(data) + 7  # the GCS client asks for a byte more than wanted


def test_only_what_is_kept_is_fetched(store, capsys):
    """Of 200 samples of about 100 KB in one shard, 10 are kept; their bytes and little more cross the wire."""
    rng = random.Random(1)
    bodies = [rng.randbytes(rng.randrange(50_000, 150_000)) for _ in range(200)]
    members = [pair for n, body in enumerate(bodies) for pair in ((f"{n}.jpg", body), (f"{n}.txt", b"caption %d" % n))]
    data = tar_bytes(members)
    store.put("kept/a.tar", data)
    places, offset = [], 0
    for name, body in members:
        places.append((offset + 512, len(body), name))
        offset += 512 + -(-len(body) // 512) * 512
    wanted = sorted(place for n in rng.sample(range(200), 10) for place in (2 * n, 2 * n + 1))
    needed = sum(places[place][1] for place in wanted)
    for planned in (True, False):
        store.sent.clear()
        store.requests.clear()
        with SourceReader() as reader:
            if planned:
                reader.expect(f"{store.root}/kept/a.tar", [places[place][:2] for place in wanted])
            for place in wanted:
                key, suffix = places[place][2].split(".")
                found = reader.read(f"{store.root}/kept/a.tar", *places[place][:2], suffix, key)
                assert found == members[place][1]
        sent, requests = store.sent["kept/a.tar"], store.requests["kept/a.tar"]
        with capsys.disabled():
            print(
                f"\n{store.root}: 5 % kept, {'planned' if planned else 'one by one'}: {sent} bytes sent in {requests} "
                f"requests, {needed} needed ({sent / needed:.3f}), {len(data)} in the shard"
            )
        assert needed < sent < (1.4 if planned else 1.02) * needed
        assert requests <= (11 if planned else 21)


def test_a_column_of_a_table_costs_its_bytes_and_one_footer(store):
    rows = 20_000
    noise = np.random.default_rng(0).standard_normal((rows, 64)).astype("<f2")
    scores = pa.array(np.random.default_rng(1).standard_normal(rows).astype("<f4"))
    columns = {"key": [str(n) for n in range(rows)], "aesthetic": scores, "embedding": embedding_column(noise)}
    stream = io.BytesIO()
    footer = write_table(stream, pa.table(columns))
    store.put("columns/part.parquet", stream.getvalue())
    store.sent.clear()
    store.requests.clear()
    with open_parquet(f"{store.root}/columns/part.parquet") as part:
        assert part.read(["aesthetic"]).column("aesthetic").combine_chunks().equals(scores)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    wanted = sum(group.column(1).total_compressed_size for group in groups)
    assert (
        store.sent["columns/part.parquet"] - wanted <= (1 << 16) + 1024
    )  # beside the footer, what the store says of the object
    assert store.requests["columns/part.parquet"] == 1 + len(groups)


def test_the_job_fetches_only_what_is_kept(store, monkeypatch):
    """The writing phase of the job itself."""
    from tests.transforms.test_pipeline import sample_members

    members = [
        m for n in range(40) for m in sample_members(f"{n:03d}", n, txt=b"t", bin=random.Random(n).randbytes(60_000))
    ]
    data = tar_bytes(members)
    store.put("sparse/a.tar", data)
    output = f"{store.root}/sparse_out"
    run_job(f"{store.root}/sparse", output, options=store.options)
    scores = sorted(row["aesthetic"] for row in _rows(output))
    files.delete(list(files.files_under(output, "**")))
    store.sent.clear()
    summary = run_job(f"{store.root}/sparse", output, options=store.options, min_aesthetic=scores[-2])
    kept = summary["funnel"]["kept"]
    assert 1 <= kept <= 3
    writing = store.sent["sparse/a.tar"] - len(data)
    size = len(data) / 40
    print(
        f"{store.root}: {writing} bytes fetched for {kept} of 40 samples of {size:.0f} bytes, {len(data)} in the shard"
    )
    assert kept * 60_000 < writing < len(data) / 4


def _rows(output):
    import pyarrow.parquet as pq

    with files.open_read(f"{output}/scores/part-00000.parquet") as stream:
        return pq.read_table(stream, columns=["aesthetic"]).to_pylist()


def test_a_source_that_changes_between_scoring_and_writing(store, monkeypatch):
    from beam_curate.transforms import pack_files

    shards = shard_bytes()
    put(f"{store.root}/changing", shards)
    flipped = bytearray(shards["a.tar"])
    flipped[700] ^= 1
    changes = {
        r"a\.tar changed after it was scored: the image of sample '0000' has sha256": bytes(flipped),
        r"a\.tar changed after it was scored: it is shorter": shards["a.tar"][:3000],
    }
    original = pack_files.write_file
    for number, (message, changed) in enumerate(changes.items()):

        def change(*arguments, changed=changed):
            store.put("changing/a.tar", changed)
            return original(*arguments)

        monkeypatch.setattr(pack_files, "write_file", change)
        store.put("changing/a.tar", shards["a.tar"])
        output = f"{store.root}/changed{number}"
        with pytest.raises(RuntimeError, match=message):
            run_job(f"{store.root}/changing", output, options=store.options)
        assert "00000.tar" not in stored(output)
        assert "summary.json" not in stored(output)


def test_an_object_that_is_replaced_while_it_is_read(store, monkeypatch):
    monkeypatch.setattr(retrying, "sleep", lambda seconds: None)
    store.put("replaced.bin", bytes(5000))
    reader = RangeReader(f"{store.root}/replaced.bin")
    reader.read(0, 10)
    store.put("replaced.bin", b"x" * 4000)
    if store.root.startswith("s3"):
        with pytest.raises(StorageError, match=r"reading s3://\S+replaced\.bin failed: .*412"):
            reader.read(10, 4000)
    else:
        # GCS answers 404 for the generation that was opened; the emulator does not know generations, but the length shows.
        with pytest.raises(StorageError, match=r"replaced\.bin"):
            reader.read(4500, 4600)


def test_many_objects_are_deleted_with_few_requests(gcs, monkeypatch):
    FileSystems.set_options(PipelineOptions(gcs.options))
    for number in range(5):
        gcs.put(f"many/{number}", b"x")
    delete_gcs([f"{gcs.root}/many/{number}" for number in range(250)])
    assert files.files_under(f"{gcs.root}/many", "*") == {}
    FileSystems.set_options(None)


def test_a_changed_member_is_named(store):
    before = [("1.jpg", b"j" * 900), ("1.txt", b"one"), ("2.jpg", b"k" * 900), ("2.txt", b"two")]
    swapped = [before[0], before[3], before[2], before[1]]
    store.put("swapped.tar", tar_bytes(swapped))
    with (
        SourceReader() as reader,
        pytest.raises(SourceChangedError, match=r"swapped\.tar changed after it was scored: .* was a member '1\.txt'"),
    ):
        reader.read(f"{store.root}/swapped.tar", 512 + 1024 + 512, 3, "txt", "1")


@pytest.fixture
def conditional(monkeypatch):
    """The conditions of writing, as the stores keep them: the GCS emulator knows none, and moto looks and writes in two steps."""
    from gcp_storage_emulator.handlers import objects
    from moto.s3.responses import S3Response

    lock, upload, put_object = threading.Lock(), objects._multipart_upload, S3Response.put_object

    def uploaded(request, response, storage):
        with lock:
            if request.query.get("ifGenerationMatch") == ["0"]:
                name = request.query["name"][0] if "name" in request.query else request.data["meta"]["name"]
                bucket = request.params["bucket_name"]
                if any(found["name"] == name for found in storage.get_file_list(bucket, name, None)[0]):
                    response.status = HTTPStatus.PRECONDITION_FAILED
                    response.json({"error": {"code": 412, "message": "conditionNotMet"}})
                    return None
            return upload(request, response, storage)

    def put(self):
        with lock:
            return put_object(self)

    monkeypatch.setattr(objects, "_multipart_upload", uploaded)
    monkeypatch.setattr(S3Response, "put_object", put)


def test_of_several_that_create_an_object_one_does(store, conditional):
    for number in range(5):
        path = f"{store.root}/new/{number}"
        start = threading.Barrier(4)

        def create(who, path=path, start=start):
            start.wait()
            return create_new(path, b"%d" % who)

        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(create, range(4)))
        assert sorted(made) == [False, False, False, True]
        assert store.get(f"new/{number}") == b"%d" % made.index(True)
        assert create_new(path, b"%d" % made.index(True))  # whose answer was lost


def test_a_job_on_a_store_is_refused_while_another_runs(store, conditional, monkeypatch):
    output = f"{store.root}/claimed"
    Run(output).begin(WantedRun(Configuration(), [Shard(0, "/s/0.tar", 1)]))
    monkeypatch.setattr(claims, "_held", {})  # of a process that is not this one
    claims.claim(output)
    monkeypatch.setattr(claims, "_held", {})  # as in another process
    with pytest.raises(RunError, match="another job writes there, process"):
        Run(output).begin(WantedRun(Configuration(), [Shard(0, "/s/0.tar", 1)], overwrite=True))
    monkeypatch.setattr(claim_holders, "process_started", lambda pid: "")  # it was killed
    assert Run(output).begin(WantedRun(Configuration(), [Shard(0, "/s/0.tar", 1)], resume=True)) is False
    assert sorted(stored(output)) == ["input_shards.parquet", "run.json"]
