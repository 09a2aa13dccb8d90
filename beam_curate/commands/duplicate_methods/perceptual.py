"""perceptual: pHashes that differ in few bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from beam_curate.commands.method_options import MethodOptions, method_option
from beam_curate.commands.options import OptionError

if TYPE_CHECKING:
    from beam_curate.duplicates.method import Method

MOST_BITS: Final = 8
"""That of `duplicates.methods.perceptual`, which `--help` should not wait for."""


@dataclass(frozen=True, kw_only=True)
class PerceptualOptions(MethodOptions):
    """How many bits, and whether of mirror images too."""

    max_distance: int = method_option(
        4, "perceptual: duplicates differ in at most this many of the 64 bits of their pHashes", least=0, most=MOST_BITS
    )
    mirrored: bool = method_option(
        False, "perceptual: mirror images of each other are duplicates too", action="store_true"
    )

    name: ClassVar[str] = "perceptual"
    place: ClassVar[int] = 30
    about: ClassVar[str] = "pHashes that differ in few bits"
    decodes: ClassVar[bool] = True

    def check_with(self, methods: tuple[str, ...], named_by: str, keep_by: str) -> None:
        """See MethodOptions."""
        if self.mirrored and self.name not in methods:
            raise OptionError(f"--mirrored is for perceptual; add perceptual to --{named_by}, or leave --mirrored out")

    def method(self) -> Method:
        """See MethodOptions."""
        from beam_curate.duplicates.methods.perceptual import Perceptual

        return Perceptual(self.max_distance, self.mirrored)
