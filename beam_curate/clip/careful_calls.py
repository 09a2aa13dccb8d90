"""Calls of a model on what comes in, in order, whatever goes wrong with some of it: bisection, less memory, another copy."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from apache_beam.metrics import Metrics

from beam_curate.clip.tower_errors import SAMPLE_ERRORS, TowerError
from beam_curate.devices import device_failed
from beam_curate.reasons import INFER, INFERENCE_ERROR, NON_FINITE_EMBEDDING
from beam_curate.records import Failure

_LOG = logging.getLogger(__name__)

Row: TypeAlias = npt.NDArray[Any] | Failure
"""A row of an embedding, (D,), or why there is none."""

T_contra = TypeVar("T_contra", contravariant=True)
T = TypeVar("T")


class Tower(Protocol[T_contra]):
    """A tower, or the copy of one in a process of its own."""

    def embed(self, items: Sequence[T_contra], places: int) -> npt.NDArray[Any]:
        """Embeds up to `places` items, in the same bits as `places` of them: (len(items), D)."""

    def recover(self, error: BaseException) -> bool:
        """Replaces what has failed on every item; False where there is nothing to replace it with."""


class Model(Protocol[T_contra]):
    """A tower, or the copies of one."""

    def one(self) -> Tower[T_contra]:
        """The tower, or the copy whose turn it is."""


class CarefulCalls:
    """Calls a model with at most so many items, and finds out which of them it fails on.

    A call that raises one of SAMPLE_ERRORS is bisected, with one copy of the model for all of the bisection, down to the items
    that cause it, which fail with `inference_error`. But where the tower raises without any item as well, on an error of the
    device, and where a copy's process has gone, the fault is the tower's: a copy is replaced and the items are tried once more, a
    model of this process is no more tried, and the error is raised. A row that is not finite fails with `non_finite_embedding`.
    CUDA out of memory halves the number of items for good (embeddings may then differ in the last bit); with a single one it is
    raised.

    Counters in the namespace: `oom_backoffs` and `copies_replaced`.

    Attributes:
        shape: The most items of a call.
    """

    def __init__(self, shape: int, namespace: str) -> None:
        self.shape = shape
        self._oom_backoffs = Metrics.counter(namespace, "oom_backoffs")
        self._replaced = Metrics.counter(namespace, "copies_replaced")

    def embed(self, items: Sequence[T], model: Model[T]) -> list[Row]:
        """Embeds items, each to its row or to why it failed.

        Raises:
            RuntimeError: The model fails on everything, or runs out of memory with one item.
        """
        import torch

        rows: list[Row] = []
        while len(rows) < len(items):
            shape = self.shape
            try:
                rows += self._with_one(items[len(rows) : len(rows) + shape], model.one(), shape)
            except torch.cuda.OutOfMemoryError:
                if shape == 1:
                    raise
                self._oom_backoffs.inc()
                _LOG.warning("Out of GPU memory with %d items at a time: going on with half as many", shape)
                self.shape = min(self.shape, shape // 2)  # other threads may have found out by now
        return rows

    def _with_one(self, part: Sequence[T], tower: Tower[T], shape: int) -> list[Row]:
        try:
            return _bisected(part, tower, shape)
        except _BrokenTowerError as broken:
            error = broken.error
        if not tower.recover(error):
            raise error
        self._replaced.inc()
        _LOG.warning("A copy of the model failed on everything and was replaced: %s", error)
        try:
            return _bisected(part, tower, shape)
        except _BrokenTowerError as again:
            raise again.error from error


class _BrokenTowerError(Exception):
    """The tower fails, whatever it is given."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def _bisected(part: Sequence[T], tower: Tower[T], shape: int) -> list[Row]:
    import torch

    try:
        return _checked(tower.embed(part, shape))
    except torch.cuda.OutOfMemoryError:
        raise
    except SAMPLE_ERRORS as error:
        if device_failed(error):
            raise _BrokenTowerError(error) from error
        if len(part) == 1:
            _try_without(tower, shape)
            message = str(error) if isinstance(error, TowerError) else f"{type(error).__name__}: {error}"
            _LOG.warning("The model fails on a sample: %s", message)
            return [Failure(INFER, INFERENCE_ERROR, message)]
    half = len(part) // 2
    return _bisected(part[:half], tower, shape) + _bisected(part[half:], tower, shape)


def _try_without(tower: Tower[T], shape: int) -> None:
    """Raises if the tower fails without any item too, on what it fills the batch up with."""
    import torch

    try:
        tower.embed([], shape)
    except torch.cuda.OutOfMemoryError:
        raise
    except SAMPLE_ERRORS as error:
        raise _BrokenTowerError(error) from error


def _checked(rows: npt.NDArray[Any]) -> list[Row]:
    finite = np.isfinite(rows)
    if finite.all():
        return list(rows)
    return [
        row
        if good.all()
        else Failure(INFER, NON_FINITE_EMBEDDING, f"{int((~good).sum())} of {row.size} values are not finite")
        for row, good in zip(rows, finite, strict=True)
    ]
