"""exact: equal bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from beam_curate.commands.method_options import MethodOptions

if TYPE_CHECKING:
    from beam_curate.duplicates.method import Method


@dataclass(frozen=True, kw_only=True)
class ExactOptions(MethodOptions):
    """It has none."""

    name: ClassVar[str] = "exact"
    place: ClassVar[int] = 10
    about: ClassVar[str] = "equal bytes"

    def method(self) -> Method:
        """See MethodOptions."""
        from beam_curate.duplicates.methods.exact import Exact

        return Exact()
