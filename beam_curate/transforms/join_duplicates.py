"""JoinDuplicates: the edges of all methods in, the duplicates table out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import apache_beam as beam
import numpy as np

from beam_curate.duplicates import table
from beam_curate.duplicates.candidates import FOREIGN, Places, by_part, places_of
from beam_curate.duplicates.edges import EDGE
from beam_curate.duplicates.finding import Findings, SearchedPart, SearchResult, finish_search
from beam_curate.duplicates.groups import MEMBER, GroupCounts, Members, complete_groups, with_roots
from beam_curate.duplicates.pairs import PAIR
from beam_curate.duplicates.roots import POINTER
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.records import ScorePart
from beam_curate.runs.summary import funnel
from beam_curate.transforms.compare_buckets import FoundEdges
from beam_curate.transforms.find_roots import FindRoots

_COUNTS = "counts"

_Ask: TypeAlias = tuple[bool, int]
"""A shard whose rows are asked for: whether it is of the other dataset, and its index. A plain tuple, as it is a key."""


@dataclass(eq=False)
class JoinDuplicates(beam.PTransform):
    """Brings the edges together to groups, names what the samples are duplicates of, and writes the table.

    In: FoundEdges. Out: PCollection of one dict, what was found, when all parts are written. All goes by parts of the score
    table: a worker holds the duplicates of one, or the members of all groups whose roots are in one, at 45 bytes each.

    Attributes:
        search: What was looked for.
        output: Folder.
        parts: All parts of the score table.
    """

    search: DuplicateSearch
    output: str
    parts: beam.PCollection[ScorePart]

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, found: "FoundEdges") -> beam.PCollection[SearchResult]:
        """Finds roots, completes groups by the part of the root, looks up keys by shard, writes by shard."""
        search, output = self.search, self.output
        kind = tuple[int, bytes]
        doors = (
            {"edges": found.edges, "roots": found.edges | "Roots" >> FindRoots()}
            | "WithRoots" >> beam.CoGroupByKey()
            | "ToRoots" >> beam.FlatMapTuple(_to_roots).with_output_types(kind)
            | "ByRoot" >> beam.GroupByKey()
            | "Groups" >> beam.FlatMapTuple(_groups).with_outputs(_COUNTS, main="members")
        )
        groups = doors[_COUNTS] | "SumGroups" >> beam.CombineGlobally(GroupCounts.sum)
        methods = (
            found.edges
            | "Methods" >> beam.FlatMapTuple(_methods).with_output_types(tuple[int, int])
            | "ByMethod" >> beam.CombinePerKey(sum)
        )
        members = (
            doors["members"]
            | "Members" >> beam.Map(lambda pair: pair).with_output_types(kind)
            | "ByShard" >> beam.GroupByKey()
            | "Ordered" >> beam.MapTuple(_ordered)
        )
        keys = (
            members
            | "Ask" >> beam.FlatMapTuple(_asks).with_output_types(tuple[tuple[bool, int], tuple[int, Any]])
            | "ByAskedShard" >> beam.GroupByKey()
            | "LookUp" >> beam.FlatMapTuple(lambda ask, asked: _look_up(search, ask, asked))
        )
        written = (
            {
                "part": self.parts | "PartByShard" >> beam.Map(_told),
                "members": members,
                "keys": keys,
            }
            | "JoinByShard" >> beam.CoGroupByKey()
            | "WritePart" >> beam.MapTuple(lambda shard_index, joined: _write(output, shard_index, joined))
        )
        return (
            self.parts.pipeline
            | "One" >> beam.Create([None])
            | "Finish"
            >> beam.Map(
                lambda _, parts, by_method, groups, pairs: finish_search(
                    output, parts, Findings(by_method, groups, np.frombuffer(pairs, PAIR)), search
                ),
                beam.pvalue.AsList(written),
                beam.pvalue.AsDict(methods),
                beam.pvalue.AsSingleton(groups),
                beam.pvalue.AsSingleton(found.pairs),
            )
        )


def _told(part: ScorePart) -> tuple[int, tuple[str, SearchedPart]]:
    """Of a part its shard's index and path, and what the search notes of it."""
    return part.shard_index, (part.shard, SearchedPart(part.shard_index, part.rows, funnel([part]).judged, part.scored))


