"""Every kind of fault in every phase of a run, and all of them at once: what was injected, and what came of it."""

import collections
import re

import pytest

from beam_curate.storage import retrying
from beam_curate.storage.files import TEMPORARY
from tests.support.fault_filesystem import KINDS, Faults, FaultyFileSystem, permanent
from tests.support.storage_jobs import SAMPLES, comparable, put, run_job, shard_bytes, stored

# A listing that is behind the truth may hide a temporary file from the last cleaning, or show a part that is gone: the run
# then ends with an error that names the part, and goes on with --resume.
STALE = ("stale_missing", "stale_ghost")
SEEDS = range(3)
_TABLE: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)


@pytest.fixture(scope="module")
def clean_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    put(f"faulty://{folder}/data", shard_bytes())
    run_job(f"faulty://{folder}/data", f"faulty://{folder}/out")
    return f"faulty://{folder}/data", comparable(stored(f"faulty://{folder}/out"))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(retrying, "sleep", lambda seconds: None)


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    print(f"\n\n{'fault':28}{'runs':>6}{'injected':>10}{'survived':>10}{'clean stops':>13}{'rows reconciled':>17}")
    total = collections.Counter()
    for name, row in _TABLE.items():
        total += row
        print(_line(name, row))
    print(_line("all", total))


def _line(name, row):
    numbers = (row["runs"], row["injected"], row["survived"], row["stopped"], row["rows"])
    return f"{name:28}" + "".join(f"{n:>{w},}" for n, w in zip(numbers, (6, 10, 10, 13, 17), strict=True))


def attempt(name, data, output, faults, **how):
    """One run under faults; whether it ended well. It may stop, with an error that names a file and nothing half-written."""
    FaultyFileSystem.faults = faults
    row = _TABLE[name]
    row["runs"] += 1
    try:
        summary = run_job(data, output, **how)
    except (OSError, RuntimeError) as error:
        row["stopped"] += 1
        stopped_by = str(error)  # Beam makes a RuntimeError of what a transform raises.
    else:
        stopped_by = ""
    finally:
        FaultyFileSystem.faults = Faults()
        row["injected"] += faults.injected.total()
    if stopped_by:
        assert re.search(r"faulty://\S+ failed", stopped_by), stopped_by
        return False
    funnel = summary["funnel"]
    assert funnel["input"] == funnel["kept"] + funnel["rejected"] + funnel["failed"] == SAMPLES
    row["survived"] += faults.injected.total()
    row["rows"] += funnel["input"]
    return True


def check(output, expected, *, complete, stale=False):
    """Nothing visible is half-written; after a success nothing is missing and nothing is left over."""
    files = comparable(stored(output))
    visible = {name: data for name, data in files.items() if not name.startswith(TEMPORARY)}
    assert {name: data for name, data in visible.items() if expected[name] != data} == {}
    if complete:
        assert visible.keys() == expected.keys()
        assert stale or visible == files


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_in_a_first_run_a_resumed_one_and_an_overwriting_one(kind, seed, clean_run, tmp_path):
    data, expected = clean_run
    output = f"faulty://{tmp_path}/out"
    stale = kind in STALE

    def faults(**more):
        return Faults(seed, {kind: 0.25}, under=output, **more)

    interrupted = Faults(seed, once_at={"rename_error": 4 + seed}, error=permanent, under=output)
    assert not attempt("(interrupted)", data, output, interrupted)
    check(output, expected, complete=False)
    for how in ({"resume": True}, {"overwrite": True}):
        complete = attempt(kind, data, output, faults(), **how)
        assert complete or stale
        check(output, expected, complete=complete, stale=stale)
    if not complete:
        assert attempt(kind, data, output, Faults(), resume=True)
        check(output, expected, complete=True, stale=stale)


@pytest.mark.parametrize("seed", range(20))
def test_all_kinds_at_once(seed, clean_run, tmp_path):
    data, expected = clean_run
    output = f"faulty://{tmp_path}/out"
    rates = {kind: 0.08 for kind in KINDS if kind not in STALE}
    options = ["--direct_runner_bundle_repeat=2"] if seed % 2 else []
    assert attempt("all at once", data, output, Faults(seed, rates, under=output), options=options)
    check(output, expected, complete=True)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("_error")])
def test_a_permanent_error_stops_the_run_and_it_resumes(kind, seed, clean_run, tmp_path):
    data, expected = clean_run
    output = f"faulty://{tmp_path}/out"
    # The third is beyond what some operations are called for: then the run goes through.
    faults = Faults(seed, once_at={kind: (2, 7, 15)[seed]}, error=permanent, under=output)
    complete = attempt(f"permanent {kind}", data, output, faults)
    assert complete == (not faults.injected[kind])
    check(output, expected, complete=complete)
    if not complete:
        resume = "run.json" in stored(output)
        assert attempt(f"permanent {kind}", data, output, Faults(), resume=resume, overwrite=False)
        check(output, expected, complete=True)
