"""A run that is stopped at random moments (SIGKILL, SIGTERM, Ctrl-C), again and again: same bytes, bounded repetition."""

import os
import random
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests_faults.stopping import stop

KILLS = int(os.environ.get("KILLS", "20"))
SHARDS, SAMPLES = 40, 50
# In flight at most: decoding ahead (64), a batch in the model (32), a batch being scored (64), and the shard they end in.
IN_FLIGHT = 64 + 32 + 64 + SAMPLES
MODEL = ["--clip_model=ViT-S-32-alt", "--pretrained=random", "--aesthetic_head=random", "--nsfw_head=random"]
RULES = ["--min_aesthetic=4.5", "--samples_per_shard=64"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill") / "data"
    folder.mkdir()
    for shard in range(SHARDS):
        members = []
        for sample in range(SAMPLES):
            members += [
                (f"{sample:04d}.jpg", encoded(photo(shard * SAMPLES + sample))),
                (f"{sample:04d}.txt", b"caption"),
            ]
        members[10] = (members[10][0], b"not an image")
        (folder / f"{shard:05d}.tar").write_bytes(tar_bytes(members))
    return folder


def start(data, output, log, *extra, **options):
    command = [
        sys.executable,
        "-m",
        "tests.support.logging_run",
        str(log),
        f"--input={data}/*.tar",
        f"--output={output}",
    ]
    return subprocess.Popen([*command, *MODEL, *RULES, *extra], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True, **options)  # fmt: skip


def files(folder):
    skipped = ("run.json", "summary.json", "report.html")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in skipped
    }


def killed(process, log, dice, total):
    """Stops the run at a random point; returns whether it was still running.

    Mostly while samples are embedded: after a random number of them; else some moments after the last one, while
    the table and the shards are written; now and then at any time, start-up included.
    """
    before = len(log.read_text().split()) if log.exists() else 0
    kind = dice.choice(["embedding"] * 6 + ["writing"] * 3 + ["any"])
    samples = {"embedding": dice.randint(1, total), "writing": total, "any": 0}[kind]
    patience = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < patience:
        if kind == "any" or len(log.read_text().split() if log.exists() else ()) - before >= samples - IN_FLIGHT // 2:
            break
        time.sleep(0.005)
    time.sleep({"embedding": 0.0, "writing": dice.uniform(0, 3), "any": dice.uniform(0, 20)}[kind])
    running = process.poll() is None
    if running:
        stop(process, dice)
    process.wait()
    return running


def test_killed_at_random_moments(data, tmp_path, capsys):
    whole = start(data, tmp_path / "whole", tmp_path / "whole.log")
    assert whole.wait(600) == 0, whole.stdout.read()
    expected = files(tmp_path / "whole")
    total = SHARDS * (SAMPLES - 1)
    assert len((tmp_path / "whole.log").read_text().split()) == total

    dice = random.Random(int(os.environ.get("SEED", "1")))
    kills = runs = 0
    repeated = Counter()
    while kills < KILLS:
        runs += 1
        output, log = tmp_path / f"out{runs}", tmp_path / f"out{runs}.log"
        hits = 0
        # A run that got through is followed by a new one; after five hits a run is left to finish.
        while kills < KILLS and hits < 5:
            left = total - len(set(log.read_text().split()) if log.exists() else ())
            process = start(data, output, log, *_resume(output))
            if not killed(process, log, dice, max(left, 1)):
                assert process.returncode == 0, process.stdout.read()
                break
            kills += 1
            hits += 1
            _nothing_half_written(output, expected)
        last = start(data, output, log, *_resume(output))
        assert last.wait(600) == 0, last.stdout.read()
        assert files(output) == expected
        counts = Counter(log.read_text().split())
        assert len(counts) == total
        repeated.update(samples=sum(counts.values()) - total, total=total)
    with capsys.disabled():
        share = 100 * repeated["samples"] / repeated["total"]
        print(
            f"\n{kills} kills in {runs} runs: {repeated['samples']} samples embedded twice of {repeated['total']} "
            f"({share:.1f} %, {repeated['samples'] / kills:.0f} a kill)"
        )
    assert 0 < repeated["samples"] <= kills * IN_FLIGHT


def _resume(output):
    return ["--resume"] if (output / "run.json").exists() else []


def _nothing_half_written(output, expected):
    """Whatever is visible under a final name is whole."""
    if output.exists():
        for name, data in files(output).items():
            assert name.startswith("_temporary/") or data == expected[name], name
