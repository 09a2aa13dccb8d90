import errno
import io
import os
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.localfilesystem import LocalFileSystem
from google.api_core.exceptions import Forbidden, NotFound, RetryError, ServiceUnavailable, TooManyRequests
from google.auth.exceptions import RefreshError

from beam_curate.storage import files, object_stores, ranged_reading, retrying
from beam_curate.storage.ranged_reading import RangeReader
from beam_curate.storage.retrying import Attempts, InterruptedTransferError, StorageError, is_transient
from tests.support.fault_filesystem import KINDS, Faults, FaultyFileSystem, permanent
from tests.support.storage_jobs import comparable, put, run_job, shard_bytes, stored


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that would have been made."""
    made = []
    monkeypatch.setattr(retrying, "sleep", made.append)
    return made


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """A folder on the faulty file system, and how to make it faulty."""

    def inject(**settings):
        faults = Faults(**settings)
        monkeypatch.setattr(FaultyFileSystem, "faults", faults)
        return faults

    inject()
    return f"faulty://{tmp_path}", inject


def files_of(folder):
    return sorted(name for _, _, names in os.walk(folder) for name in names)


def test_a_file_appears_whole(tmp_path):
    output = str(tmp_path / "out")
    with files.atomic_output(output, "scores/a.bin") as stream:
        stream.write(b"half")
        assert not os.path.exists(f"{output}/scores/a.bin")
        stream.write(b" whole")
    assert files.read_bytes(f"{output}/scores/a.bin") == b"half whole"
    files.clean_temporary(output)
    assert sorted(os.listdir(output)) == ["scores"]


def test_a_streamed_file_is_not_visible_before_its_end(tmp_path):
    def write(stream):
        stream.write(b"half" * 500_000)
        (temporary,) = files_of(tmp_path)
        assert os.path.exists(tmp_path / "_temporary" / temporary)
        stream.write(memoryview(b" whole"))
        assert stream.tell() == 2_000_006
        return "result"

    assert files.write_atomic(str(tmp_path), "a.bin", write) == "result"
    assert (tmp_path / "a.bin").read_bytes() == b"half" * 500_000 + b" whole"
    assert files_of(tmp_path) == ["a.bin"]


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_writer_goes_on(tmp_path, monkeypatch):
    steps = []
    sync, rename = os.fsync, FileSystems.rename

    def synced(file):
        steps.append(("synced", os.readlink(f"/proc/self/fd/{file}"), os.fstat(file).st_size))
        sync(file)

    def renamed(sources, targets):
        steps.append(("renamed", sources[0], targets[0]))
        rename(sources, targets)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(FileSystems, "rename", staticmethod(renamed))
    output = str(tmp_path)
    with files.atomic_output(output, "scores/a.bin") as stream:
        stream.write(b"x" * 3000)
    files.write_atomic(output, "0.tar", lambda stream: stream.write(b"y" * (3 << 20)))
    for name, size in (("scores/a.bin", 3000), ("0.tar", 3 << 20)):
        path = f"{output}/{name}"
        (named,) = [number for number, step in enumerate(steps) if step[0] == "renamed" and step[2] == path]
        assert ("synced", steps[named][1], size) in steps[:named]
        assert steps[named + 1][:2] == ("synced", os.path.dirname(path))


def test_a_file_larger_than_the_spool(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SPOOLED_BYTES", 1000)
    data = os.urandom(100_000)
    with files.atomic_output(str(tmp_path), "a.bin") as stream:
        for start in range(0, len(data), 999):
            stream.write(data[start : start + 999])
    assert (tmp_path / "a.bin").read_bytes() == data


def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path):
    output = str(tmp_path)
    files.write_json(output, "a.json", {"old": 1})
    with pytest.raises(ZeroDivisionError), files.atomic_output(output, "a.json") as stream:
        stream.write(b"{")
        raise ZeroDivisionError
    calls = []

    def write(stream):
        calls.append(stream.write(b"{"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        files.write_atomic(output, "a.json", write)
    assert calls == [1]  # the caller's own errors are not retried
    assert files.read_json(f"{output}/a.json") == {"old": 1}
    assert files_of(output) == ["a.json"]


def test_a_failed_rename_is_an_error(tmp_path, monkeypatch):
    def refuse(self, sources, destinations):
        raise BeamIOError("Rename operation failed", {})

    monkeypatch.setattr(LocalFileSystem, "rename", refuse)
    with pytest.raises(StorageError, match=r"renaming to \S+a\.json failed.*Rename"):
        files.write_json(str(tmp_path), "a.json", 1)
    assert files_of(tmp_path) == []


def test_clean_temporary_removes_what_a_killed_write_left(tmp_path):
    (tmp_path / "_temporary").mkdir()
    (tmp_path / "_temporary" / f"{uuid.uuid4().hex}-a.tar").write_bytes(b"half")
    files.clean_temporary(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_delete_of_a_missing_file_is_fine(tmp_path, faulty):
    files.delete([f"{tmp_path}/never"])
    files.delete([f"{faulty[0]}/never"])


def test_urls_stay_and_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.absolute("gs://bucket/a") == "gs://bucket/a"
    assert files.absolute("a/b") == f"{tmp_path}/a/b"
    assert files.join("/a/b/", "c") == "/a/b/c"


@pytest.mark.parametrize("root", ["local", "faulty"])
def test_a_folder_named_like_a_pattern(root, tmp_path, faulty):
    output = (str(tmp_path) if root == "local" else faulty[0]) + "/out[1]*"
    for name in ("scores/part-00000.parquet", "scores/part-00001.parquet", "x.json"):
        files.write_json(output, name, 1)
    files.write_json(output.replace("[1]*", "1"), "scores/part-00002.parquet", 1)
    parts = files.files_under(output, "scores/part-*.parquet")
    assert parts == {f"{output}/scores/part-0000{n}.parquet": 2 for n in range(2)}
    assert list(files.files_under(output, "*")) == [f"{output}/x.json"]
    files.delete(list(parts))
    assert files_of(f"{tmp_path}/out[1]*") == ["x.json"]
    assert files_of(f"{tmp_path}/out1") == ["part-00002.parquet"]
    assert files.files_under(f"{tmp_path}/nowhere", "*") == {}


def in_context(error, cause):
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "x"),
        OSError(errno.ESTALE, "x"),
        OSError(OSError(errno.EIO, "x")),
        TimeoutError(),
        ConnectionResetError(),
        BrokenPipeError(),
        InterruptedTransferError("x"),
        BeamIOError("x", {"a": 503, "b": OSError(errno.EIO, "x")}),
        BeamIOError("x", {"a": BeamIOError("y", {"b": 429})}),
        ServiceUnavailable("x"),
        TooManyRequests("x"),
        RetryError("x", cause=None),
        RefreshError("x", retryable=True),
        requests.ConnectionError(),
        requests.Timeout(),
        S3ClientError("x", 500),
        S3ClientError("x", "SlowDown"),
        in_context(S3ClientError("x", None), ConnectionResetError()),
    ],
    ids=repr,
)
def test_transient_errors(error):
    assert is_transient(error)
    assert isinstance(error, retrying.STORAGE_ERRORS)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "x"),
        PermissionError(errno.EACCES, "x"),
        OSError(errno.ENOSPC, "x"),
        OSError(errno.EDQUOT, "x"),
        OSError(PermissionError(errno.EACCES, "x")),
        OSError("who knows"),
        BeamIOError("x"),
        BeamIOError("x", {"a": 404}),
        BeamIOError("x", {"a": 503, "b": 403}),
        NotFound("x"),
        Forbidden("x"),
        RefreshError("x"),
        requests.HTTPError(),
        S3ClientError("x", 403),
        S3ClientError("x", "AccessDenied"),
        in_context(S3ClientError("x", None), ValueError("no credentials")),
        StorageError("tried for long enough"),
        ValueError("a bug"),
    ],
    ids=repr,
)
def test_permanent_errors(error):
    assert not is_transient(error)


def test_attempts_are_bounded_and_pauses_double(pauses):
    attempts = Attempts("reading", "gs://b/a.tar")
    for _ in range(retrying.MAX_ATTEMPTS - 1):
        attempts.failed(TimeoutError("slow"))
    for pause, full in zip(pauses, (0.5, 1, 2, 4, 8, 16, 30, 30, 30), strict=True):
        assert full / 2 <= pause <= full
    with pytest.raises(StorageError, match=r"reading gs://b/a\.tar failed, after 10 attempts: TimeoutError: slow"):
        attempts.failed(TimeoutError("slow"))


def test_progress_counts_attempts_anew_and_time_is_bounded(pauses, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(retrying, "clock", lambda: now[0])
    attempts = Attempts("reading", "x")
    for _ in range(3 * retrying.MAX_ATTEMPTS):
        attempts.failed(TimeoutError())
        attempts.progressed()
    attempts.failed(TimeoutError())
    now[0] = retrying.MAX_SECONDS + 1
    with pytest.raises(StorageError):
        attempts.failed(TimeoutError())


def test_a_permanent_error_is_not_retried_and_names_the_file(pauses, faulty, tmp_path):
    root, inject = faulty
    (tmp_path / "a.bin").write_bytes(b"x")
    faults = inject(rates={"open_error": 1.0}, error=permanent)
    with pytest.raises(StorageError, match=r"opening faulty://\S+a\.bin failed: "):
        files.open_read(f"{root}/a.bin")
    assert faults.calls["open_error"] == 1
    assert pauses == []


@pytest.mark.parametrize("kind", ["open_error", "read_error", "short_read", "early_end"])
def test_a_broken_stream_goes_on_where_it_was(kind, pauses, faulty, tmp_path, monkeypatch):
    monkeypatch.setattr(ranged_reading, "REMOTE_BUFFER_BYTES", 1 << 16)
    root, inject = faulty
    data = os.urandom(3 << 20)
    (tmp_path / "a.bin").write_bytes(data)
    faults = inject(seed=3, rates={"read_error": 0.2, kind: 0.3})
    with files.open_read(f"{root}/a.bin") as stream:
        pieces = [stream.read(100_000), stream.read(1)]
        assert stream.seek(5) == 5
        assert stream.read(10) == data[5:15]
        stream.seek(100_001)
        while piece := stream.read(70_000):
            pieces.append(piece)
        assert stream.seek(-10, io.SEEK_END) == len(data) - 10
        assert stream.read() == data[-10:]
    assert b"".join(pieces) == data
    assert faults.injected[kind] > 1


def test_a_range_is_fetched_exactly(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 100)
    reader = RangeReader(str(tmp_path / "a.bin"))
    assert reader.read(300, 310) == bytes(range(44, 54))
    assert (reader.requests, reader.fetched) == (1, 10)
    assert reader.read(25_590, 99_999) == bytes(range(246, 256))
    assert reader.read(99_999, 100_000) == b""
    reader.close()
    assert reader.read(0, 1) == b"\0"


def test_a_file_that_is_replaced_while_it_is_read(pauses, faulty, tmp_path):
    root, inject = faulty
    (tmp_path / "a.bin").write_bytes(bytes(1000))
    reader = RangeReader(f"{root}/a.bin")
    (tmp_path / "a.bin").write_bytes(bytes(900))
    inject(once_at={"read_error": 1})
    with pytest.raises(StorageError, match="had 1000 bytes when it was opened and has 900 now"):
        reader.read(0, 1000)


def test_a_file_that_is_cut_while_it_is_read_is_asked_for_no_more(pauses, tmp_path, monkeypatch):
    path, asked = tmp_path / "a.bin", []
    path.write_bytes(bytes(1000))
    read_at = object_stores.StreamSource.read_at

    def counted(source, start, stop):
        asked.append(start)
        assert len(asked) < 5, "it asks again and again for what is not there"
        return read_at(source, start, stop)

    monkeypatch.setattr(object_stores.StreamSource, "read_at", counted)
    reader = RangeReader(str(path))
    os.truncate(path, 400)
    with pytest.raises(StorageError, match="had 1000 bytes when it was opened and has 400 now"):
        reader.read(0, 1000)
    assert asked == [0, 400]


WRITING = ["create_error", "write_error", "close_error", "close_loss", "metadata_error", "rename_error",
           "rename_lost_answer"]  # fmt: skip


@pytest.mark.parametrize("kind", WRITING)
def test_a_failed_write_starts_again(kind, pauses, faulty, tmp_path):
    root, inject = faulty
    faults = inject(seed=1, rates={kind: 0.5})
    for number in range(10):
        with files.atomic_output(root, f"{number}.bin") as stream:
            stream.write(b"%d" % number * 5000)
    faults.rates = {}
    assert faults.injected[kind] > 2
    assert files_of(tmp_path) == [f"{number}.bin" for number in range(10)]
    for number in range(10):
        assert files.read_bytes(f"{root}/{number}.bin") == b"%d" % number * 5000


@pytest.mark.parametrize("kind", [kind for kind in WRITING if kind not in ("close_loss", "rename_lost_answer")])
def test_a_write_that_fails_for_good_leaves_nothing(kind, pauses, faulty, tmp_path):
    root, inject = faulty
    files.write_json(root, "a.json", "old")
    for number in range(1, 4):
        inject(once_at={kind: 1}, error=permanent, seed=number)
        with pytest.raises(StorageError, match=r"a\.json"):
            files.write_json(root, "a.json", "new")
        inject()
        assert files.read_json(f"{root}/a.json") == "old"
        assert files_of(tmp_path) == ["a.json"]


def test_a_lost_answer_of_a_rename_is_no_excuse_for_other_bytes(pauses, faulty, tmp_path, monkeypatch):
    root, _ = faulty
    (tmp_path / "a.bin").write_bytes(b"old")

    def lose(self, sources, destinations):
        os.remove(sources[0].removeprefix("faulty://"))
        raise BeamIOError("Rename operation failed", {sources[0]: 404})

    monkeypatch.setattr(FaultyFileSystem, "rename", lose)
    with pytest.raises(StorageError), files.atomic_output(root, "a.bin") as stream:
        stream.write(b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_parquet_survives_failed_writes(pauses, faulty):
    root, inject = faulty
    table = pa.table({"a": np.arange(50_000)})
    faults = inject(once_at={"write_error": 1})

    def write(stream):
        with pq.ParquetWriter(stream, table.schema) as writer:
            writer.write_table(table, row_group_size=10_000)

    files.write_atomic(root, "a.parquet", write)
    assert faults.injected["write_error"] == 1
    faults = inject(seed=2, rates={"short_read": 0.5, "read_error": 0.3})
    with files.open_read(f"{root}/a.parquet") as stream:
        assert pq.read_table(stream).equals(table)
    assert faults.injected.total() > 1


@pytest.mark.parametrize("kind", ["delete_error", "delete_lost_answer", "exists_error"])
def test_deletion_is_repeated(kind, pauses, faulty, tmp_path):
    root, inject = faulty
    paths = [f"{root}/{number}" for number in range(20)]
    for number in range(20):
        (tmp_path / str(number)).write_bytes(b"")
    faults = inject(seed=1, rates={kind: 0.2, "list_error": 0.2})
    files.delete([*paths, f"{root}/never"])
    assert files_of(tmp_path) == []
    assert faults.injected[kind]


def test_one_file_of_many_does_not_hold_up_the_others(pauses, faulty, tmp_path):
    """Of 60 files something fails nearly always, and this file system then deletes none of them."""
    root, inject = faulty
    for number in range(60):
        (tmp_path / str(number)).write_bytes(b"")
    faults = inject(seed=1, rates={"exists_error": 0.1, "metadata_error": 0.1})
    files.delete([f"{root}/{number}" for number in range(60)])
    assert files_of(tmp_path) == []
    assert faults.injected["metadata_error"]


def test_a_file_that_cannot_be_deleted_is_named(pauses, faulty, tmp_path):
    root, inject = faulty
    (tmp_path / "a").write_bytes(b"")
    inject(rates={"delete_error": 1.0}, error=permanent)
    with pytest.raises(StorageError, match=r"deleting faulty://\S+/a failed"):
        files.delete([f"{root}/a"])


@pytest.fixture(scope="module")
def clean_run(tmp_path_factory):
    """Input on the faulty file system, and what the job makes of it undisturbed."""
    folder = tmp_path_factory.mktemp("clean")
    put(f"faulty://{folder}/data", shard_bytes())
    run_job(f"faulty://{folder}/data", f"faulty://{folder}/out")
    return f"faulty://{folder}/data", comparable(stored(f"faulty://{folder}/out"))


RATES = {kind: 0.1 for kind in KINDS if kind not in ("stale_ghost", "stale_missing", "slow_open")}


@pytest.mark.parametrize("seed", range(3))
def test_the_job_on_flaky_storage(seed, clean_run, pauses, faulty, tmp_path):
    data, expected = clean_run
    output, inject = f"{faulty[0]}/out", faulty[1]
    faults = inject(seed=seed, rates=RATES, under=output)
    summary = run_job(data, output)
    faults.rates = {}
    assert faults.injected.total() > 10
    assert summary["funnel"]["input"] == 20
    assert comparable(stored(output)) == expected
    assert not any(files_of(tmp_path / "out" / "_temporary"))


@pytest.mark.parametrize("kind", ["read_error", "write_error", "rename_error"])
def test_a_permanent_error_ends_the_job_and_it_resumes(kind, clean_run, pauses, faulty, tmp_path):
    data, expected = clean_run
    output, inject = f"{faulty[0]}/out", faulty[1]
    inject(once_at={kind: 11}, error=permanent, under=output)
    with pytest.raises(Exception, match=rf"{output}/\S+ failed: \w+: .*(injected|permission)"):
        run_job(data, output)
    assert not (tmp_path / "out" / "summary.json").exists()
    for name, content in comparable(stored(output)).items():
        assert name.startswith("_temporary") or content == expected[name]
    inject()
    run_job(data, output, resume=True)
    assert comparable(stored(output)) == expected


def test_repeated_bundles_change_nothing(clean_run, pauses, faulty):
    data, expected = clean_run
    output, inject = f"{faulty[0]}/out", faulty[1]
    faults = inject(seed=5, rates=RATES, under=output)
    run_job(data, output, options=["--direct_runner_bundle_repeat=2"])
    faults.rates = {}
    assert comparable(stored(output)) == expected
    assert faults.injected.total() > 10
