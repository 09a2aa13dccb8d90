"""What a search for duplicates found, in numbers and in a few examples; the end of a search."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import numpy as np

from beam_curate.duplicates.candidates import FOREIGN, places_of
from beam_curate.duplicates.edges import METHODS
from beam_curate.duplicates.groups import Members
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.duplicates.semantic import PAIR, choose_pairs
from beam_curate.duplicates.spilling import WORK
from beam_curate.duplicates.table import AGAIN, FOLDER
from beam_curate.runs.run import Run
from beam_curate.storage.files import delete, exists, files_under, join, write_json
from beam_curate.storage.json_files import misfit, read_object

SUMMARY: Final = f"{FOLDER}/summary.json"
"""Written last: the mark of a complete duplicates table."""
_GROUPS: Final = 12  # shown
_SHOWN: Final = 6  # samples of each


_PLACE: Final = {"other": bool, "shard_index": int, "index": int}
_NUMBER: Final = (int, float, type(None))
_FOUND: Final = {
    "methods": [str],
    "keep_by": str,
    "eps": _NUMBER,
    "max_distance": _NUMBER,
    "between_datasets": bool,
    "action": str,
    "groups": int,
    "duplicates": int,
    "by_method": {"*": int},
    "largest_group": int,
    "compared_in_fewer_clusters": int,
    "input": str,
    "against": lambda other: "" if other is None else misfit(other, {"scores": str, "verdicts": str, "input": str}),
    "largest": [
        {
            "size": int,
            "root": _PLACE,
            "samples": [{**_PLACE, "method": (str, type(None)), "similarity": (int, float)}],
        }
    ],
    "pairs": [{"similarity": (int, float), "duplicate": bool, "samples": [_PLACE]}],
}


class Findings(NamedTuple):
    """What was found: counts, the largest groups, and pairs of several similarities as places in the datasets."""

    counts: dict[str, Any]
    groups: list[dict[str, Any]]
    pairs: list[dict[str, Any]]

    @staticmethod
    def of(members: Members, pairs: bytes, eps: float, cut: int) -> "Findings":
        """Counts the members of all groups, and chooses what is shown."""
        duplicates = members[members["of"] != members["row"]]
        methods = np.bincount(duplicates["method"], minlength=len(METHODS)).tolist()
        groups, sizes = np.unique(members["group"], return_counts=True)
        counts = {
            "groups": len(groups),
            "duplicates": len(duplicates),
            "by_method": {name: number for name, number in zip(METHODS, methods, strict=True) if number},
            "largest_group": int(sizes.max(initial=0)),
            "compared_in_fewer_clusters": cut,
        }
        largest = groups[np.lexsort((groups, -sizes))[:_GROUPS]]
        chosen = choose_pairs(np.frombuffer(pairs, PAIR), eps) if eps else np.zeros(0, PAIR)
        return Findings(
            counts, [_group(members, int(group)) for group in largest], [_pair(pair, eps) for pair in chosen]
        )


def _group(members: Members, group: int) -> dict[str, Any]:
    rows = members[members["group"] == group]
    shown = rows[np.argsort(rows["place"])][:_SHOWN]
    samples = [
        {
            **place(int(row["row"])),
            "method": METHODS[row["method"]] if row["of"] != row["row"] else None,
            "similarity": round(float(row["similarity"]), 6),
        }
        for row in shown
    ]
    # The root of a group around a sample of the other dataset is no row of ours.
    return {"size": len(rows), "root": place(group), "samples": samples}


def _pair(pair: np.void, eps: float) -> dict[str, Any]:
    return {
        "similarity": round(float(pair["similarity"]), 6),
        "duplicate": bool(pair["similarity"] >= np.float32(1 - eps)),
        "samples": [place(int(pair["first"])), place(int(pair["second"]))],
    }


def place(row: int) -> dict[str, Any]:
    """Where a row is, by its id."""
    shard_index, index = places_of(np.array([row], np.uint64))
    return {"other": bool(row & int(FOREIGN)), "shard_index": int(shard_index[0]), "index": int(index[0])}


def finish_search(output: str, parts: int, findings: Findings, search: DuplicateSearch) -> dict[str, Any]:
    """Writes what was looked for and found, and deletes what was put down on the way.

    Args:
        output: Folder of the duplicates table.
        parts: The number of its parts.
        findings: What was found.
        search: What was looked for.
    """
    counts = {
        "methods": [method.name for method in search.methods],
        "keep_by": search.keep_by,
        "eps": search.clustering.eps if search.clustering else None,
        "max_distance": search.perceptual,
        "between_datasets": search.against is not None,
        "action": search.action,
        **findings.counts,
        "parts": parts,
        "input": input_digest(search.selection.table.scores),
    }
    other = None
    if search.against is not None:
        # Where it lies, and what it was: a table written again in its place has other samples.
        other = {**asdict(search.against), "input": input_digest(search.against.scores)}
    examples = {"against": other, "largest": findings.groups, "pairs": findings.pairs}
    write_json(output, SUMMARY, {**counts, **examples})
    work = list(files_under(output, f"{WORK}/*"))
    if work:
        delete(work)
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
