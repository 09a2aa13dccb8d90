"""Copies of the model: each in a process of its own, shared by all that name them, in turns."""

import contextlib
import dataclasses
import functools
import os
import signal
import threading
import time
import types
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from beam_curate.clip import copy_process, tower_copies
from beam_curate.clip.careful_calls import CarefulCalls
from beam_curate.clip.copy_process import NotLoadedError
from beam_curate.clip.handler import ClipModelHandler
from beam_curate.clip.pixel_files import SharedPixels
from beam_curate.clip.tower_copies import CopyGoneError, TowerCopies
from beam_curate.clip.tower_errors import TowerError
from beam_curate.devices import DeviceFailedError
from beam_curate.images.resizing import Target
from beam_curate.reasons import INFER, INFERENCE_ERROR
from beam_curate.records import DecodedImage, Failure, ImageFacts, SampleRef
from tests.conftest import torch_threads
from tests.support import forked
from tests.support.counters import counted
from tests.support.stub_tower import Shared, Tower, image, tower_that_fails_to_load, turns

MODEL = "ViT-S-32-alt"
SIZE = 224


def test_each_copy_has_a_process_which_workers_share(tmp_path):
    name = f"copies-{uuid.uuid4().hex}"
    copies = TowerCopies(Tower, name, 2)
    first, second, *more = turns(copies, 4)
    assert len({first, second, os.getpid()}) == 3
    assert more == [first, second]
    assert (copies.describe(), copies.runtime()) == ("described", ("cpu", "fp32"))
    code = f"""
import os
from beam_curate.clip.tower_copies import TowerCopies
from tests.support.stub_tower import Tower, turns
if __name__ == "__main__":
    print(os.getpid(), *turns(TowerCopies(Tower, {name!r}, 2), 2))
"""
    worker, *theirs = map(int, forked.run(code).stdout.split())
    assert set(theirs) == {first, second}
    assert worker not in {os.getpid(), first, second}
    assert turns(copies, 2) == [first, second]  # the worker's end did not end them

    os.kill(first, signal.SIGKILL)
    again = turns(copies, 4)
    assert again[1] == again[3] == second
    assert again[0] == again[2] not in {first, second}


@pytest.fixture(scope="module")
def two_copies():
    """Two copies, for tests that leave two running."""
    with pytest.MonkeyPatch.context() as patch:
        forked.in_place_of_new_processes(patch)
        return TowerCopies(Tower, f"copies-{uuid.uuid4().hex}", 2)


@pytest.fixture
def pair(two_copies, monkeypatch):
    """These; each that takes the place of another is forked too, with the libraries loaded."""
    forked.in_place_of_new_processes(monkeypatch)
    return two_copies


def test_pixels_and_texts_reach_a_copy_in_order(pair):
    copy = pair.one()
    for numbers in ([1, 2, 3], [4], [0, 1, 2, 3, 4] * 50):
        assert copy.embed([image(number) for number in numbers], 300)[:, 1].tolist() == numbers
    assert copy.embed([], 8).shape == (0, 2)
    assert copy.embed(["3", "4"], 2)[:, 1].tolist() == [3, 4]
    with pytest.raises(TypeError, match="takes texts or bytes of pixels, not list"):
        copy.embed([[1]], 1)


def test_each_thread_has_pixels_of_its_own(pair):
    def work(number):
        return [pair.one().embed([image(number)] * 20, 20)[:, 1].tolist() for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(work, range(4))):
            assert found == [[number] * 20] * 20


def test_an_error_comes_back_whatever_its_class(pair):
    copy = pair.one()
    with pytest.raises(TowerError, match=r"^StrangeError: cannot see 8$"):
        copy.embed([image(8)], 1)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        copy.embed([image(7)], 1)
    with pytest.raises(MemoryError, match="no room"):
        copy.embed([image(6)], 1)


def test_an_image_that_ends_every_copy_is_an_error_and_the_next_one_is_not(pair):
    with pytest.raises(CopyGoneError, match="a copy of the model has gone"):
        CarefulCalls(1, "test").embed([image(5)], pair)
    assert [int(row[1]) for row in CarefulCalls(1, "test").embed([image(1), image(2)], pair)] == [1, 2]


def test_a_copy_that_is_killed_is_replaced_and_counted_and_no_number_of_a_process_is_killed_twice(pair, monkeypatch):
    first, second = turns(pair, 2)
    os.kill(first, signal.SIGKILL)
    killed = []
    monkeypatch.setattr(tower_copies.os, "kill", lambda *which: killed.append(which))
    with counted() as counter:
        rows = CarefulCalls(2, "test").embed([image(number) for number in (1, 2, 3, 4)], pair)
    assert [int(row[1]) for row in rows] == [1, 2, 3, 4]
    assert counter("test", "copies_replaced") == 1
    assert killed == []
    assert set(turns(pair, 2)) & {first, second} == {second}


