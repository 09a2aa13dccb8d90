"""The commands after the scoring, stopped at random moments (SIGKILL, SIGTERM, Ctrl-C) and continued: the same bytes."""

import os
import random
import subprocess
import sys
import time

import pytest

from beam_curate.commands import curate
from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests_faults.stopping import stop

KILLS = int(os.environ.get("KILLS", "20")) // 4
MODEL = ["--clip_model=ViT-S-32-alt", "--pretrained=random", "--aesthetic_head=random", "--nsfw_head=random"]
OFF = ["--min_aesthetic=none", "--max_nsfw=none"]
COMMANDS = {
    "dedup": ["--methods=exact,pixels,perceptual,semantic", "--samples_per_shard=40"],
    "select": ["--keep=aesthetic > 4", "--top_fraction=nsfw=0.7", "--samples_per_shard=40"],
    "export": ["--format=tfrecord", "--samples_per_file=40", "--shuffle_seed=3"],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A scored run of 12 shards, in which every fifth sample is a copy."""
    folder = tmp_path_factory.mktemp("later")
    (folder / "data").mkdir()
    for shard in range(12):
        images = [photo(shard * 40 + sample if sample % 5 else sample) for sample in range(40)]
        members = [(f"{number:04d}.png", encoded(image, "PNG")) for number, image in enumerate(images)]
        (folder / "data" / f"{shard:05d}.tar").write_bytes(tar_bytes(members))
    output = folder / "scored"
    assert curate.main([f"--input={folder}/data/*.tar", f"--output={output}", *MODEL, *OFF]) == 0
    return output


def start(command, table, output, *extra):
    source = f"--{'input' if command == 'export' else 'scores'}={table}"
    words = [sys.executable, "-m", f"pipelines.{command}", source, f"--output={output}", *COMMANDS[command], *extra]
    return subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def files(folder):
    own = ("run.json", "summary.json", "report.html", "README.md", "croissant.json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in own
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_random_moments(table, tmp_path, command):
    began = time.monotonic()
    whole = start(command, table, tmp_path / "whole")
    assert whole.wait(600) == 0, whole.stdout.read()
    seconds = time.monotonic() - began
    expected = files(tmp_path / "whole")
    assert any(name.endswith((".tar", ".tfrecord")) for name in expected)
    dice = random.Random(int(os.environ.get("SEED", "1")))
    kills = 0
    for attempt in range(10 * max(KILLS, 1)):
        output = tmp_path / f"out{attempt // 3}"
        resume = ["--resume"] if (output / "run.json").exists() else []
        process = start(command, table, output, *resume)
        # The work comes after some seconds of imports.
        time.sleep(dice.uniform(0.2, 1.1) * seconds)
        if process.poll() is None:
            stop(process, dice)
            kills += 1
        process.wait()
        if attempt % 3 == 2:
            resume = ["--resume"] if (output / "run.json").exists() else []
            last = start(command, table, output, *resume)
            assert last.wait(600) == 0, last.stdout.read()
            assert files(output) == expected
        if kills >= KILLS and attempt % 3 == 2:
            break
    assert kills >= KILLS
