"""What a transform says that brings all rows together, where these are in windows."""

from typing import Any

import apache_beam as beam


def require_global_window(rows: beam.PCollection[Any], transform: beam.PTransform) -> None:
    """Refuses rows in windows, for a transform that writes one folder from all of them.

    Raises:
        ValueError: At construction: the rows are in windows of their own, or a trigger cuts them into panes.
    """
    windowing = rows.windowing
    if not windowing.is_default():
        raise ValueError(
            f"{type(transform).__name__} writes one folder from all rows, but they come in {windowing.windowfn!r} with "
            f"{windowing.triggerfn}: put beam.WindowInto(beam.window.GlobalWindows()) before it"
        )
