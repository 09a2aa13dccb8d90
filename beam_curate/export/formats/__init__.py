"""The formats whose samples are prepared: each file here is one, has its name, and is known by being here.

Without any such wish a run writes `copied_tars.CopiedTars`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_curate.kinds import kinds_in, names_in

if TYPE_CHECKING:
    from beam_curate.export.prepared import PreparedSamples


def format_names() -> list[str]:
    """The names of all formats; none is loaded."""
    return names_in(__name__)


def all_formats() -> dict[str, type[PreparedSamples]]:
    """All formats by name."""
    from beam_curate.export.prepared import PreparedSamples

    return dict(zip(format_names(), kinds_in(__name__, PreparedSamples), strict=True))
