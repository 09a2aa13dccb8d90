"""pixels: equal pixels in other bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from beam_curate.commands.method_options import MethodOptions

if TYPE_CHECKING:
    from beam_curate.duplicates.method import Method


@dataclass(frozen=True, kw_only=True)
class PixelsOptions(MethodOptions):
    """It has none."""

    name: ClassVar[str] = "pixels"
    place: ClassVar[int] = 20
    about: ClassVar[str] = "equal pixels in other bytes"
    decodes: ClassVar[bool] = True

    def method(self) -> Method:
        """See MethodOptions."""
        from beam_curate.duplicates.methods.pixels import Pixels

        return Pixels()
