"""On a CPU a batch is computed in parts side by side, and no row is another than in a batch of its part's size."""

import multiprocessing
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from beam_curate.clip.batch_parts import BatchParts
from beam_curate.clip.independent_rows import IndependentRows
from beam_curate.clip.text_tower import build_text_tower
from beam_curate.clip.visual_tower import build_visual_tower
from beam_curate.clip.weights import find_weights
from tests.conftest import torch_threads

CPU = torch.device("cpu")


class Tower(nn.Module):
    """Notes how it is called; a row of its output is the row of its input."""

    def __init__(self, wait=None):
        super().__init__()
        self.calls, self.wait = [], wait

    def forward(self, batch):
        self.calls.append((len(batch), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        if self.wait:
            self.wait.wait(60)
        return batch


def computed(count, places, threads, device=CPU, wait=None, forward=None):
    """What a batch gives, and the calls of the tower."""
    tower = Tower(wait)
    rows = IndependentRows(tower)
    rows._looked = lambda places, one: SimpleNamespace(differ=0)
    rows._as_in = lambda whole, shape: True
    images = torch.arange(3 * count, dtype=torch.float32).view(count, 3)

    def make(places):
        return torch.cat([images, torch.zeros(places - count, 3)])

    with torch_threads(threads):
        out = BatchParts(rows, places, device).compute(count, torch.zeros(1, 3), make, forward or tower)
    assert torch.equal(out, images)
    return tower.calls


@pytest.mark.parametrize(
    ("count", "places", "threads", "sizes"),
    [
        (32, 32, 2, [16, 16]),
        (33, 33, 2, [17, 17]),  # the last part is filled up
        (20, 32, 2, [16, 4]),
        (16, 32, 2, [16]),
        (3, 32, 2, [4]),
        (0, 32, 2, [2]),
        (32, 32, 3, [11, 11, 11]),
        (32, 32, 16, [8, 8, 8, 8]),
        (15, 15, 2, [15]),
        (15, 15, 1, [15]),
        (32, 32, 1, [32]),
    ],
)
def test_a_batch_has_a_part_for_each_core_but_none_of_few_images(count, places, threads, sizes):
    calls = computed(count, places, threads)
    assert sorted(size for size, _, _ in calls) == sorted(sizes)
    assert all(inside for _, _, inside in calls)


@pytest.mark.parametrize(
    ("places", "threads", "each"), [(32, 2, 1), (32, 3, 1), (32, 16, 4), (32, 9, 2), (4, 2, 2), (32, 1, 1)]
)
def test_the_parts_share_the_threads_of_torch(places, threads, each):
    assert {number for _, number, _ in computed(places, places, threads)} == {each}


def test_the_parts_are_computed_side_by_side():
    assert len(computed(32, 32, 2, wait=threading.Barrier(2))) == 2


def test_a_gpu_gets_a_batch_at_once():
    assert [size for size, _, _ in computed(32, 32, 2, device=torch.device("cuda:0"))] == [32]


def test_other_threads_keep_torchs_number():
    with torch_threads(2):
        numbers = []

        def ask():
            numbers.append(torch.get_num_threads())

        for _ in range(3):
            computed(64, 64, 2)
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
        assert numbers == [2, 2, 2]
        assert torch.get_num_threads() == 2


def test_what_fails_in_a_part_is_raised():
    def fail(batch):
        if batch[0, 0] > 0:
            raise ValueError("the second part")
        return batch

    with pytest.raises(ValueError, match="the second part"):
        computed(32, 32, 2, forward=fail)


def _child(queue):
    queue.put(len(computed(32, 32, 2)))


def test_a_forked_process_has_threads_of_its_own():
    computed(32, 32, 2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == 2
    child.join()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_is_the_same_in_every_part_and_in_every_tail(precision):
    tower = build_visual_tower(find_weights("ViT-S-32-alt", "random"), precision=precision, device="cpu")
    pixels = np.random.default_rng(4).integers(0, 256, (16, 224, 224, 3), dtype=np.uint8)
    whole = tower.embed(pixels)
    assert np.array_equal(tower.embed(np.roll(pixels, 5, axis=0)), np.roll(whole, 5, axis=0))
    for count in (1, 3, 8, 9, 13):
        assert np.array_equal(tower.embed(pixels[:count], 16), whole[:count])


@pytest.mark.usefixtures("two_threads")
def test_texts_likewise():
    tower = build_text_tower(find_weights("ViT-S-32-alt", "random"))
    texts = [f"number {number}" for number in range(16)]
    whole = tower.embed(texts, 16)
    assert np.array_equal(tower.embed(texts[5:] + texts[:5], 16), np.roll(whole, -5, axis=0))
    for count in (1, 8, 9, 13):
        assert np.array_equal(tower.embed(texts[:count], 16), whole[:count])
