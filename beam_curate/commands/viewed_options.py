"""Beam's options whose views are made once."""

from typing import Any, TypeVar

from apache_beam.options.pipeline_options import PipelineOptions

View = TypeVar("View", bound=PipelineOptions)


class ViewedOptions(PipelineOptions):
    """Options of a command line, of which each group is parsed once.

    Beam asks for a group for each type hint that it compares, and parses the command line each time: before the first image of
    a run 2,000 times, which took 0.4 s. A view has no values of its own: all views show those of the options.
    """

    def view_as(self, cls: type[View]) -> View:
        """The view of a group."""
        views = self.__dict__.setdefault("_views", {})
        if cls not in views or views[cls]._all_options is not self._all_options:
            views[cls] = super().view_as(cls)
        view: View = views[cls]
        return view

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: without the views, which belong to these values."""
        return {name: value for name, value in super().__getstate__().items() if name != "_views"}
