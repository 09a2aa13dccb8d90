"""Keys that are unique over the whole output: readers group a sample's members by key, and tar(1) extracts them to files.

Keys are unique within a source shard already (a second one is a failure), but two shards may share one, and two keys may be
one path: `a//b`, `a/./b`, `./a/b` and `a/b` are four samples to WebDataset and one file where the tar is extracted. Then the
first in input order keeps its key, and the others get `-s` and their input shard's index appended: `000012` of shard 3 becomes
`000012-s00003`. Nothing else changes a key, but for the escapes of `safe_key`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from beam_curate.tars.member_names import extracted_path

_APPENDED = re.compile(r"(-s\d{5,})+$")


class KeyHolder(NamedTuple):
    """A kept sample by its key: input shard, and rank among the shard's kept rows."""

    key: str
    shard_index: int
    rank: int


def place(key: str) -> str:
    """Where the members of a safe key are extracted to: the path up to the dot. Two samples must not have one place."""
    ending = ".x"  # of a key that ends in a slash the last component begins with the dot
    return (extracted_path(key + ending) or key + ending).removesuffix(ending)


def stem(key: str) -> str:
    """The key's place without appended shard indexes: two keys can come to clash only if their stems are equal."""
    return _APPENDED.sub("", place(key))


def rename_shared(holders: Iterable[KeyHolder]) -> Iterator[KeyHolder]:
    """New keys for the samples that must give theirs up, among all kept samples with one stem.

    The result does not depend on the order of the holders.
    """
    ordered = sorted(holders, key=lambda holder: (holder.shard_index, holder.rank))
    taken = {place(holder.key) for holder in ordered}
    if len(taken) == len(ordered):
        return
    seen: set[str] = set()
    for holder in ordered:
        if place(holder.key) in seen:
            key = holder.key
            while place(key) in taken:
                key += f"-s{holder.shard_index:05d}"
            taken.add(place(key))
            yield KeyHolder(key, holder.shard_index, holder.rank)
        seen.add(place(holder.key))
