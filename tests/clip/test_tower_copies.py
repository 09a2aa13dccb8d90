"""Copies of the model: each in a process of its own, shared by all that name them, in turns."""

import functools
import os
import signal
import subprocess
import sys
import uuid

import numpy as np
import pytest

from beam_curate.clip import tower_copies
from beam_curate.clip.handler import ClipModelHandler
from beam_curate.clip.tower_copies import TowerCopies
from beam_curate.images.resizing import Target
from beam_curate.records import DecodedImage, ImageFacts, SampleRef
from tests.conftest import ROOT
from tests.support.stub_tower import Tower, turns

MODEL = "ViT-S-32-alt"
SIZE = 224


def test_each_copy_has_a_process_which_workers_share(tmp_path):
    name = f"copies-{uuid.uuid4().hex}"
    copies = TowerCopies(Tower, name, 2)
    first, second, *more = turns(copies, 4)
    assert len({first, second, os.getpid()}) == 3
    assert more == [first, second]
    assert (copies.describe(), copies.runtime()) == ("described", ("cpu", "fp32"))
    with pytest.raises(MemoryError, match="no room"):
        copies.embed(np.zeros((0, 2), np.uint8))
    assert copies.embed(np.zeros((1, 2), np.uint8))[0, 0] == second

    code = f"""
import os
from beam_curate.clip.tower_copies import TowerCopies
from tests.support.stub_tower import Tower, turns
if __name__ == "__main__":
    print(os.getpid(), *turns(TowerCopies(Tower, {name!r}, 2), 2))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    worker, *theirs = map(int, done.stdout.split())
    assert set(theirs) == {first, second}
    assert worker not in {os.getpid(), first, second}
    assert turns(copies, 2) == [first, second]  # the worker's end did not end them

    os.kill(first, signal.SIGKILL)
    again = turns(copies, 4)
    assert again[1] == again[3] == second
    assert again[0] == again[2] not in {first, second}


def test_a_model_that_does_not_load_is_told():
    with pytest.raises(RuntimeError, match="ValueError: no such weights"):
        TowerCopies(functools.partial(Tower, broken=True), f"copies-{uuid.uuid4().hex}", 1)


def samples():
    numbers = np.random.default_rng(5)
    for number in range(4):
        pixels = numbers.integers(0, 256, SIZE * SIZE * 3, dtype=np.uint8).tobytes()
        yield DecodedImage(
            SampleRef(0, "a.tar", number, f"k{number}", []),
            ImageFacts(SIZE, SIZE, "JPEG", "00", 9),
            pixels,
            prepared=str(Target(SIZE)),
        )


def test_the_handler_embeds_with_them_as_without():
    batch = list(samples())
    alone = ClipModelHandler(MODEL, "random", device="cpu", precision="fp32", batch_size=2)
    shared = ClipModelHandler(MODEL, "random", device="cpu", precision="fp32", batch_size=2, large_model=True)
    assert not shared.share_model_across_processes()  # Beam would put all copies into one process
    model = shared.load_model()
    assert isinstance(model, TowerCopies)
    assert shared.run_inference(batch, model) == alone.run_inference(batch, alone.load_model())


@pytest.mark.parametrize(("options", "wanted"), [({"model_copies": 3}, 3), ({"large_model": True}, 1)])
def test_how_many(monkeypatch, options, wanted):
    monkeypatch.setattr(tower_copies, "TowerCopies", lambda build, name, copies: copies)
    assert ClipModelHandler(MODEL, "random", device="cpu", **options).load_model() == wanted
