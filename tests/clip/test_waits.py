"""Between a batch's pixels and its embeddings nothing waits for the GPU, and kernels are few: counted on a made-up GPU."""

from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from beam_curate.clip import text_tower
from beam_curate.clip.text_tower import build_text_tower
from beam_curate.clip.weights import find_weights
from tests.support.fake_gpu import CUDA, Operations, made_up_events, tower_on_fake_gpu, without_pinning

MODEL, SIZE, BLOCKS = "ViT-S-32-alt", 224, 12


@pytest.fixture
def tower(monkeypatch):
    with tower_on_fake_gpu(monkeypatch, MODEL) as tower:
        yield tower


def picture(device=CUDA):
    return torch.empty((SIZE, SIZE, 3), dtype=torch.uint8, device=device)


def test_the_made_up_gpu_does_not_let_anything_wait_for_it(tower):
    with pytest.raises(DataDependentOutputException):
        bool(picture().any())


@pytest.mark.parametrize(("count", "places"), [(8, 8), (3, 8)])
def test_a_batch_on_the_device_comes_back_once_and_nothing_else_crosses(tower, count, places):
    with Operations() as operations:
        found = tower.embed([picture() for _ in range(count)], places)
    assert (found.shape[0], found.device.type, found.dtype) == (count, "cpu", torch.float16)
    assert operations.moved == [("cuda", "cpu")]


def test_a_thread_sleeps_while_the_gpu_computes(tower, monkeypatch):
    """And it asks for its rows right behind them, before other threads queue batches of theirs in the same stream."""
    waits = []
    made_up_events(monkeypatch, waits)
    pinned = without_pinning(monkeypatch)
    copied = []
    copy_ = torch.Tensor.copy_

    def copy(there, rows, non_blocking=False):
        if rows.device == CUDA:  # and not torch's own, of which nothing is known but the shape
            copied.append((any(there is each for each in pinned), non_blocking, list(waits)))
        return copy_(there, rows)

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: pytest.fail("it would keep a core busy"))
    tower.embed([picture() for _ in range(4)], 4)
    assert copied == [(True, True, [])]
    assert waits == [("sleeping", "the model's")]


def test_rows_of_texts_come_back_in_the_same_way(monkeypatch):
    """Where a thread sleeps: see above; there is no made-up GPU for texts."""
    tower = build_text_tower(find_weights(MODEL, "random"), precision="fp32", device="cpu")
    came = []
    monkeypatch.setattr(text_tower, "on_host", lambda rows: came.append(rows) or rows)
    found = tower.embed(["a photo", "a cat"], 2)
    assert [rows.tolist() for rows in came] == [found.tolist()]


def test_images_of_both_places_cross_once_and_the_order_is_kept(tower, monkeypatch):
    uploads = []

    def upload(images, places):
        uploads.append((list(images), places))
        return torch.empty((places, SIZE, SIZE, 3), dtype=torch.uint8, device=CUDA)

    monkeypatch.setattr(tower._buffer, "upload", upload)
    with Operations() as operations:
        tower.embed([b"first", picture(), b"third", picture()], 8)
    assert uploads == [([b"first", b"third"], 2)]
    assert operations.moved == [("cuda", "cpu")]
    assert "aten.index_put_.default" not in operations.names


def test_memory_of_another_stream_is_kept_until_it_has_been_read(tower, monkeypatch):
    kept = []
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: kept.append((id(self), stream)))
    pictures = [picture() for _ in range(3)]
    tower.embed(pictures, 4)
    assert kept == [(id(each), "the model's") for each in pictures]


def test_each_block_is_so_many_operations(tower):
    """An activation is one pass over its numbers; in a batch of full size nothing is made but what the model needs."""
    with Operations() as operations:
        tower.embed([picture() for _ in range(4)], 4)
    found = Counter(name.split(".")[1] for name in operations.names)
    assert found["silu_"] == BLOCKS
    assert not {"sigmoid", "gelu", "index_put_", "_local_scalar_dense", "nonzero"} & set(found)
    attention = found["_native_multi_head_attention"] + found["_scaled_dot_product_attention"]
    attention += found["scaled_dot_product_attention"] + found["_scaled_dot_product_flash_attention"]
    assert attention == BLOCKS
    assert found["layer_norm"] + found["native_layer_norm"] == 2 * BLOCKS + 2
