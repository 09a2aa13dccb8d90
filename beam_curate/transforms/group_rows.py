"""GroupByKey for large values, with a stand-in that spills to disk where the engine would hold all in memory."""

import os
import shutil
import uuid
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, BinaryIO

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_curate.records import record
from beam_curate.storage import scratch


@record
class Span:
    """Where a value lies on this machine's disk."""

    path: str
    offset: int
    size: int


@dataclass(eq=False)
class GroupRows(beam.PTransform):
    """Brings the values of each key together.

    In: PCollection[tuple[int, V]]. Out: PCollection[tuple[int, Iterable[V]]], each key once; the values can be gone through
    again, and need not all be in memory.

    It is the engine's GroupByKey on every runner that has a shuffle of its own. Beam's in-process runner holds all that is
    grouped in memory, about twice its size; there the values lie in files of the temporary folder (TMPDIR) meanwhile, and only
    where they lie is grouped: about 0.2 KB a value. The files are deleted with the pipeline; see also `storage.scratch`.

    Attributes:
        kind: V, a record.
    """

    kind: type

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pairs: beam.PCollection[tuple[int, Any]]) -> beam.PCollection[tuple[int, Iterable[Any]]]:
        """Groups the values, or the places of the values."""
        pair: Any = tuple.__class_getitem__((int, self.kind))
        typed = pairs | "Typed" >> beam.Map(lambda pair: pair).with_output_types(pair)
        if not isinstance(pairs.pipeline.runner, FnApiRunner):
            return typed | "Group" >> beam.GroupByKey()
        folder = scratch.new_name()
        weakref.finalize(pairs.pipeline, shutil.rmtree, folder, ignore_errors=True)
        coder = beam.coders.registry.get_coder(self.kind)
        return (
            typed
            | "Spill" >> beam.ParDo(_Spill(folder, coder)).with_output_types(tuple[int, Span])
            | "Group" >> beam.GroupByKey()
            | "Read"
            >> beam.MapTuple(lambda key, spans: (key, _Spilled(list(spans), coder))).with_output_types(
                tuple[int, Iterable[Any]]
            )
        )


class _Spill(beam.DoFn):
    """Appends the values of a bundle to a file."""

    def __init__(self, folder: str, coder: Any) -> None:
        self._folder = folder
        self._coder = coder
        self._file: BinaryIO | None = None

    def process(self, pair: tuple[int, Any]) -> Iterator[tuple[int, Span]]:
        key, value = pair
        if self._file is None:
            scratch.make(self._folder)
            self._path = os.path.join(self._folder, uuid.uuid4().hex)
            self._file = open(self._path, "xb")  # noqa: SIM115  # closed with the bundle
            self._offset = 0
        data = self._coder.encode(value)
        self._file.write(data)
        yield key, Span(self._path, self._offset, len(data))
        self._offset += len(data)

    def finish_bundle(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Spilled:
    """The values of a key, read from disk one after the other."""

    def __init__(self, spans: list[Span], coder: Any) -> None:
        self._spans = sorted(spans, key=lambda span: (span.path, span.offset))
        self._coder = coder

    def __iter__(self) -> Iterator[Any]:
        for path, in_file in groupby(self._spans, key=lambda span: span.path):
            with open(path, "rb") as file:
                for span in in_file:
                    file.seek(span.offset)
                    yield self._coder.decode(file.read(span.size))
