"""FindDuplicates: a finished score table in, its duplicates table out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.metrics import Metrics

from beam_curate.duplicates import clusters
from beam_curate.duplicates.candidates import Floats, Ids, embeddings
from beam_curate.duplicates.finding import is_finished, read_findings
from beam_curate.duplicates.image_hashes import COLUMNS, hashes_name, write_hashes
from beam_curate.duplicates.search import DuplicateSearch, Method, rows_of_run
from beam_curate.duplicates.spilling import WORK, BucketRange, Run, RunReader, plan_ranges, write_run
from beam_curate.records import ScorePart
from beam_curate.storage.files import atomic_output
from beam_curate.transforms.global_window import require_global_window
from beam_curate.transforms.join_duplicates import Found, JoinDuplicates
from beam_curate.transforms.list_parts import ListParts


class PartRef(NamedTuple):
    """A part of a score table: of the other dataset or of ours, its shard's index, and about how many candidates it has."""

    foreign: bool
    shard_index: int
    rows: int


class Batch(NamedTuple):
    """Parts that make one run; of `total` rows in all."""

    number: int
    parts: Sequence[PartRef]
    total: int


@dataclass(eq=False)
class FindDuplicates(beam.PTransform):
    """Finds duplicates in a score table, or between two.

    In: PCollection[ScorePart], all parts of the table of `search.selection`. Out: PCollection of one dict, what was found, when
    the duplicates table lies in `output`; see `duplicates`.

    Attributes:
        search: What is looked for.
        output: Folder of the duplicates table. What is read again later lies below it too, until the end.
    """

    search: DuplicateSearch
    output: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: beam.PCollection[ScorePart]) -> beam.PCollection[dict[str, Any]]:
        """Finds the clusters, then the edges by each method, then brings all edges together; unless a stopped run did so."""
        require_global_window(parts, self)
        search, output = self.search, self.output
        if is_finished(output):
            # Read when the job runs: a pipeline is also built to see whether it can be, over a table that is about to go.
            return (
                parts.pipeline | "There" >> beam.Create([output], reshuffle=False) | "Found" >> beam.Map(read_findings)
            )
        one = parts.pipeline | "One" >> beam.Create([None])
        only_kept = search.selection.rules is None
        refs = parts | "Refs" >> beam.Map(_ref, False, only_kept).with_output_types(PartRef)
        if search.against is not None:
            other = parts.pipeline | "Other" >> ListParts(search.against)
            refs = (refs, other | "OtherRefs" >> beam.Map(_ref, True, True).with_output_types(PartRef)) | beam.Flatten()
        refs = refs | "SpreadRefs" >> beam.Reshuffle().with_input_types(PartRef)
        # Only that the hashes are there.
        ready = (
            refs | "Hash" >> beam.ParDo(_Hash(search, output))
            if search.hashes
            else parts.pipeline | "NoHashes" >> beam.Create([0], reshuffle=False)
        )
        batches = (
            one
            | "Batch"
            >> beam.FlatMap(lambda _, some: plan_batches(some), beam.pvalue.AsList(refs)).with_output_types(Batch)
            | "SpreadBatches" >> beam.Reshuffle()
        )
        centroids = (
            self._centroids(one, batches) if search.clustering else one | "NoClusters" >> beam.Map(lambda _: None)
        )
        found = [
            batches
            | method.name.capitalize() >> _FindEdges(search, method, output, centroids, beam.pvalue.AsList(ready))
            for method in search.methods
        ]
        return found | "AllEdges" >> beam.Flatten() | JoinDuplicates(search, output, parts)

    def _centroids(self, one: Any, batches: Any) -> Any:
        sample = batches | "Sample" >> beam.FlatMap(_sample, self.search)
        return one | "Train" >> beam.Map(
            lambda _, drawn, clustering: train(drawn, clustering), beam.pvalue.AsList(sample), self.search.clustering
        )


@dataclass(eq=False)
class _FindEdges(beam.PTransform):
    """Batches in; Found out: the files of edges that a method finds."""

    search: DuplicateSearch
    method: Method
    output: str
    centroids: Any
    ready: Any

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, batches: beam.PCollection[Batch]) -> beam.PCollection[Found]:
        method, output = self.method, self.output
        centroids = beam.pvalue.AsSingleton(self.centroids)
        spilled = batches | "Spill" >> beam.ParDo(_Spill(self.search, method, output), centroids, self.ready)
        runs = spilled | "Runs" >> beam.Map(lambda run: run[0]).with_output_types(Run)
        counts = spilled | "Counts" >> beam.Map(lambda run: run[1]) | "SumCounts" >> beam.CombineGlobally(_add_counts)
        cut = spilled | "Cuts" >> beam.Map(lambda run: run[2]) | "SumCuts" >> beam.CombineGlobally(sum)
        total = batches | "Total" >> beam.Map(lambda batch: batch.total) | "OneTotal" >> beam.CombineGlobally(_most)
        edges = (
            counts
            | "Ranges" >> beam.FlatMap(
                lambda found, rows: plan_ranges(found, method.most_rows(rows)), beam.pvalue.AsSingleton(total)
            ).with_output_types(BucketRange)
            | "SpreadRanges" >> beam.Reshuffle()
            | "Compare" >> beam.ParDo(
                _Compare(method, output), beam.pvalue.AsList(runs), beam.pvalue.AsSingleton(total), centroids
            ).with_output_types(Found)
        )  # fmt: skip
        told = cut | "Cut" >> beam.Map(lambda rows: Found(method.name, "", 0, cut=rows)).with_output_types(Found)
        return (edges, told) | beam.Flatten().with_output_types(Found)