def _to_roots(part: int, joined: Mapping[str, Iterable[bytes]]) -> Iterator[tuple[int, bytes]]:
    """The rows of a part that have an edge, to the parts of their roots."""
    del part
    edges, roots = (np.frombuffer(b"".join(joined[name]), kind) for name, kind in (("edges", EDGE), ("roots", POINTER)))
    for root_part, members in by_part(with_roots(edges, roots), "group"):
        yield root_part, members.tobytes()


def _groups(root_part: int, sent: Iterable[bytes]) -> Iterator[Any]:
    """The members of groups, to their parts; and what is told of the groups."""
    del root_part
    members, counts = complete_groups(np.frombuffer(b"".join(sent), MEMBER))
    yield beam.pvalue.TaggedOutput(_COUNTS, counts)
    for part, some in by_part(members, "row"):
        yield part, some.tobytes()


def _methods(part: int, edges: bytes) -> Iterator[tuple[int, int]]:
    del part
    numbers, counts = np.unique(np.frombuffer(edges, EDGE)["method"], return_counts=True)
    yield from zip(numbers.tolist(), counts.tolist(), strict=True)


def _ordered(shard_index: int, sent: Iterable[bytes]) -> tuple[int, Members]:
    members = np.frombuffer(b"".join(sent), MEMBER)
    return shard_index, members[np.argsort(members["row"])]


def _asks(shard_index: int, members: Members) -> Iterator[tuple[_Ask, tuple[int, Places]]]:
    """Which rows of which shards the members want to name, own keys included."""
    wanted = np.unique(np.concatenate([members["of"], members["row"]]))
    # Sorted, so the rows of a shard lie together, those of the other dataset behind ours.
    shards, index = places_of(wanted)
    foreign = (wanted & FOREIGN) != 0
    starts = np.flatnonzero((np.diff(shards, prepend=-1) != 0) | (np.diff(foreign, prepend=False)))
    for start, rows in zip(starts.tolist(), np.split(index, starts[1:]), strict=True):
        yield (bool(foreign[start]), int(shards[start])), (shard_index, rows)


def _look_up(
    search: DuplicateSearch, ask: _Ask, asked: Iterable[tuple[int, Places]]
) -> Iterator[tuple[int, tuple[_Ask, Places, list[str], str]]]:
    """The keys of the rows that were asked for, and the path of their shard, to whoever asked."""
    foreign, asked_shard = ask
    table = search.table(foreign)
    with table.open(asked_shard) as part:
        rows = part.read(["index", "key", "shard"])  # which all name the one shard: that is checked where they are read
    index = rows.column("index").to_numpy()
    order = np.argsort(index)
    path = rows.column("shard")[0].as_py()
    for shard_index, wanted in asked:
        place = order[np.searchsorted(index, wanted, sorter=order)]
        yield shard_index, (ask, wanted, rows.column("key").take(place).to_pylist(), path)


def _write(output: str, shard_index: int, joined: Mapping[str, Iterable[Any]]) -> SearchedPart:
    """Writes a shard's part of the duplicates table; one without rows as well, so that all parts are there.

    Returns:
        What the search notes of its part of the score table.
    """
    ((shard, part),) = joined["part"]
    names: dict[tuple[bool, int, int], tuple[str, str]] = {}
    for ask, index, keys, path in joined["keys"]:
        names |= {(*ask, row): (key, path) for row, key in zip(index.tolist(), keys, strict=True)}
    members = next(iter(joined["members"]), None)
    if members is None:
        table.write_part(output, shard_index, table.SCHEMA.empty_table())
        return part
    own = [names[False, shard_index, row][0] for row in places_of(members["row"])[1].tolist()]
    of_shard, of_index = places_of(members["of"])
    foreign = ((members["of"] & FOREIGN) != 0).tolist()
    of: list[tuple[str, str] | None] = [
        names[place] for place in zip(foreign, of_shard.tolist(), of_index.tolist(), strict=True)
    ]
    root = (members["of"] == members["row"]).tolist()
    of = [None if is_root else name for is_root, name in zip(root, of, strict=True)]
    keys, shards = [name and name[0] for name in of], [name and name[1] for name in of]
    table.write_part(output, shard_index, table.to_table(members, own, shard, keys, shards))
    return part
