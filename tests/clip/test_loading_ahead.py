"""A model is loaded while the pipeline is made, and once: reads of the weights are counted."""

import threading

import numpy as np
import open_clip
import pytest
import torch

import beam_curate.clip.checkpoint as checkpoint
import beam_curate.clip.visual_tower as visual_tower
import beam_curate.clip.weights_files as weights_files
from beam_curate.clip.handler import ClipModelHandler
from beam_curate.clip.independent_rows import IndependentRows
from beam_curate.clip.weights import WeightsError, WeightsSource
from beam_curate.commands import curate
from tests.conftest import encoded, photo, tar_bytes

MODEL = "ViT-S-32-alt"


@pytest.fixture
def builds(monkeypatch):
    """The threads in which towers are built, in turn."""
    seen = []
    real = visual_tower.build_visual_tower

    def build(*arguments, **options):
        seen.append(threading.current_thread())
        return real(*arguments, **options)

    monkeypatch.setattr(visual_tower, "build_visual_tower", build)
    return seen


def test_the_model_is_taken_once_by_the_same_options_alone(builds):
    ClipModelHandler(MODEL, "random", seed=1).load_ahead()
    ClipModelHandler(MODEL, "random", seed=2, device="cpu").load_ahead()  # in place of the first
    other = ClipModelHandler(MODEL, "random", seed=1).load_model()
    assert other.describe().weights == "random:1"
    assert builds[-1] is threading.main_thread()
    before = len(builds)
    tower = ClipModelHandler(MODEL, "random", seed=2, device="cpu").load_model()
    assert tower.describe().weights == "random:2"
    assert len([thread for thread in builds if thread is threading.main_thread()]) == 1
    assert len(builds) <= before + 1  # that of the thread, if it was not begun before
    again = ClipModelHandler(MODEL, "random", seed=2, device="cpu").load_model()
    assert again is not tower
    assert builds[-1] is threading.main_thread()


def test_what_loading_raised_is_raised_where_the_model_is_asked_for(tmp_path):
    handler = ClipModelHandler(MODEL, str(tmp_path / "none.pt"))
    handler.load_ahead()
    with pytest.raises(WeightsError, match="none"):
        handler.load_model()


def test_a_checksum_is_computed_again_for_another_content(tmp_path, monkeypatch):
    path = tmp_path / "w.pt"
    opened = []
    monkeypatch.setattr(weights_files, "open", lambda *a: opened.append(a[0]) or open(*a), raising=False)
    source = WeightsSource(MODEL, "w", path=str(path))
    path.write_bytes(b"one")
    first = source.identity
    assert (source.identity, len(opened)) == (first, 1)
    path.unlink()
    path.write_bytes(b"other")
    assert source.identity != first
    assert len(opened) == 2


def test_a_run_reads_the_weights_once_in_a_thread_and_hashes_them_once(tmp_path, monkeypatch, builds):
    wanted = open_clip.create_model(MODEL).visual.state_dict()
    torch.save({f"visual.{name}": tensor for name, tensor in wanted.items()}, tmp_path / "w.pt")
    (tmp_path / "a.tar").write_bytes(tar_bytes([(f"{n}.jpg", encoded(photo(n, 64, 48))) for n in range(3)]))
    hashed, moved = [], []
    monkeypatch.setattr(
        weights_files, "open", lambda *a: hashed.append(threading.current_thread().name) or open(*a), raising=False
    )
    real = checkpoint.read_visual_state
    monkeypatch.setattr(visual_tower, "read_visual_state", lambda path: moved.append(path) or real(path))
    monkeypatch.setattr(visual_tower, "check_visual_weights", lambda *_: None)  # it reads names and shapes
    status = curate.main(
        [
            f"--input={tmp_path}/a.tar", f"--output={tmp_path}/out", f"--clip_model={MODEL}", f"--pretrained={tmp_path}/w.pt",
            "--quick_gelu=no", "--preprocess=openai", "--aesthetic_head=random", "--nsfw_head=random", "--device=cpu",
        ]
    )  # fmt: skip
    assert status == 0
    assert hashed == ["digest-ahead"]
    assert len(moved) == 1
    assert [thread.name.startswith("load-ahead") for thread in builds] == [True]


def test_a_model_loaded_ahead_has_been_looked_at_and_gives_the_same_bits(monkeypatch):
    looks = []
    real = IndependentRows._look

    def look(self, *arguments):
        looks.append(self)
        return real(self, *arguments)

    monkeypatch.setattr(IndependentRows, "_look", look)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), np.uint8)
    handler = ClipModelHandler(MODEL, "random", device="cpu", batch_size=4)
    handler.load_ahead()
    ahead = handler.load_model()
    assert len(looks) == 1
    size = ahead.describe().image_size
    rows = ahead.embed(pixels[:, :size, :size].copy(), 4)
    assert looks == [ahead._independent]
    late = handler.load_model()
    assert len(looks) == 1
    late_rows = late.embed(pixels[:, :size, :size].copy(), 4)
    assert looks[1:] == [late._independent]
    np.testing.assert_array_equal(rows.view(np.uint16), late_rows.view(np.uint16))