def _ref(part: ScorePart, foreign: bool, only_kept: bool) -> PartRef:
    return PartRef(foreign, part.shard_index, part.kept if only_kept else part.rows - part.failed)


def plan_batches(parts: Iterable[PartRef]) -> Iterator[Batch]:
    """Puts parts together to runs."""
    ordered = sorted(parts)
    total = sum(part.rows for part in ordered)
    batch: list[PartRef] = []
    number = rows = 0
    for part in ordered:
        if batch and rows + part.rows > rows_of_run(total):
            yield Batch(number, batch, total)
            batch, rows, number = [], 0, number + 1
        batch.append(part)
        rows += part.rows
    if batch:
        yield Batch(number, batch, total)


def _sample(batch: Batch, search: DuplicateSearch) -> Iterator[tuple[Ids, npt.NDArray[np.float16], int]]:
    """The ids and embeddings that are drawn from a batch, and the number of clusters."""
    if search.clustering is None:
        raise ValueError("the search has no clusters")
    wanted = search.clustering.clusters_for(batch.total)
    for part in batch.parts:
        found = search.rows(part.foreign).read_unranked(part.shard_index, ["embedding"])
        drawn = clusters.sampled(found.ids, batch.total, wanted)
        yield found.ids[drawn], embeddings(found.table)[drawn], wanted


def train(drawn: Sequence[tuple[Ids, npt.NDArray[np.float16], int]], clustering: clusters.Clustering) -> Floats:
    """The centroids from all that was drawn, in whatever order it comes."""
    ids = np.concatenate([one[0] for one in drawn])
    vectors = np.concatenate([one[1] for one in drawn])
    return clusters.train(vectors[np.argsort(ids)], drawn[0][2], clustering.distance)


class _Hash(beam.DoFn):
    def __init__(self, search: DuplicateSearch, output: str) -> None:
        self._search = search
        self._output = output
        self._images = Metrics.counter("beam_curate.duplicates", "hashed")
        self._failed = Metrics.counter("beam_curate.duplicates", "not_hashed")

    def process(self, part: PartRef) -> Iterator[int]:
        found = self._search.rows(part.foreign).read_unranked(part.shard_index, COLUMNS)
        name = hashes_name(part.shard_index, part.foreign)
        failed = write_hashes(self._output, name, found.table, self._search.max_pixels, self._search.threads)
        self._images.inc(found.table.num_rows)
        self._failed.inc(failed)
        yield failed


class _Spill(beam.DoFn):
    def __init__(self, search: DuplicateSearch, method: Method, output: str) -> None:
        self._search = search
        self._method = method
        self._output = output

    def process(
        self, batch: Batch, centroids: Floats | None, ready: Sequence[int]
    ) -> Iterator[tuple[Run, npt.NDArray[np.int64], int]]:
        del ready  # only that the hashes are there
        method = self._method
        pieces = []
        for part in batch.parts:
            found = self._search.rows(part.foreign).read(part.shard_index, method.columns, centroids)
            hashes = hashes_name(part.shard_index, part.foreign)
            pieces.append(method.spill(found, self._output, hashes, centroids))
        name = f"{method.name}-{batch.number:05d}"
        buckets = np.concatenate([piece.buckets for piece in pieces])
        rows = np.concatenate([piece.rows for piece in pieces])
        run, counts = write_run(self._output, name, buckets, rows, method.n_buckets(centroids))
        yield run, counts, sum(piece.cut for piece in pieces)


def _add_counts(counts: Iterable[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    total: Any = 0
    for one in counts:
        total = total + one
    return np.atleast_1d(np.asarray(total, np.int64))


def _most(totals: Iterable[int]) -> int:
    return max(totals, default=0)


class _Compare(beam.DoFn):
    def __init__(self, method: Method, output: str) -> None:
        self._method = method
        self._output = output

    def process(
        self, wanted: BucketRange, runs: Sequence[Run], total: int, centroids: Floats | None
    ) -> Iterator[Found]:
        method = self._method
        reader = RunReader(self._output, runs, method.row_dtype(centroids))
        edges, pairs = method.compare(reader, wanted, total)
        name = f"{WORK}/edges-{method.name}-{wanted.first:07d}"
        if len(edges):
            with atomic_output(self._output, name) as stream:
                stream.write(edges.tobytes())
        yield Found(method.name, name, len(edges), pairs.tobytes())
