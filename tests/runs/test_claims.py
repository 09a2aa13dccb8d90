"""One job at a time writes to a folder."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import re
import signal
import textwrap
import time

import pytest

from beam_curate.records import Shard
from beam_curate.runs import claim_holders, claims
from beam_curate.runs.claim_holders import is_alive
from beam_curate.runs.claims import RunError, claim, release
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.run import Run
from beam_curate.runs.wanted import WantedRun
from beam_curate.storage import retrying
from beam_curate.storage.retrying import StorageError
from tests.support import forked

SHARDS = [Shard(0, "/s/0.tar", 1)]
ROUNDS = 20


@pytest.fixture(autouse=True)
def given_back():
    yield
    claims.release_all()


def start(code, *words):
    return forked.Forked(textwrap.dedent(code), *words)


STARTS = """
    import sys
    from beam_curate.records import Shard
    from beam_curate.runs.claims import RunError
    from beam_curate.runs.configuration import read_configuration
    from beam_curate.runs.run import Run
    from beam_curate.runs.wanted import WantedRun
    number = sys.argv[1]
    print("ready", flush=True)
    for output in sys.stdin:
        try:
            Run(output.strip()).begin(WantedRun(read_configuration({"job": number}), [Shard(0, "/s/0.tar", 1)]))
            print("accepted", flush=True)
        except RunError as error:
            print("refused", error, flush=True)
"""


def test_of_two_jobs_that_start_at_once_one_is_accepted(tmp_path):
    jobs = [start(STARTS, str(number)) for number in range(2)]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for number in range(ROUNDS):
        for job in jobs:
            job.stdin.write(f"{tmp_path}/{number}\n")
        for job in jobs:
            job.stdin.flush()
        answers = sorted(job.stdout.readline().split()[0] for job in jobs)
        assert answers == ["accepted", "refused"]
        kept = json.loads((tmp_path / str(number) / "run.json").read_text())["configuration"]
        assert kept["job"] in ("0", "1")
        assert not (tmp_path / str(number) / "_temporary").exists()
    assert [job.close() for job in jobs] == [0, 0]


HOLDS = """
    import sys
    from beam_curate.runs.claims import claim
    claim(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}, {"retry": ["no_image"]}, {}])
def test_a_job_is_refused_while_another_runs_and_not_when_it_was_killed(tmp_path, how):
    output = str(tmp_path / "out")
    Run(output).begin(WantedRun(Configuration(), SHARDS))
    (tmp_path / "out" / "00000.tar").write_bytes(b"x")
    job = start(HOLDS, output)
    assert job.stdout.readline() == "ready\n"
    with pytest.raises(
        RunError, match=rf"another job writes there, process {job.pid} on \S+, since \S+; wait for its end"
    ):
        Run(output).begin(WantedRun(Configuration(), SHARDS, **how))
    assert (tmp_path / "out" / "00000.tar").exists()
    os.kill(job.pid, signal.SIGKILL)
    assert job.close() == -signal.SIGKILL
    if how:
        Run(output).begin(WantedRun(Configuration(), SHARDS, **how))
        assert sorted(os.listdir(output)) == ["00000.tar"] * ("overwrite" not in how) + [
            "input_shards.parquet",
            "run.json",
        ]


def test_a_forked_process_does_not_hold_its_parents_claim(tmp_path):
    code = """
        import os, sys, time
        from beam_curate.runs.claims import claim
        os.setsid()
        claim(sys.argv[1])
        if not os.fork():
            time.sleep(600)
        print("ready", flush=True)
        sys.stdin.read()
    """
    output = str(tmp_path / "out")
    job = start(code, output)
    assert job.stdout.readline() == "ready\n"
    os.kill(job.pid, signal.SIGKILL)
    assert job.close() == -signal.SIGKILL
    try:
        claim(output)
    finally:
        os.killpg(job.pid, signal.SIGKILL)


def test_a_refused_command_leaves_no_folder(tmp_path):
    with pytest.raises(RunError, match="no run to continue"):
        Run(str(tmp_path / "out")).begin(WantedRun(Configuration(), SHARDS, resume=True))
    assert not (tmp_path / "out").exists()


def test_a_claim_is_held_until_its_file_is_gone(tmp_path, monkeypatch):
    """One who could lock the file before it is deleted would hold a name that is not there: the next one would get another."""
    output = str(tmp_path / "out")
    claim(output)
    deleted, delete = [], claims.delete

    def looked(paths):
        file = os.open(paths[0], os.O_RDWR)
        with contextlib.closing(os.fdopen(file)), pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        deleted.extend(paths)
        delete(paths)

    monkeypatch.setattr(claims, "delete", looked)
    release(output)
    assert deleted == [f"{output}/_temporary/running.json"]


@pytest.mark.parametrize("there", ["file", "link", "pipe"])
@pytest.mark.parametrize("below", ["", "/a/b"])
def test_what_is_no_folder_is_named(tmp_path, there, below):
    path = tmp_path / "out"
    {"file": path.touch, "link": lambda: path.symlink_to("/nowhere"), "pipe": lambda: os.mkfifo(path)}[there]()
    with pytest.raises(RunError, match=f"`output` {path}{below}: {path} is no folder; give"):
        claim(f"{path}{below}")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch, code):
    def refused(*args):
        raise OSError(code, os.strerror(code), args[0])

    monkeypatch.setattr(claims, "make_parent", refused)
    with pytest.raises(
        RunError, match=re.escape(f"`output` {tmp_path}/out cannot be written to ({os.strerror(code)}); give")
    ):
        claim(str(tmp_path / "out"))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_claim_that_cannot_be_written_locks_nobody_out(tmp_path, monkeypatch, code):
    """Not this process either, which tries again where that may help."""
    output, real, failed = str(tmp_path / "out"), os.write, []

    def once(file, data):
        if not failed:
            failed.append(file)
            raise OSError(code, os.strerror(code))
        return real(file, data)

    monkeypatch.setattr(os, "write", once)
    monkeypatch.setattr(retrying, "sleep", lambda seconds: None)
    if code == errno.ENOSPC:
        with pytest.raises(StorageError, match=rf"claiming {output}/_temporary/running.json failed: .*No space left"):
            claim(output)
    claim(output)
    assert json.loads((tmp_path / "out" / "_temporary" / "running.json").read_text())["pid"] == os.getpid()


