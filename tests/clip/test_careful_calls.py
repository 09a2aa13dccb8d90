"""A tower that fails on everything fails no image: a copy is replaced, and a model of this process ends it or raises."""

import itertools

import numpy as np
import pytest
import torch

from beam_curate.clip.careful_calls import CarefulCalls
from beam_curate.reasons import INFER, INFERENCE_ERROR
from beam_curate.records import Failure
from tests.support.counters import counted

BROKEN = RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`")


class Tower:
    """Gives each item back, unless it is broken or the item is bad; may be replaced so many times."""

    def __init__(self, error=None, bad=(), replacements=0, still=False):
        self.error, self.bad, self.replacements, self.still = error, set(bad), replacements, still
        self.calls, self.recovered = 0, []

    def embed(self, items, places):
        self.calls += 1
        if self.error is not None:
            raise self.error
        if self.bad & set(items):
            raise ValueError("bad")
        return np.array(items, np.float32).reshape(len(items), 1)

    def recover(self, error):
        self.recovered.append(error)
        if not self.replacements:
            return False
        self.replacements -= 1
        self.error = self.error if self.still else None
        return True


class Model:
    def __init__(self, *towers):
        self.towers, self.turns = towers, itertools.count()

    def one(self):
        return self.towers[next(self.turns) % len(self.towers)]


def values(rows):
    return [row if isinstance(row, Failure) else float(row[0]) for row in rows]


@pytest.mark.parametrize("error", [BROKEN, RuntimeError("something that is no word of CUDA's")])
@pytest.mark.parametrize("copies", [2, 4])
def test_one_broken_copy_of_several_fails_no_image(error, copies):
    broken = Tower(error, replacements=1)
    model = Model(*[Tower() for _ in range(copies - 1)], broken)
    numbers = list(range(1, 8 * 16 + 1))
    with counted() as counter:
        assert values(CarefulCalls(16, "careful").embed(numbers, model)) == numbers
    assert counter("careful", "copies_replaced") == 1
    assert broken.recovered == [error]


def test_an_error_of_the_device_is_not_bisected():
    tower = Tower(BROKEN)
    with pytest.raises(RuntimeError, match="CUBLAS_STATUS_EXECUTION_FAILED"):
        CarefulCalls(64, "careful").embed(range(64), Model(tower))
    assert (tower.calls, tower.recovered) == (1, [BROKEN])


def test_a_copy_whose_replacement_fails_too_is_an_error():
    tower = Tower(BROKEN, replacements=9, still=True)
    with pytest.raises(RuntimeError, match="CUBLAS_STATUS_EXECUTION_FAILED"):
        CarefulCalls(4, "careful").embed([1, 2], Model(tower))
    assert (tower.calls, len(tower.recovered)) == (2, 1)


def test_all_of_a_bisection_asks_one_copy():
    towers = [Tower(bad={3}), Tower(bad={3})]
    found = values(CarefulCalls(8, "careful").embed(list(range(1, 9)), Model(*towers)))
    assert found == [1, 2, Failure(INFER, INFERENCE_ERROR, "ValueError: bad"), 4, 5, 6, 7, 8]
    assert towers[0].calls > 1
    assert towers[1].calls == 0


def test_two_threads_that_run_out_of_memory_at_once_halve_it_once():
    calls = CarefulCalls(8, "careful")

    class Tight(Tower):
        def embed(self, items, places):
            if places > 4:
                calls.shape = 4  # the other thread was quicker
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().embed(items, places)

    assert values(calls.embed([1, 2, 3, 4, 5], Model(Tight()))) == [1, 2, 3, 4, 5]
    assert calls.shape == 4
