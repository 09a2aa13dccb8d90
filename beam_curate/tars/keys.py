"""Keys that are unique over the whole output, since readers group a sample's members by key.

Keys are unique within a source shard already (a second one is a failure), but two shards may share one. Then the first
in input order keeps it, and the others get `-s` and their input shard's index appended: `000012` of shard 3 becomes
`000012-s00003`. Nothing else changes a key, but for the escapes of `safe_key`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_APPENDED = re.compile(r"(-s\d{5,})+$")


class KeyHolder(NamedTuple):
    """A kept sample by its key: input shard, and rank among the shard's kept rows."""

    key: str
    shard_index: int
    rank: int


def stem(key: str) -> str:
    """The key without appended shard indexes: two keys can come to clash only if their stems are equal."""
    return _APPENDED.sub("", key)


def rename_shared(holders: Iterable[KeyHolder]) -> Iterator[KeyHolder]:
    """New keys for the samples that must give theirs up, among all kept samples with one stem.

    The result does not depend on the order of the holders.
    """
    ordered = sorted(holders, key=lambda holder: (holder.shard_index, holder.rank))
    taken = {holder.key for holder in ordered}
    if len(taken) == len(ordered):
        return
    seen: set[str] = set()
    for holder in ordered:
        if holder.key in seen:
            key = holder.key
            while key in taken:
                key += f"-s{holder.shard_index:05d}"
            taken.add(key)
            yield KeyHolder(key, holder.shard_index, holder.rank)
        seen.add(holder.key)
