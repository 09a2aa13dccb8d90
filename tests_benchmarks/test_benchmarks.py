"""The benchmarks run on tiny input and report what they say; how fast is not looked at."""

import json
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from beam_curate.threads import usable_cores
from tests.conftest import ROOT

CORES = usable_cores()


def run(script, *options):
    command = [sys.executable, f"{ROOT}/benchmarks/{script}", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_shards_hold_different_photographs_of_the_size_under_unique_keys(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(f"{ROOT}/benchmarks")
    import photo_shards
    import webdataset as wds

    paths = photo_shards.write_shards(tmp_path, "M", 2, 20)
    samples = list(wds.WebDataset([str(path) for path in paths], shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(40)]
    assert {sample["jpg"].size for sample in samples} == {(1024, 768)}
    assert samples[7]["json"]["url"].endswith("/7.jpg")
    assert samples[7]["txt"].startswith("Photograph number 7,")
    jpegs = [tarfile.open(path).extractfile(f"{n:09d}.jpg").read() for path, n in ((paths[0], 0), (paths[1], 36))]
    assert jpegs[0] == jpegs[1]  # 36 different images, then again
    assert len({sample["jpg"].tobytes() for sample in samples}) == 36


def test_overhead_compares_and_writes_its_figures(tmp_path):
    file = tmp_path / "result.json"
    done = run("overhead.py", "--images", 4 * CORES, "--rounds", 1, "--only", "loop_stub,pipeline_stub", "--json", file)
    assert done.returncode == 0, done.stderr
    assert "pipeline_stub / loop_stub" in done.stdout
    result = json.loads(file.read_text())
    assert result["images"] == 4 * CORES * 32  # a whole batch in each shard
    assert {name: len(rounds) for name, rounds in result["rounds"].items()} == {"pipeline_stub": 1, "loop_stub": 1}
    (ratio,) = result["ratios"]
    assert ratio["met"] == (ratio["ratio"] >= ratio["goal"] == 1)


def test_the_goal_beside_the_limit_is_one_of_cpu_and_fewer_cores_are_compared_with_all(monkeypatch):
    monkeypatch.syspath_prepend(f"{ROOT}/benchmarks")
    import overhead

    monkeypatch.setattr(overhead, "usable_cores", lambda: 4)
    costs = {"pipeline_stub_write": (1.0, 3.0), "pipeline_stub_write@1": (3.5, 3.0), "limit": (9.0, 2.5)}
    rounds = {name: [overhead.Marginal(*cost, 0.0)] for name, cost in costs.items()}
    found = {one["against"]: one for one in overhead._ratios(rounds, "S", bf16=False)}
    assert found["limit"]["ratio"] == 9
    assert (found["limit"]["cpu_ratio"], found["limit"]["met"]) == (pytest.approx(2.5 / 3), True)
    assert (found["pipeline_stub_write@1"]["goal"], found["pipeline_stub_write@1"]["met"]) == (3.6, False)


def test_a_contender_on_one_core_is_bound_to_it(tmp_path, monkeypatch):
    file = tmp_path / "result.json"
    done = run("overhead.py", "--images", 4 * CORES, "--rounds", 1, "--only", "limit@1,limit", "--json", file)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(file.read_text())["rounds"]) == ["limit", "limit@1"]
    monkeypatch.syspath_prepend(f"{ROOT}/benchmarks")
    import overhead

    with ProcessPoolExecutor(1, initializer=overhead._bind, initargs=(1,)) as process:
        assert process.submit(usable_cores).result() == 1


@pytest.mark.parametrize("bf16", [True, False])
def test_the_goal_beside_the_loop_in_fp32_holds_only_for_bf16(bf16, monkeypatch):
    monkeypatch.syspath_prepend(f"{ROOT}/benchmarks")
    import overhead

    rounds = {name: [overhead.Marginal(1.0, 1.0, 0.0)] for name in ("pipeline_clip_write", "user_loop", "model_alone")}
    goals = {one["against"]: one["goal"] for one in overhead._ratios(rounds, "S", bf16=bf16)}
    assert goals == {"model_alone": 0.92, "user_loop": 1.8 if bf16 else None}


@pytest.mark.parametrize(
    "options", [("--only", "nobody"), ("--only", "limit@0"), ("--images", 1), ("--rounds", 0), ("--size", "XL")]
)
def test_overhead_refuses_wrong_options(options):
    done = run("overhead.py", *options)
    assert done.returncode == 2
    assert f"{options[0]}" in done.stderr


def test_every_contender_consumes_all_images(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(f"{ROOT}/benchmarks")
    import contenders
    import numpy as np
    import photo_shards

    seen = get_context("fork").Value("i")  # some embed in processes that they fork

    class Counting(contenders.StubModel):
        def embed(self, pixels):
            with seen.get_lock():
                seen.value += len(pixels)
            return super().embed(np.ascontiguousarray(pixels))

    model = Counting()
    monkeypatch.setattr(contenders, "stub_model", lambda: model)
    paths = [str(path) for path in photo_shards.write_shards(tmp_path, "S", 2, 5)]
    for name, contender in contenders.CONTENDERS.items():
        if not contender.clip:
            seen.value = 0
            assert contenders.measure(name, paths).cpu > 0
            assert seen.value == 10, name


def test_memory_measures_both_jobs(tmp_path):
    file = tmp_path / "result.json"
    done = run("memory.py", "--gb", "0.005", "--folder", tmp_path, "--json", file)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert [(run["samples"], run["kept"]) for run in result["runs"]] == [(4, 4), (40, 40)]
    assert all(run["peak_gb"] > 0.1 for run in result["runs"])
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert run("memory.py", "--gb", "-1").returncode == 2


def test_selecting_times_a_selection_beside_a_copy(tmp_path):
    file = tmp_path / "result.json"
    done = run("selecting.py", "--rows", 3000, "--keep", 0.1, "--image_kb", 2, "--json", file)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert result["rows"] == 3000
    assert 200 < result["kept"] < 400
    assert result["ratio"] == pytest.approx(result["select_s"] / result["copy_s"])
    parts = [result[f"cpu_{name}_s"] for name in ("startup", "table", "sha256", "md5", "copy", "rest")]
    assert sum(parts) == pytest.approx(result["select_cpu_s"])


def test_exporting_measures_each_job_beside_its_loop(tmp_path):
    file = tmp_path / "result.json"
    done = run(
        "exporting.py", "--gb", 0.01, "--only", "tfrecord_shuffled,resized", "--folder", tmp_path, "--json", file
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert result["samples"] == 1000
    assert {"loop_tfrecord", "tfrecord_shuffled", "loop_resized", "resized"} <= result.keys()
    assert result["resized"]["peak_gb"] > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert run("exporting.py", "--only", "nobody").returncode == 2


def test_dedup_finds_what_a_comparison_of_all_with_all_finds(tmp_path):
    done = run("dedup.py", "--recall", 1000, "--rows", 500)
    assert done.returncode == 0, done.stderr
    lines = {line.split("   ")[-1].strip(): line for line in done.stdout.splitlines() if "recall" in line}
    assert "recall 1.00000, 0 too many" in lines["border 0.5, exact"]
    assert re.search(r"^ +500 .* \d+$", done.stdout, re.M)


def test_contenders_are_held_to_the_brute_force_of_faiss():
    done = run("dedup_contenders.py", "--rows", 4000, "--eps", 0.05)
    assert done.returncode == 0, done.stderr
    recall = {line.split(" | ")[0]: float(line.split(" | ")[1]) for line in done.stdout.splitlines()[2:]}
    assert recall["| faiss, all with all"] == 1
    assert recall["| SemDeDup, 100 clusters"] < 0.95 < recall["| this search"]


def test_the_other_methods_are_held_to_all_pairs():
    done = run("dedup_brute_force.py", "--rows", 3000)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "exact",
        "pixels",
        "perceptual",
        "perceptual, mirrored",
    ]


def test_scale_runs_each_stage_and_fits_the_growth(tmp_path):
    file = tmp_path / "result.json"
    done = run("scale.py", "--parts", "64,128,256", "--rows", 1, "--only", "list,judge,pack", "--json", file)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert list(result) == ["list what is done", "judge", "pack in order", "pack by a seed"]
    # Each part and source is opened as often however many there are, which no busy machine changes. With one row in each, a
    # shuffle into more files does not open a source more often.
    assert all(abs(stage["growth"]["requests"] - 1) < 0.3 for stage in result.values())
    assert all(min(stage["bytes"]) > 0 for stage in result.values())


def test_the_page_on_scale_has_the_requests_that_are_counted(tmp_path):
    """Of the stages whose requests are the same for each part: of a shuffle they depend on the rows, of pages on the pictures."""
    page = (ROOT / "docs" / "scale.md").read_text()
    rows = {"list what is done": "list what", "judge": "judge", "top": "`--top`", "pack in order": "pack in order",
            "duplicates, exact": "duplicates, `exact`", "duplicates, semantic": "duplicates, `semantic`"}  # fmt: skip
    file = tmp_path / "result.json"
    done = run("scale.py", "--parts", "16,32,64", "--rows", 2, "--only", "list,judge,top,pack in,dup", "--json", file)
    assert done.returncode == 0, done.stderr
    for stage, result in json.loads(file.read_text()).items():
        (said,) = re.findall(rf"^\| {re.escape(rows.pop(stage))}.*?\| [\d.]+; (\d+) \|", page, re.M)
        (first, *_, last), counts = result["parts"], result["requests"]
        assert (stage, (counts[-1] - counts[0]) / (last - first)) == (stage, pytest.approx(int(said), abs=0.3))
    assert rows == {}


@pytest.mark.parametrize("options", [("--parts", "1,2"), ("--parts", "4,2,8"), ("--parts", "0,1,2")])
def test_scale_refuses_wrong_options(options):
    done = run("scale.py", *options)
    assert done.returncode == 2
    assert "give three or more ascending numbers" in done.stderr


def test_growth_is_the_exponent(monkeypatch):
    monkeypatch.syspath_prepend(f"{ROOT}/benchmarks")
    import scale

    parts = [10, 100, 1000, 10_000]
    assert scale.growth(parts, [7 + 3 * (n - 10) for n in parts]) == pytest.approx(1)
    assert scale.growth(parts, [7 + 3 * (n - 10) ** 2 for n in parts]) == pytest.approx(2)
    assert str(scale.growth(parts, [7, 7, 8, 9])) == "nan"


def test_starting_tells_when_the_first_images_come(tmp_path):
    file = tmp_path / "starting.json"
    done = run("starting.py", "--rounds", 1, "--against", ROOT, "--json", file)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert {name: len(found) for name, found in result["runs"].items()} == {"this": 1, "other": 1}
    ((one,), _) = result["runs"].values()
    assert 0 < one["first"]["wall_s"] < one["end"]["wall_s"]
    assert result["met"] == (one["first"]["wall_s"] <= result["goal_s"])
    assert "first images" in done.stdout


@pytest.mark.parametrize("options", [("--rounds", 0), ("--against", "/nowhere")])
def test_starting_refuses_wrong_options(options):
    done = run("starting.py", *options)
    assert done.returncode == 2
    assert options[0] in done.stderr


@pytest.mark.parametrize("options", [("--only", "nobody"), ("--images", 1), ("--rounds", 0)])
def test_peers_refuses_wrong_options(options):
    done = run("peers.py", "--python", sys.executable, *options)
    assert done.returncode == 2
    assert options[0] in done.stderr


def test_what_peers_compares_with_here_takes_all_images(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(f"{ROOT}/benchmarks")
    import peers
    import photo_shards

    paths = [str(path) for path in photo_shards.write_shards(tmp_path, "S", 4, 4)]
    assert sum(1 for _ in peers._jpegs(paths)) == 16
    for name in peers.PEERS:
        # A warm-up, 1 s for a quarter of the 16 images, 4 s for all: of so few the real times say nothing.
        times = iter([0, 0, 0, 1, 1, 5])
        monkeypatch.setattr(peers, "_cpu", lambda times=times: next(times))
        assert peers._run(name, "ours", 4, paths)["cpu_ms"] == 1000 * 3 / 12, name
