"""All torture images and tars, and every kind of damage to real shards, through the whole pipeline; and bounded fuzzing."""

import gzip
import importlib.util
import os
import pathlib
import random
import subprocess
import sys

import pytest
import zstandard

from beam_curate.images.decoding import DECODERS
from beam_curate.tars.compression import open_decompressed
from tests.conftest import ROOT
from tests.support import torture
from tests.tars import test_torture

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def plain(path):
    """The uncompressed bytes of a shard."""
    with path.open("rb") as stream:
        return open_decompressed(stream).read()


@pytest.mark.parametrize("decoder", DECODERS)
def test_all_torture_images(assets, tmp_path, decoder, capsys):
    paths = sorted((assets / "torture_images").iterdir())
    decoded = test_torture.sweep_images(paths, tmp_path, decoder)
    with capsys.disabled():
        print(f"\n{decoder}: {len(paths)} images, of which plain Pillow and we decode {decoded}")


def test_all_torture_tars(assets, tmp_path, capsys):
    paths = sorted((assets / "torture_tars").iterdir())
    rows = test_torture.sweep_tars([path.read_bytes() for path in paths], tmp_path)
    with capsys.disabled():
        print(f"\n{len(paths)} tars between good shards: {len(rows)} rows")


def test_damaged_real_shards(assets, tmp_path, capsys):
    """Every real shard cut, flipped in its headers, and damaged in its compression."""
    tried = 0
    shards = []
    for number, path in enumerate(sorted((assets / "wds").iterdir())):
        data = plain(path)
        dice = random.Random(number)
        headers = torture.header_offsets(data)
        cuts = sorted(
            {*headers, *(offset + 200 for offset in headers), *(dice.randrange(len(data)) for _ in range(40))}
        )
        test_torture.check_truncations(data, cuts)
        flips = [(dice.choice(headers), dice.randrange(512), dice.randrange(8)) for _ in range(150)]
        test_torture.check_flips(data, flips)
        places = [dice.randrange(1, len(data)) for _ in range(25)]
        test_torture.check_compressed(data, places)
        tried += len(cuts) + len(flips) + 4 * len(places)
        cut = dice.choice(cuts)
        shards += [data, data[:cut], gzip.compress(data)[:cut], zstandard.compress(data)[:cut]]
    test_torture.sweep_tars(shards, tmp_path)
    with capsys.disabled():
        print(f"\n{tried} damaged shards read, {len(shards)} run through the pipeline")


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed (pip install atheris)"
)
@pytest.mark.parametrize("target", ["fuzz_shards", "fuzz_images"])
def test_fuzzing_finds_nothing(target, tmp_path):
    script = pathlib.Path(__file__).parent / f"{target}.py"
    seconds = os.environ.get("FUZZ_SECONDS", "60")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), seconds]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "stat::number_of_executed_units" in result.stderr
