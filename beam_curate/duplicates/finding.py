"""What a search for duplicates found, in numbers and in a few examples; the end of a search."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import numpy as np

from beam_curate.duplicates.candidates import FOREIGN, places_of
from beam_curate.duplicates.groups import Group, GroupCounts
from beam_curate.duplicates.methods import all_methods, number_of
from beam_curate.duplicates.pairs import Pairs
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.duplicates.table import AGAIN, FOLDER, DuplicatesError, part_name
from beam_curate.runs.run import Run
from beam_curate.storage.files import exists, files_under, join, write_json
from beam_curate.storage.json_files import misfit, read_object

SUMMARY: Final = f"{FOLDER}/summary.json"
"""Written last: the mark of a complete duplicates table."""
_PLACE: Final = {"other": bool, "shard_index": int, "index": int}
_FOUND: Final = {
    "methods": [str],
    "keep_by": str,
    "between_datasets": bool,
    "action": str,
    "groups": int,
    "duplicates": int,
    "by_method": {"*": int},
    "largest_group": int,
    "input": str,
    "parts?": int,
    "against": lambda other: "" if other is None else misfit(other, {"scores": str, "verdicts": str, "input": str}),
    "largest": [
        {
            "size": int,
            "root": _PLACE,
            "samples": [{**_PLACE, "method": (str, type(None)), "similarity": (int, float)}],
        }
    ],
    "pairs": [{"method?": str, "similarity": (int, float), "duplicate": bool, "samples": [_PLACE]}],
}


class Findings(NamedTuple):
    """What was found: the duplicates by the number of their method, the groups, and pairs of several similarities."""

    by_method: Mapping[int, int]
    groups: GroupCounts
    pairs: Pairs

    def counts(self) -> dict[str, Any]:
        """In numbers."""
        return {
            "groups": self.groups.groups,
            "duplicates": sum(self.by_method.values()),
            "by_method": {
                kind.name: self.by_method[number]
                for number, kind in enumerate(all_methods())
                if self.by_method.get(number)
            },
            "largest_group": max((group.size for group in self.groups.largest), default=0),
        }


def _group(group: Group) -> dict[str, Any]:
    samples = [
        {
            **place(int(row["row"])),
            "method": all_methods()[row["method"]].name if row["of"] != row["row"] else None,
            "similarity": round(float(row["similarity"]), 6),
        }
        for row in group.members
    ]
    # The root of a group around a sample of the other dataset is not a row of ours.
    return {"size": group.size, "root": place(group.root), "samples": samples}


def _pairs(pairs: Pairs, search: DuplicateSearch) -> Iterator[dict[str, Any]]:
    for method in search.methods:
        limit = np.float32(method.limit(method.value))
        for pair in pairs[pairs["method"] == number_of(method)]:
            yield {
                "method": method.name,
                "similarity": round(float(pair["similarity"]), 6),
                "duplicate": bool(pair["similarity"] >= limit),
                "samples": [place(int(pair["first"])), place(int(pair["second"]))],
            }


def place(row: int) -> dict[str, Any]:
    """Where a row is, by its id."""
    shard_index, index = places_of(np.array([row], np.uint64))
    return {"other": bool(row & int(FOREIGN)), "shard_index": int(shard_index[0]), "index": int(index[0])}


def finish_search(output: str, parts: int, findings: Findings, search: DuplicateSearch) -> dict[str, Any]:
    """Writes what was looked for and found.

    Args:
        output: Folder of the duplicates table.
        parts: The number of its parts.
        findings: What was found.
        search: What was looked for.
    """
    counts = {
        "methods": [method.name for method in search.methods],
        "keep_by": search.keep_by,
        **{option: value for method in search.methods for option, value in method.noted.items()},
        "between_datasets": search.against is not None,
        "action": search.action,
        **findings.counts(),
        "parts": parts,
        "input": input_digest(search.selection.table.scores),
    }
    other = None
    if search.against is not None:
        # Where it lies, and what it was: a table written again in its place has other samples.
        other = {**asdict(search.against), "input": input_digest(search.against.scores)}
    examples = {
        "against": other,
        "largest": [_group(group) for group in findings.groups.largest],
        "pairs": list(_pairs(findings.pairs, search)),
    }
    write_json(output, SUMMARY, {**counts, **examples})
    return counts


def input_digest(scores: str) -> str:
    """What tells the input of a score table from others: a digest of the paths and sizes of its shards."""
    listed = [[shard.path, shard.size] for shard in Run(scores).input_shards]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def counts_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """What was looked for and found, in numbers: neither where another dataset lies, nor the examples."""
    return {name: value for name, value in found.items() if name not in ("against", "largest", "pairs")}


def is_finished(output: str) -> bool:
    """Whether the duplicates table is complete."""
    return exists(join(output, SUMMARY))


def read_findings(output: str) -> dict[str, Any]:
    """What `finish_search` wrote.

    Raises:
        DamagedFileError: The file is damaged.
        StorageError: It cannot be read.
    """
    return read_object(join(output, SUMMARY), _FOUND, AGAIN)


def check_whole(output: str) -> dict[str, Any]:
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
    for number in range(found.get("parts", 0)):
        name = part_name(number)
        if name.rpartition("/")[2] not in there:
            raise DuplicatesError(f"{join(output, name)} is missing: {AGAIN}")
    return found