@pytest.fixture
def without_locks(monkeypatch):
    """Local folders as on a file system that knows no locks: claims are created, as on object stores."""
    monkeypatch.setattr(claims, "_lock", lambda output, path, data: None)


def other_job(tmp_path, **changes):
    """The claim of another process in `out`."""
    holder = {**claim_holders.this_process(), "id": "other", **changes}
    folder = tmp_path / "out" / "_temporary"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "running-1.json").write_text(json.dumps(holder))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "another job writes there, process"),
        ({"machine": "another boot", "host": "far", "pid": 7}, "may be writing there, process 7 on far, .* has ended, delete"),
        ({"process_started": "1"}, None),
        ({"pid": 2**22 + 1}, None),
    ],
)  # fmt: skip
def test_a_created_claim_stands_while_its_process_may_live(tmp_path, without_locks, changes, words):
    output, folder = str(tmp_path / "out"), other_job(tmp_path, **changes)
    if words:
        with pytest.raises(RunError, match=words):
            claim(output)
        (folder / "running-1.json").unlink()  # the remedy
        claim(output)
    else:
        claim(output)
        assert [path.name for path in folder.iterdir()] == ["running-2.json"]
    release(output)
    assert not folder.exists()


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_a_damaged_claim_is_named(tmp_path, without_locks, text):
    folder = other_job(tmp_path)
    (folder / "running-1.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"an unknown machine.*if it has ended, delete \S+/running-1.json"):
        claim(str(tmp_path / "out"))


def _failing(monkeypatch, name, number):
    """Lets a storage operation of claims fail at its call of that number, counted from 1."""
    real, calls = getattr(claims, name), itertools.count(1)

    def fail(*arguments):
        if next(calls) == number:
            raise StorageError(f"{name} failed: no permission")
        return real(*arguments)

    monkeypatch.setattr(claims, name, fail)


def test_a_claim_that_cannot_be_read_is_not_taken_for_a_dead_one(tmp_path, without_locks, monkeypatch):
    folder = other_job(tmp_path)
    _failing(monkeypatch, "read_bytes", 1)
    with pytest.raises(StorageError, match="no permission"):
        claim(str(tmp_path / "out"))
    assert [path.name for path in folder.iterdir()] == ["running-1.json"]


@pytest.mark.parametrize(("name", "number"), [("files_under", 2), ("read_bytes", 2), ("delete", 1)])
def test_a_claim_that_ends_in_an_error_is_taken_back(tmp_path, without_locks, monkeypatch, name, number):
    output, folder = str(tmp_path / "out"), other_job(tmp_path, process_started="1")
    _failing(monkeypatch, name, number)
    with pytest.raises(StorageError, match="no permission"):
        claim(output)
    assert [path.name for path in folder.iterdir()] == ["running-1.json"]
    claim(output)


def test_of_two_who_find_a_dead_job_one_gets_its_folder(tmp_path, without_locks, monkeypatch):
    """The second one has looked before the first one took over."""
    output = str(tmp_path / "out")
    other_job(tmp_path, process_started="1")
    before = claims._claims(output)
    claim(output)
    claims._held.clear()  # as in another process
    looks = iter([before])
    true = claims._claims
    monkeypatch.setattr(claims, "_claims", lambda folder: next(looks, None) or true(folder))
    with pytest.raises(RunError, match="another job writes there"):
        claim(output)


JOB = {"name": "curate", "project": "p", "region": "r"}


@pytest.mark.parametrize(
    ("job", "active", "age", "alive"),
    [
        (JOB, ["curate"], 0, True),
        (JOB, ["other"], 0, False),
        ({**JOB, "template": "gs://b/t"}, [], 1, True),
        ({**JOB, "template": "gs://b/t"}, [], 2 * claim_holders.STARTING_SECONDS, False),
        (JOB, None, 0, None),
    ],
)
def test_a_dataflow_job_is_asked_for_by_name(monkeypatch, job, active, age, alive):
    def jobs(project, region, endpoint):
        assert (project, region) == ("p", "r")
        if active is None:
            raise OSError("no network")
        return active

    monkeypatch.setattr(claim_holders, "active_jobs", jobs)
    mine = claim_holders.this_process()
    holder = {**mine, "machine": "the launcher's", "job": job, "seconds": int(time.time() - age)}
    assert is_alive(holder, mine) is alive


def test_the_claim_of_a_job_that_goes_on_stays(tmp_path, without_locks):
    output = str(tmp_path / "out")
    claim(output, JOB)
    release(output)
    assert json.loads((tmp_path / "out" / "_temporary" / "running-1.json").read_text())["job"] == JOB
    (tmp_path / "out" / "_temporary" / "running-1.json").unlink()
    claim(output, JOB)
    claims.job_ended(output)
    release(output)
    assert not (tmp_path / "out" / "_temporary").exists()
