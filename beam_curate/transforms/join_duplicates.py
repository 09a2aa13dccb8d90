"""JoinDuplicates: files of edges in, the duplicates table out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from beam_curate.duplicates import table
from beam_curate.duplicates.candidates import FOREIGN, places_of
from beam_curate.duplicates.edges import EDGE, Edges
from beam_curate.duplicates.finding import Findings, finish_search
from beam_curate.duplicates.groups import Members, resolve
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.records import ScorePart
from beam_curate.storage.files import join, read_bytes

_FINDINGS: Final = "findings"

Places = npt.NDArray[np.int64]


class Found(NamedTuple):
    """What was found in a range of buckets: a file of edges below the output folder, their number, and pairs to show.

    `cut` are rows that are near to more clusters than they are compared in.
    """

    method: str
    name: str
    edges: int
    pairs: bytes = b""
    cut: int = 0


_Ask: TypeAlias = tuple[bool, int]
"""A shard whose rows are asked for: whether it is of the other dataset, and its index. A plain tuple, as it is a key."""


@dataclass(eq=False)
class JoinDuplicates(beam.PTransform):
    """Brings the edges of all methods together to groups, names what the samples are duplicates of, and writes the table.

    In: PCollection[Found]. Out: PCollection of one dict, what was found, when all parts are written; what lay below `work` is
    deleted then. All edges meet in one worker, at some 200 bytes each.

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

    def expand(self, found: beam.PCollection[Found]) -> beam.PCollection[dict[str, Any]]:
        """Resolves, looks up keys by shard, writes by shard."""
        search, output = self.search, self.output
        one = found.pipeline | "One" >> beam.Create([None])
        doors = one | "Resolve" >> beam.FlatMap(
            lambda _, edges: _resolve(edges, output, search), beam.pvalue.AsList(found)
        ).with_outputs(_FINDINGS, main="members")
        members = doors["members"]
        keys = (
            members
            | "Ask" >> beam.FlatMapTuple(_asks).with_output_types(tuple[tuple[bool, int], tuple[int, Any]])
            | "ByAskedShard" >> beam.GroupByKey()
            | "LookUp" >> beam.FlatMapTuple(lambda ask, asked: _look_up(search, ask, asked))
        )
        written = (
            {
                "part": self.parts | "PartByShard" >> beam.Map(lambda part: (part.shard_index, part.shard)),
                "members": members,
                "keys": keys,
            }
            | "JoinByShard" >> beam.CoGroupByKey()
            | "WritePart" >> beam.MapTuple(lambda shard_index, joined: _write(output, shard_index, joined))
        )
        return one | "Finish" >> beam.Map(
            lambda _, parts, findings: finish_search(output, len(parts), findings, search),
            beam.pvalue.AsList(written),
            beam.pvalue.AsSingleton(doors[_FINDINGS]),
        )


def _resolve(found: Sequence[Found], output: str, search: DuplicateSearch) -> Iterator[Any]:
    """The members of each shard; and what was found, by its own door."""
    edges: list[Edges] = [np.zeros(0, EDGE)]
    for one in sorted(found):
        if one.edges:
            edges.append(np.frombuffer(read_bytes(join(output, one.name)), EDGE))
            if len(edges[-1]) != one.edges:
                raise RuntimeError(f"{one.name} holds {len(edges[-1])} of {one.edges} edges that were written to it")
    members = resolve(np.concatenate(edges))
    pairs = b"".join(one.pairs for one in sorted(found))
    eps = search.clustering.eps if search.clustering else 0.0
    cut = sum(one.cut for one in found)
    yield beam.pvalue.TaggedOutput(_FINDINGS, Findings.of(members, pairs, eps, cut))
    shards, _ = places_of(members["row"])
    numbers, starts = np.unique(shards, return_index=True)
    yield from zip(numbers.tolist(), np.split(members, starts[1:]), strict=False)  # without any, one is empty


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


def _write(output: str, shard_index: int, joined: Mapping[str, Iterable[Any]]) -> int:
    """Writes a shard's part of the duplicates table; one without rows as well, so that all parts are there."""
    (shard,) = joined["part"]
    names: dict[tuple[bool, int, int], tuple[str, str]] = {}
    for ask, index, keys, path in joined["keys"]:
        names |= {(*ask, row): (key, path) for row, key in zip(index.tolist(), keys, strict=True)}
    members = next(iter(joined["members"]), None)
    if members is None:
        table.write_part(output, shard_index, table.SCHEMA.empty_table())
        return shard_index
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
    return shard_index
