"""What a search for duplicates found, in numbers and in a few examples; the end of a search."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from beam_curate.duplicates.candidates import FOREIGN, places_of
from beam_curate.duplicates.groups import Group, GroupCounts
from beam_curate.duplicates.method import Method
from beam_curate.duplicates.methods import all_methods, number_of
from beam_curate.duplicates.pairs import Pairs
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.duplicates.table import AGAIN, FOLDER, DuplicatesError, part_name
from beam_curate.runs.configuration import DuplicateRule
from beam_curate.runs.part_files import table_digest
from beam_curate.runs.run import Run
from beam_curate.runs.table_parts import TablePlace
from beam_curate.storage.files import exists, files_under, join, write_json
from beam_curate.storage.json_files import DamagedFileError, refuse_misfit
from beam_curate.storage.json_records import read_record, to_json

SUMMARY: Final = f"{FOLDER}/summary.json"
"""Written last: the mark of a complete duplicates table."""
_EXAMPLES: Final = ("against", "largest", "pairs")
"""What of a SearchResult is neither a rule nor a number."""
_OF_THE_TABLE: Final = ("rows", "judged", "scored")
"""What tells of the score table that was searched, and not of the rule."""


@dataclass(frozen=True)
class RowPlace:
    """Where a row is.

    Attributes:
        other: Whether in the other dataset.
        shard_index: Of its input shard.
        index: Its index there.
    """

    other: bool
    shard_index: int
    index: int


@dataclass(frozen=True)
class FoundSample(RowPlace):
    """A sample of a group: by which method it is a duplicate, none for the best one, and how similar it is to a better one."""

    method: str | None
    similarity: float


@dataclass(frozen=True)
class FoundGroup:
    """A group: its samples of this dataset, how many they are, and the best one, which may be of the other dataset."""

    size: int
    root: RowPlace
    samples: Sequence[FoundSample]


@dataclass(frozen=True, kw_only=True)
class FoundPair:
    """Two samples, how similar they are by a method, and whether that makes them duplicates."""

    method: str = "semantic"
    similarity: float
    duplicate: bool
    samples: Sequence[RowPlace]


@dataclass(frozen=True, kw_only=True)
class OtherDataset(TablePlace):
    """Another dataset that samples were compared with: its score table, and the digest of its input at that time."""

    input: str


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What was looked for and found: `duplicates/summary.json`.

    Attributes:
        methods: The names of the methods.
        keep_by: Which one of a group stays.
        between_datasets: Whether samples were compared with another dataset alone.
        action: What is done with samples that are there too.
        groups: How many groups there are.
        duplicates: How many duplicates.
        by_method: These, by the method that found them.
        largest_group: The size of the largest group.
        parts: How many parts the duplicates table has.
        input: A digest of the input of the score table, see `input_digest`.
        rows: How many rows the score table had; None in tables of version 0.1.0.
        judged: How many of them had an embedding: neither failed nor screened out; None likewise.
        scored: What tells that table from another one, as `Summary.scored`; None likewise.
        against: The other dataset.
        largest: Some of the largest groups.
        pairs: Pairs of several similarities.
        more: The options of the methods, by name.
    """

    methods: Sequence[str]
    keep_by: str
    between_datasets: bool
    action: str
    groups: int
    duplicates: int
    by_method: Mapping[str, int]
    largest_group: int
    parts: int = 0
    input: str
    against: OtherDataset | None
    largest: Sequence[FoundGroup]
    pairs: Sequence[FoundPair]
    rows: int | None = None
    judged: int | None = None
    scored: str | None = None
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def rule(self) -> DuplicateRule:
        """As a run that applies the table notes it."""
        said = to_json(self)
        left = (*_EXAMPLES, *_OF_THE_TABLE)
        return DuplicateRule.of_table({name: value for name, value in said.items() if name not in left})

    def value(self, method: type[Method]) -> float | None:
        """That of a method's option; None if it has none, or was not among the methods."""
        found = self.more.get(method.option) if method.option else None
        return found if isinstance(found, int | float) else None


class SearchedPart(NamedTuple):
    """A part of the score table: how many rows it has, how many of them have an embedding, and `ScorePart.scored`."""

    shard_index: int
    rows: int
    judged: int
    scored: str


class Findings(NamedTuple):
    """What was found: the duplicates by the number of their method, the groups, and pairs of several similarities."""

    by_method: Mapping[int, int]
    groups: GroupCounts
    pairs: Pairs

    @property
    def named(self) -> dict[str, int]:
        """The duplicates by the name of their method; methods that found none are left out."""
        return {
            kind.name: self.by_method[number] for number, kind in enumerate(all_methods()) if self.by_method.get(number)
        }


def _group(group: Group) -> FoundGroup:
    # The root of a group around a sample of the other dataset is not a row of ours.
    return FoundGroup(group.size, place(group.root), [_sample(row) for row in group.members])


