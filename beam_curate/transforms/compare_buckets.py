"""CompareBuckets: the rows of buckets in, the best edge of each row out."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_curate.duplicates.blocks import asked, keys, leaders, pairs_of_blocks
from beam_curate.duplicates.candidates import Rows, by_part
from beam_curate.duplicates.edges import EDGE, Edges, best_edges, may_stand
from beam_curate.duplicates.method import Compared, Method
from beam_curate.duplicates.methods import number_of
from beam_curate.duplicates.pairs import PAIR, Pairs, choose_pairs, pairs_of_edges, some_rows
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.progress import PROGRESS
from beam_curate.records import BlockRows, BucketRows
from beam_curate.transforms.group_rows import GroupRows

_BUCKET_BITS: Final = 40
_HELD_EDGES: Final = 1 << 19
"""Edges wait in memory, 33 bytes each, until there are so many or the bundle ends: then those of one part go together."""
_HOME: Final = 3 / 4
"""Of the rows that are held at once so many may be at home: the rest is for visitors, which come in turns."""
_BLOCKS: Final = "blocks"
_PAIRS: Final = "pairs"


class FoundEdges(NamedTuple):
    """What was found.

    Attributes:
        edges: PCollection[tuple[int, bytes]], for each part with duplicates their edges, one a row, by row.
        pairs: PCollection of one bytes, pairs to show.
    """

    edges: beam.PCollection[tuple[int, bytes]]
    pairs: beam.PCollection[bytes]


@dataclass(eq=False)
class CompareBuckets(beam.PTransform):
    """Compares the rows of each bucket, and combines what is found by the parts of the rows.

    In: PCollection[tuple[int, Iterable[BucketRows]]], see `bucket_key`. Out: FoundEdges.

    A bucket in which more rows are at home than its method compares at once goes to as many workers as there are pairs of blocks
    of it, see `duplicates.blocks`. Of each row at most one edge a bucket, pair of blocks and method is sent, and one is left: it
    does not matter in which order things come.

    Attributes:
        search: What is looked for.
        comparing: PCollection of one list, what each method of the search needs to know.
    """

    search: DuplicateSearch
    comparing: beam.PCollection[list[Any]]

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, buckets: beam.PCollection[tuple[int, Iterable[BucketRows]]]) -> "FoundEdges":
        """Compares small buckets, then the blocks of large ones; combines."""
        methods = list(self.search.methods)
        bands = {number_of(method): method.bands for method in methods}
        comparing = beam.pvalue.AsSingleton(self.comparing)
        whole = buckets | "Buckets" >> beam.ParDo(_CompareBuckets(methods), comparing).with_outputs(
            _BLOCKS, _PAIRS, main="edges"
        )
        blocks = (
            whole[_BLOCKS]
            | "ByBlocks" >> GroupRows(BlockRows)
            | "Blocks" >> beam.ParDo(_CompareBlocks(methods), comparing).with_output_types(tuple[int, bytes])
        )
        found = (whole["edges"] | "OfBuckets" >> beam.Map(_same).with_output_types(tuple[int, bytes]), blocks)
        edges = found | "AllEdges" >> beam.Flatten() | "BestEdges" >> beam.CombinePerKey(_BestEdges())
        of_edges = edges | "EdgePairs" >> beam.MapTuple(
            lambda _, found: pairs_of_edges(np.frombuffer(found, EDGE)).tobytes()
        )
        pairs = (whole[_PAIRS], of_edges) | "AllPairs" >> beam.Flatten()
        chosen = pairs | "ChoosePairs" >> beam.CombineGlobally(_ChoosePairs(bands))
        return FoundEdges(edges, chosen)


def bucket_key(method: int, bucket: int) -> int:
    """The key of a bucket of a method, both by their numbers."""
    return (method << _BUCKET_BITS) | bucket


def _same(pair: tuple[int, bytes]) -> tuple[int, bytes]:
    return pair


class _Pieces:
    """The rows of a bucket in pieces, which can be gone through again."""

    def __init__(self, packed: Iterable[BucketRows], dtype: Any) -> None:
        self._packed, self._dtype = packed, dtype

    def __iter__(self) -> Iterator[Rows]:
        for piece in self._packed:
            yield np.frombuffer(piece.rows, self._dtype)


class _Comparing(beam.DoFn):
    """Compares, and sends the edges of a bundle by the part of their rows."""

    def __init__(self, methods: Sequence[Method]) -> None:
        self._methods = {number_of(method): (place, method) for place, method in enumerate(methods)}
        self._comparisons = Metrics.counter("beam_curate.duplicates", "comparisons")
        self._compared = Metrics.counter("beam_curate.duplicates", "compared_buckets")

    def start_bundle(self) -> None:
        self._held: list[Edges] = []
        self._edges = 0

    def found(self, number: int, compared: Compared) -> Iterator[tuple[int, bytes]]:
        """Takes in the edges of a method; gives what is to be sent."""
        self._comparisons.inc(compared.comparisons)
        if not len(compared.edges):
            return
        compared.edges["method"] = number
        self._held.append(best_edges(compared.edges))
        self._edges += len(self._held[-1])
        if self._edges >= _HELD_EDGES:
            yield from self._packed()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for packed in self._packed():
            yield GlobalWindows.windowed_value(packed)

    def _packed(self) -> Iterator[tuple[int, bytes]]:
        if self._held:
            for part, edges in by_part(best_edges(np.concatenate(self._held)), "row"):
                yield part, edges.tobytes()
        self._held, self._edges = [], 0


class _CompareBuckets(_Comparing):
    """Compares buckets; of those in which very many rows are at home it makes pairs of blocks."""

    def process(self, bucket: tuple[int, Iterable[BucketRows]], comparing: Sequence[Any]) -> Iterator[Any]:
        key, packed = bucket
        number, in_method = key >> _BUCKET_BITS, key & ((1 << _BUCKET_BITS) - 1)
        place, method = self._methods[number]
        pieces = _Pieces(packed, method.dtype(comparing[place]))
        held = _held(pieces, method.block_rows)
        yield from self._shown(number, method, pieces if held is None else held, comparing[place])
        if held is None and self._crowded(in_method, method, pieces, comparing[place]):
            yield from self._in_blocks(key, method, pieces, comparing[place])
        else:
            rows = pieces if held is None else held
            yield from self.found(number, method.compare(in_method, rows, comparing[place]))
        self._compared.inc()
        PROGRESS.add(compared=1)

    def _crowded(self, bucket: int, method: Method, pieces: Iterable[Rows], comparing: Any) -> bool:
        """Whether so many rows are at home in a bucket that they are not held together, with visitors beside them."""
        if method.block_rows is None:
            return False
        home = sum(int(method.at_home(bucket, piece, comparing).sum()) for piece in pieces)
        return home > _HOME * method.block_rows

    def _in_blocks(self, key: int, method: Method, pieces: Iterable[Rows], comparing: Any) -> Iterator[Any]:
        """Asks the leaders of a large bucket; sends pairs of blocks of those left."""
        number, bucket = key >> _BUCKET_BITS, key & ((1 << _BUCKET_BITS) - 1)
        best = leaders(pieces, method.between)
        left, answering = [], []
        for piece in pieces:
            led = asked(method, bucket, piece, best, comparing)
            yield from self.found(number, led.found)
            left.append(led.left)
            answering.append(keys(piece[may_stand(piece, method.between)]))
        size = max(1, (method.block_rows or 0) // 2)
        for block in pairs_of_blocks(pieces, np.concatenate(left), np.concatenate(answering), size, method.between):
            name = hashlib.blake2b(b"%d %d %d" % (key, block.asking, block.answering), digest_size=7).digest()
            sent = BlockRows(key, block.asking, block.answering, block.answers, block.rows.tobytes())
            yield beam.pvalue.TaggedOutput(_BLOCKS, (int.from_bytes(name, "big"), sent))

    def _shown(self, number: int, method: Method, pieces: Iterable[Rows], comparing: Any) -> Iterator[Any]:
        """Pairs to show, of a few rows with all of the bucket."""
        if not method.bands:
            return
        few = np.zeros(0, method.dtype(comparing))
        for piece in pieces:
            few = some_rows(np.concatenate([few, piece]))
        chosen = [np.zeros(0, PAIR)]
        for piece in pieces:
            pairs = method.pairs(few, piece, comparing)
            pairs["method"] = number
            chosen = [choose_pairs(np.concatenate([*chosen, pairs]), {number: method.bands})]
        if len(chosen[0]):
            yield beam.pvalue.TaggedOutput(_PAIRS, chosen[0].tobytes())


def _held(pieces: Iterable[Rows], most: int | None) -> list[Rows] | None:
    """The pieces of a bucket that is small enough to be compared as one; None of a larger one, or one that streams by."""
    held: list[Rows] = []
    rows = 0
    for piece in pieces if most is not None else ():
        held.append(piece)
        rows += len(piece)
        if most is not None and rows > most:
            return None
    return held if most is not None else None


class _CompareBlocks(_Comparing):
    """Compares pairs of blocks."""

    def process(self, pair: tuple[int, Iterable[BlockRows]], comparing: Sequence[Any]) -> Iterator[tuple[int, bytes]]:
        _, sent = pair
        # The key is a digest: it may be that of several pairs.
        pairs: dict[tuple[int, int, int], tuple[list[bytes], list[bytes]]] = {}
        for rows in sent:
            pairs.setdefault((rows.bucket, rows.asking, rows.answering), ([], []))[rows.answers].append(rows.rows)
        for (key, _, _), sides in pairs.items():
            number, bucket = key >> _BUCKET_BITS, key & ((1 << _BUCKET_BITS) - 1)
            place, method = self._methods[number]
            dtype = method.dtype(comparing[place])
            asking, answering = (_joined(side, dtype) for side in sides)
            yield from self.found(number, method.compare_blocks(bucket, asking, answering, comparing[place]))


def _joined(side: list[bytes], dtype: np.dtype[Any]) -> Rows:
    """The rows of a block, out of its pieces: they are let go."""
    rows: Rows = np.frombuffer(b"".join(side), dtype)
    side.clear()
    return rows


class _BestEdges(beam.CombineFn):
    """Of each row the best edge: of the surest method, to the best partner."""

    def create_accumulator(self) -> bytes:
        return b""

    def add_input(self, mutable_accumulator: bytes, element: bytes) -> bytes:
        return self.merge_accumulators([mutable_accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[bytes]) -> bytes:
        return best_edges(np.frombuffer(b"".join(accumulators), EDGE)).tobytes()

    def extract_output(self, accumulator: bytes) -> bytes:
        return accumulator


class _ChoosePairs(beam.CombineFn):
    """Some pairs of each band."""

    def __init__(self, bands: dict[int, Sequence[float]]) -> None:
        self._bands = bands

    def create_accumulator(self) -> bytes:
        return b""

    def add_input(self, mutable_accumulator: bytes, element: bytes) -> bytes:
        return self.merge_accumulators([mutable_accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[bytes]) -> bytes:
        pairs: Pairs = np.frombuffer(b"".join(accumulators), PAIR)
        return choose_pairs(pairs, self._bands).tobytes()

    def extract_output(self, accumulator: bytes) -> bytes:
        return accumulator
