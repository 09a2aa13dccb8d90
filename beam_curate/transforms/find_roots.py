"""FindRoots: the edges of parts in, the root of each row that has one out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from beam_curate.duplicates.edges import EDGE
from beam_curate.duplicates.roots import POINTER, ROUNDS, Pointers, finished, first_pointers, follow, send


@dataclass(eq=False)
class FindRoots(beam.PTransform):
    """Follows edges to their ends, in rounds in which parts ask each other; see `duplicates.roots`.

    In: PCollection[tuple[int, bytes]], for each part its edges, one a row. Out: likewise, pointers to the roots of these rows.
    A chain that is too long for the rounds stops the job.

    Attributes:
        rounds: Their number.
    """

    rounds: int = ROUNDS

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, edges: beam.PCollection[tuple[int, bytes]]) -> beam.PCollection[tuple[int, bytes]]:
        """Sends the first pointers, follows them, and checks that all are at their ends."""
        kind = tuple[int, bytes]
        sent = edges | "First" >> beam.FlatMapTuple(_first).with_output_types(kind)
        for number in range(1, self.rounds + 1):
            grouped = sent | f"ByPart{number}" >> beam.GroupByKey()
            sent = grouped | f"Follow{number}" >> beam.FlatMapTuple(_follow).with_output_types(kind)
        last = sent | "ByPart" >> beam.GroupByKey()
        return last | "Finished" >> beam.FlatMapTuple(_finished).with_output_types(kind)


def _first(part: int, edges: bytes) -> Iterator[tuple[int, bytes]]:
    del part
    return _packed(first_pointers(np.frombuffer(edges, EDGE)))


def _follow(part: int, received: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    del part
    return _packed(follow(np.frombuffer(b"".join(received), POINTER)))


def _finished(part: int, received: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    pointers = finished(np.frombuffer(b"".join(received), POINTER))
    if len(pointers):
        yield part, pointers.tobytes()


def _packed(pointers: Pointers) -> Iterator[tuple[int, bytes]]:
    for part, some in send(pointers):
        yield part, some.tobytes()
