"""A run that is killed with SIGKILL at random moments, again and again, and continued: same bytes, bounded repetition."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.conftest import ROOT, encoded, photo, tar_bytes

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
    command = [sys.executable, "-m", "tests.logging_run", str(log), f"--input={data}/*.tar", f"--output={output}"]
    return subprocess.Popen([*command, *MODEL, *RULES, *extra], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True, **options)  # fmt: skip


def files(folder):
    skipped = ("run.json", "summary.json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in skipped
    }


def test_killed_at_random_moments(data, tmp_path, capsys):
    begun = time.monotonic()
    whole = start(data, tmp_path / "whole", tmp_path / "whole.log")
    assert whole.wait(600) == 0, whole.stdout.read()
    seconds = time.monotonic() - begun
    expected = files(tmp_path / "whole")
    total = SHARDS * (SAMPLES - 1)
    assert len((tmp_path / "whole.log").read_text().split()) == total

    output, log = tmp_path / "out", tmp_path / "out.log"
    dice = random.Random(int(os.environ.get("SEED", "1")))
    kills = finished = 0
    repeated = Counter()
    while kills < KILLS:
        if finished:  # the run got through between kills: begin another, so that all kills hit a run
            assert files(output) == expected
            repeated.update(_repeated(log))
            log.unlink()
            for path in output.rglob("*"):
                if path.is_file():
                    path.unlink()
        extra = ["--resume"] if (output / "run.json").exists() else []
        process = start(data, output, log, *extra)
        try:
            process.wait(dice.uniform(0.2, 1.1) * seconds)
            assert process.returncode == 0, process.stdout.read()
            finished = 1
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            finished = 0
            _nothing_half_written(output, expected)
    extra = ["--resume"] if (output / "run.json").exists() else []
    last = start(data, output, log, *extra)
    assert last.wait(600) == 0, last.stdout.read()
    assert files(output) == expected
    repeated.update(_repeated(log))
    with capsys.disabled():
        share = 100 * repeated["samples"] / repeated["total"]
        print(f"\n{kills} kills: {repeated['samples']} of {repeated['total']} samples inferred twice ({share:.1f} %)")
    assert repeated["samples"] <= kills * IN_FLIGHT


def _repeated(log):
    counts = Counter(log.read_text().split())
    return {"samples": sum(count - 1 for count in counts.values()), "total": len(counts)}


def _nothing_half_written(output, expected):
    """Whatever is visible under a final name is whole."""
    if output.exists():
        for name, data in files(output).items():
            assert name.startswith("_temporary/") or data == expected[name], name