def _sample(member: np.void) -> FoundSample:
    where = place(int(member["row"]))
    method = all_methods()[member["method"]].name if member["of"] != member["row"] else None
    similarity = round(float(member["similarity"]), 6)
    return FoundSample(where.other, where.shard_index, where.index, method, similarity)


def _pairs(pairs: Pairs, search: DuplicateSearch) -> Iterator[FoundPair]:
    for method in search.methods:
        limit = np.float32(method.limit(method.value))
        for pair in pairs[pairs["method"] == number_of(method)]:
            yield FoundPair(
                method=method.name,
                similarity=round(float(pair["similarity"]), 6),
                duplicate=bool(pair["similarity"] >= limit),
                samples=[place(int(pair["first"])), place(int(pair["second"]))],
            )


def place(row: int) -> RowPlace:
    """Where a row is, by its id."""
    shard_index, index = places_of(np.array([row], np.uint64))
    return RowPlace(bool(row & int(FOREIGN)), int(shard_index[0]), int(index[0]))


def finish_search(
    output: str, parts: Sequence[SearchedPart], findings: Findings, search: DuplicateSearch
) -> SearchResult:
    """Writes what was looked for and found.

    Args:
        output: Folder of the duplicates table.
        parts: All parts of the score table.
        findings: What was found.
        search: What was looked for.

    Raises:
        RunChangedError: A table was changed meanwhile; nothing is written then.
    """
    Run(output).check_read()
    other, groups = search.against, findings.groups
    found = SearchResult(
        methods=[method.name for method in search.methods],
        keep_by=search.keep_by,
        between_datasets=other is not None,
        action=search.action,
        groups=groups.groups,
        duplicates=sum(findings.by_method.values()),
        by_method=findings.named,
        largest_group=max((group.size for group in groups.largest), default=0),
        parts=len(parts),
        rows=sum(part.rows for part in parts),
        judged=sum(part.judged for part in parts),
        scored=table_digest((part.shard_index, part.scored) for part in sorted(parts)),
        input=input_digest(search.selection.table.scores),
        # Where it lies, and what it was: a table written again in its place has other samples.
        against=None if other is None else OtherDataset(other.scores, other.verdicts, input=input_digest(other.scores)),
        largest=[_group(group) for group in groups.largest],
        pairs=list(_pairs(findings.pairs, search)),
        more={option: value for method in search.methods for option, value in method.noted.items()},
    )
    said = to_json(found)
    examples = {name: said.pop(name) for name in _EXAMPLES}
    write_json(output, SUMMARY, {**said, **examples})
    return found


def input_digest(scores: str) -> str:
    """What tells the input of a score table from others: a digest of the paths and sizes of its shards."""
    listed = [[shard.path, shard.size] for shard in Run(scores).input_shards]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def is_finished(output: str) -> bool:
    """Whether the duplicates table is complete."""
    return exists(join(output, SUMMARY))


def read_findings(output: str) -> SearchResult:
    """What `finish_search` wrote.

    Raises:
        DamagedFileError: The file is damaged.
        StorageError: It cannot be read.
    """
    path = join(output, SUMMARY)
    found = read_record(SearchResult, path, AGAIN)
    known = {kind.name: kind for kind in all_methods()}
    named = [*found.methods, *found.by_method, *(pair.method for pair in found.pairs)]
    named += [one.method for group in found.largest for one in group.samples if one.method is not None]
    for name in named:
        if name not in known:
            raise DamagedFileError(f"{path} is damaged: it names the method {name!r}, which is not there; {AGAIN}")
    for at, pair in enumerate(found.pairs):
        if len(pair.samples) != 2:
            raise DamagedFileError(f"{path} is damaged: pairs[{at}].samples has {len(pair.samples)} samples; {AGAIN}")
    options = {known[name].option for name in found.methods} & found.more.keys()
    refuse_misfit(path, dict(found.more), dict.fromkeys(options, (int, float)), AGAIN)
    return found


def check_whole(output: str) -> SearchResult:
    """Checks that a finished search has left all its parts, by listing their folder; returns what `read_findings` does.

    Raises:
        DuplicatesError: The first file that is missing.
        DamagedFileError: What was found is damaged.
        StorageError: It cannot be read.
    """
    if not is_finished(output):
        raise DuplicatesError(f"{join(output, SUMMARY)} is missing: {AGAIN}")
    found = read_findings(output)
    there = {path.rpartition("/")[2] for path in files_under(output, f"{FOLDER}/part-*.parquet")}
    for number in range(found.parts):
        name = part_name(number)
        if name.rpartition("/")[2] not in there:
            raise DuplicatesError(f"{join(output, name)} is missing: {AGAIN}")
    return found