def test_a_copy_that_ends_in_the_middle_of_its_answer_is_replaced_and_no_row_is_lost_or_doubled(pair):
    with counted() as counter, pytest.raises(CopyGoneError, match="a copy of the model has gone"):
        CarefulCalls(1, "test").embed([image(10)], pair)  # and once more, for it is the image that ends them
    assert counter("test", "copies_replaced") == 1
    with pytest.raises(CopyGoneError):
        pair.one().embed([image(10)], 1)
    rows = CarefulCalls(2, "test").embed([image(number) for number in (1, 2, 3, 4, 0)], pair)
    assert [int(row[1]) for row in rows] == [1, 2, 3, 4, 0]


def test_a_thread_that_ends_leaves_no_pixels_in_memory():
    pixels = SharedPixels()

    def write():
        file = pixels.write([image(1)] * 1000)
        return os.fstat(file.descriptor).st_ino

    def open_files():
        found = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.add(os.stat(f"/proc/self/fd/{name}").st_ino)
        return found

    with ThreadPoolExecutor(4) as pool:
        inodes = set(pool.map(lambda _: write(), range(8)))
        assert inodes & open_files()
    assert not inodes & open_files()


def test_pixels_that_a_copy_may_not_read_fail_no_image(pair, monkeypatch):
    write = SharedPixels.write
    monkeypatch.setattr(SharedPixels, "write", lambda *given: dataclasses.replace(write(*given), inode=1))
    with pytest.raises(OSError, match=r"the pixels of process .* cannot be read"):
        CarefulCalls(2, "test").embed([image(1), image(2)], pair)


def test_an_item_that_a_copy_fails_on_is_found(pair):
    calls = CarefulCalls(8, "test")
    rows = calls.embed([image(number) for number in (1, 2, 8, 3, 4)], pair)
    assert [row if isinstance(row, Failure) else int(row[1]) for row in rows] == [
        1, 2, Failure(INFER, INFERENCE_ERROR, "StrangeError: cannot see 8"), 3, 4,
    ]  # fmt: skip
    assert calls.embed([image(7)] * 0, pair) == []


def test_a_copy_that_has_lost_its_gpu_is_replaced_and_no_image_fails(pair):
    before = set(turns(pair, 2))
    lost = pair.one()
    with pytest.raises(DeviceFailedError, match="illegal memory access"):
        lost.embed([image(9)], 1)
    with pytest.raises(DeviceFailedError):
        lost.embed([image(1)], 1)  # for ever
    rows = [row for _ in range(2) for row in CarefulCalls(8, "test").embed([image(n) for n in (1, 2, 3)], pair)]
    assert [int(row[1]) for row in rows] == [1, 2, 3] * 2
    after = set(turns(pair, 2))
    assert len(after) == 2
    assert not after & before  # the other one, which may share the GPU, is replaced too


def test_a_model_that_does_not_load_is_told():
    with pytest.raises(NotLoadedError, match="ValueError: no such weights"):
        TowerCopies(functools.partial(Tower, broken=True), f"copies-{uuid.uuid4().hex}", 1)


def in_a_new_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.mark.parametrize("images", [1, 3])
def test_a_copy_that_is_loaded_again_at_the_second_try_fails_no_image(tmp_path, images):
    """For a thread that has no connection with it yet, and that is the first to find it killed."""
    copies = TowerCopies(functools.partial(tower_that_fails_to_load, str(tmp_path)), f"copies-{uuid.uuid4().hex}", 1)
    os.kill(turns(copies, 1)[0], signal.SIGKILL)
    (tmp_path / "once").touch()
    numbers = list(range(1, images + 1))
    rows = in_a_new_thread(lambda: CarefulCalls(8, "test").embed([image(number) for number in numbers], copies))
    assert [int(row[1]) for row in rows] == numbers
    assert os.listdir(tmp_path) == []


def test_a_copy_that_cannot_be_loaded_again_is_an_error_and_not_of_the_images(tmp_path, monkeypatch):
    monkeypatch.setattr(tower_copies, "_PATIENCE_SECONDS", 0)
    copies = TowerCopies(functools.partial(tower_that_fails_to_load, str(tmp_path)), f"copies-{uuid.uuid4().hex}", 1)
    os.kill(turns(copies, 1)[0], signal.SIGKILL)
    for number in range(9):
        (tmp_path / str(number)).touch()
    calls = CarefulCalls(8, "test")
    with pytest.raises(NotLoadedError, match="the disk with the weights is not there"):
        in_a_new_thread(lambda: calls.embed([image(number) for number in range(1, 5)], copies))
    assert len(os.listdir(tmp_path)) == 8  # it is tried once, and not for each half of the images
    for flag in tmp_path.iterdir():
        flag.unlink()
    assert [int(row[1]) for row in calls.embed([image(3)], copies)] == [3]


