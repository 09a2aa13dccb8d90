"""SideBySide: the base of DoFns whose elements are worked on by several threads of a process."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from beam_curate.progress import PROGRESS
from beam_curate.scores.scorers import EmbeddingsScorer, set_up_scorer
from beam_curate.threads import Queue, Threads


class SideBySide(beam.DoFn):
    """Keeps as many elements under way as there are threads, and gives their results in order; an error ends the bundle.

    For data in the global window (see `global_window`), which those that use it insist on.
    """

    def __init__(self, threads: int = 0) -> None:
        """Says how many threads a process has.

        Args:
            threads: Their number; 0 for `threads.default_threads`.
        """
        self._number = threads
        self._shared = Shared()

    @abstractmethod
    def work(self, element: Any, *side: Any) -> Iterable[Any]:
        """Gives the results of an element; called in a thread, with the side inputs."""

    def count(self, result: Any) -> None:
        """Counts a result; called in Beam's thread, where its counters are known."""

    @property
    def threads(self) -> Threads:
        """The threads."""
        return self._threads

    def setup(self) -> None:
        """Starts the threads, one lot for the process: a runner makes a DoFn for each of its own threads."""
        self._threads = self._shared.acquire(lambda: Threads(self._number))

    def start_bundle(self) -> None:
        """Begins with no work under way."""
        self._queue: Queue[list[Any]] = Queue()

    def process(self, element: Any, *side: Any) -> Iterator[Any]:
        """Starts the work on an element, and gives what is ready if enough is under way."""
        self._queue.append(self._threads.submit(partial(self._listed, element, *side)))
        while len(self._queue) > self._threads.number:
            yield from self._take()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Gives the rest."""
        while self._queue:
            for result in self._take():
                yield GlobalWindows.windowed_value(result)

    def _listed(self, element: Any, *side: Any) -> list[Any]:
        return list(self.work(element, *side))

    def _take(self) -> list[Any]:
        results = self._queue.take()
        for result in results:
            self.count(result)
        return results


class WithScorers(SideBySide):
    """A DoFn that looks at parts of a score table, with scorers of the user's own, set up once for each copy of it."""

    def __init__(self, own: Sequence[EmbeddingsScorer]) -> None:
        """Takes the scorers: such one need not bear several threads."""
        super().__init__(1 if own else 0)
        self._own = tuple(own)
        self._parts = Metrics.counter("beam_curate.table", "parts")

    def setup(self) -> None:
        """Sets up the scorers too."""
        super().setup()
        for scorer in self._own:
            set_up_scorer(scorer)

    def _take(self) -> list[Any]:
        results = super()._take()
        self._parts.inc()
        PROGRESS.add(parts=1)
        return results
