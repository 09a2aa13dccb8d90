"""What a copy's process serves: a tower whose errors can go to any other process."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy.typing as npt

from beam_curate.clip.tower_errors import TOLD, Raised


class CopiedTower(Protocol):
    """A tower that can be copied."""

    def describe(self) -> Any:
        """What it is."""

    def runtime(self) -> tuple[str, str]:
        """The device and the precision in use."""

    def embed(self, items: Any, places: int) -> npt.NDArray[Any]:
        """See careful_calls.Tower; images come as a PixelFile."""


class ServedTower:
    """A tower in the process of a copy."""

    def __init__(self, build: Callable[[], CopiedTower]) -> None:
        self._tower = build()

    def describe(self) -> Any:
        """See CopiedTower."""
        return self._tower.describe()

    def runtime(self) -> tuple[str, str]:
        """See CopiedTower."""
        return self._tower.runtime()

    def embed(self, items: Any, places: int) -> npt.NDArray[Any] | Raised:
        """Embeds, or says why not."""
        try:
            return self._tower.embed(items, places)
        except TOLD as error:
            return Raised.of(error)
