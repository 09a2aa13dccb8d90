"""The kept buffers: filled in place, black behind the images, one for each thread, and read by another process."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from beam_curate.clip.pixel_buffers import HostBuffer
from beam_curate.clip.pixel_files import PixelFile, SharedPixels
from tests.conftest import ROOT

CPU = torch.device("cpu")


def image(number, size=4):
    return np.full((size, size, 3), number, np.uint8)


def firsts(batch):
    return batch[:, 0, 0, 0].tolist()


def test_it_is_filled_in_place_and_black_behind():
    buffer = HostBuffer(4, CPU)
    first = buffer.upload([image(n).tobytes() for n in (1, 2, 3)], 4)
    assert firsts(first) == [1, 2, 3, 0]
    assert first[1].eq(2).all()
    second = buffer.upload([image(9)], 2)
    assert firsts(second) == [9, 0]
    assert second.data_ptr() == first.data_ptr()
    assert firsts(buffer.upload(np.stack([image(5), image(6)]), 3)) == [5, 6, 0]


@pytest.mark.parametrize("wrong", [image(1).tobytes()[:-1], image(1, 5), np.zeros((4, 4, 3), np.float32)])
def test_an_image_of_another_shape_is_refused(wrong):
    with pytest.raises(TypeError, match=r"expected uint8 \(4, 4, 3\)"):
        HostBuffer(4, CPU).upload([image(1), wrong], 2)


def test_each_thread_has_its_own():
    buffer = HostBuffer(4, CPU)
    with ThreadPoolExecutor(1) as other:
        mine = buffer.upload([image(1)], 1)
        theirs = other.submit(buffer.upload, [image(2)], 1).result()
        assert (firsts(mine), firsts(theirs)) == ([1], [2])


def test_the_buffer_waits_for_the_copy_before(monkeypatch):
    """With a stand-in for a GPU that has not read the pixels yet."""
    waited = []

    class Event:
        def synchronize(self):
            waited.append(firsts(buffer._pixels))

    buffer = HostBuffer(4, CPU)
    buffer.upload([image(1)], 1)
    buffer._sent = Event()
    buffer.upload([image(2)], 1)
    assert waited == [[1]]  # before it was overwritten


def test_nothing_is_overwritten_before_the_gpu_has_read_it(monkeypatch):
    """A stand-in for a GPU that copies as late as it may: when somebody waits for an event recorded behind the copy."""
    begun, empty = [], torch.empty

    class Event:
        def __init__(self, blocking):
            assert blocking  # whoever waits for it sleeps

        def record(self, stream):
            self.behind, begun[:] = list(begun), []

        def synchronize(self):
            for source, there in self.behind:
                there.copy_(source)
            self.behind = []

    def unpinned(*shape, pin_memory, **how):
        assert pin_memory
        return empty(*shape, **how)

    def to(source, device, non_blocking):
        assert non_blocking
        there = torch.full_like(source, 77)
        begun.append((source, there))
        return there

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the model's")
    buffer = HostBuffer(4, torch.device("cuda:0"))
    monkeypatch.setattr(torch, "empty", unpinned)
    first = buffer.upload([image(1), image(2)], 4)
    assert firsts(first) == [77] * 4  # not there yet
    second = buffer.upload([image(3)], 1)
    assert firsts(first) == [1, 2, 0, 0]
    with pytest.raises(TypeError):
        buffer.upload([image(4), image(5, 5)], 2)  # in between: half filled
    assert firsts(second) == [3]
    third = buffer.upload([image(6)] * 8, 8)  # a larger one
    buffer.upload([image(7)], 1)
    assert (firsts(first), firsts(second), firsts(third)) == ([1, 2, 0, 0], [3], [6] * 8)


def test_another_process_reads_them():
    pixels = SharedPixels()
    file = pixels.write([image(n).tobytes() for n in (7, 8, 9)])
    code = f"""
import numpy as np
from beam_curate.clip.pixel_files import PixelFile
rows = np.zeros((4, 48), np.uint8)
PixelFile{(file.process, file.descriptor, file.inode, file.images)}.read(rows)
print(rows[:, 0].tolist(), rows[:, -1].tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n")[0] == "[7, 8, 9, 0] [7, 8, 9, 0]"
    again = pixels.write([image(3).tobytes()])
    assert (again.descriptor, again.inode) == (file.descriptor, file.inode)  # kept


def test_another_file_is_not_taken_for_it():
    file = SharedPixels().write([image(1).tobytes()])
    rows = np.zeros((2, 48), np.uint8)
    with pytest.raises(OSError, match="pixels of process"):
        PixelFile(os.getpid(), file.descriptor, file.inode + 1, 1).read(rows)
    pixels = SharedPixels()
    file = pixels.write([image(1).tobytes()])
    with pytest.raises(OSError, match="ends after 48 of 96 bytes"):
        PixelFile(file.process, file.descriptor, file.inode, 2).read(rows)
