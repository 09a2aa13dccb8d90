"""The layouts for other tools: each file here is one, and is known by being here.

A layout has the name of its file, with `-` for `_`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_curate.kinds import kinds_in, names_in

if TYPE_CHECKING:
    from beam_curate.runs.layout import Layout


def layout_names() -> list[str]:
    """The names of all layouts; none is loaded."""
    return [name.replace("_", "-") for name in names_in(__name__)]


def all_layouts() -> dict[str, type[Layout]]:
    """All layouts by name."""
    from beam_curate.runs.layout import Layout

    return dict(zip(layout_names(), kinds_in(__name__, Layout), strict=True))