def stopped(process):
    """Stops a process, and waits until none of its threads runs: a signal may come after an answer."""
    os.kill(process, signal.SIGSTOP)
    while True:
        states = [
            task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{process}/task").glob("*/stat")
        ]
        if set(states) == {"T"}:
            return
        time.sleep(0.01)


STILL = {"stopped": 1, "sleeps in a call": 11, "stops in its answer": 12}


@pytest.mark.parametrize("how", STILL)
def test_a_copy_that_stands_still_is_replaced(pair, monkeypatch, how):
    before, usual = set(turns(pair, 2)), copy_process.SILENT_SECONDS

    def work():
        monkeypatch.setattr(copy_process, "SILENT_SECONDS", 1)
        if how != "stops in its answer":  # the wait for its beginning does not end before the one for its end
            monkeypatch.setattr(tower_copies, "_IMAGE_SECONDS", 0)
        copy = pair.one()
        process = copy._link().process
        if how == "stopped":
            stopped(process)
        with pytest.raises(CopyGoneError, match="a copy of the model stands still") as caught:
            copy.embed([image(STILL[how])], 1)
        monkeypatch.setattr(copy_process, "SILENT_SECONDS", usual)
        assert copy.recover(caught.value)
        return process, copy.embed([image(3)], 1).tolist()

    process, ((other, number),) = in_a_new_thread(work)
    assert (process in before, other in before, number) == (True, False, 3)
    assert set(turns(pair, 2)) == before - {process} | {other}


def test_a_copy_that_stands_still_fails_no_image_and_is_counted(pair, monkeypatch, caplog):
    monkeypatch.setattr(copy_process, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(tower_copies, "_IMAGE_SECONDS", 0)
    monkeypatch.setattr(copy_process, "_REPORT_SECONDS", 0.05)
    recover = tower_copies._Copy.recover

    def patient_again(copy, error):
        monkeypatch.undo()
        return recover(copy, error)

    calls, copy = CarefulCalls(2, "test"), pair.one()
    with pytest.MonkeyPatch.context() as patch, counted() as counter:
        patch.setattr(tower_copies._Copy, "recover", patient_again)
        forked.in_place_of_new_processes(patch)  # that of the fixture is undone too
        stopped(copy._link().process)
        rows = calls.embed([image(1), image(2)], types.SimpleNamespace(one=lambda: copy))
    assert [int(row[1]) for row in rows] == [1, 2]
    assert counter("test", "copies_replaced") == 1
    assert "has not answered for" in caplog.text


def test_threads_that_notice_together_replace_a_copy_once(pair):
    lost = pair.one()
    before = lost._link().process

    def notice(both):
        with pytest.raises(DeviceFailedError) as caught:
            lost.embed([image(9)], 1)
        both.wait(60)
        assert lost.recover(caught.value)
        return lost._link().process

    both = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(notice, [both] * 2)
    assert first == second != before
    assert lost.embed([image(4)], 1)[0].tolist() == [first, 4]


def test_a_gpu_that_is_lost_under_mps_is_lost_for_all_copies_and_no_image_fails(tmp_path):
    """Of two models, each with two copies: those that still hold it would keep every new one out."""
    build = functools.partial(Shared, str(tmp_path))
    images, captions = (TowerCopies(build, f"copies-{uuid.uuid4().hex}", 2) for _ in range(2))
    before = {*turns(images, 2), *turns(captions, 2)}
    with pytest.raises(DeviceFailedError):
        images.one().embed([image(9)], 1)
    numbers = [1, 2, 3, 4]
    with counted() as counter:
        for _ in range(2):
            assert CarefulCalls(2, "test").embed([image(number) for number in numbers], images)[3][1] == 4
            texts = [str(number) for number in numbers]
            assert [int(row[1]) for row in CarefulCalls(2, "test").embed(texts, captions)] == numbers
    assert counter("test", "copies_replaced") == 1
    assert not before & {*turns(images, 2), *turns(captions, 2)}


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


@pytest.fixture
def one_thread():
    """torch with one thread in this process, as a copy has: other numbers of threads may give other last bits."""
    with torch_threads(1):
        yield


def test_the_handler_embeds_with_them_as_without(one_thread):
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
