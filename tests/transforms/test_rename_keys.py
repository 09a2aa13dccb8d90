import contextlib
import hashlib
from dataclasses import dataclass

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_curate.records import ScorePart
from beam_curate.tars.keys import KeyHolder, rename_shared, stem
from beam_curate.transforms import rename_keys
from beam_curate.transforms.rename_keys import RenameKeys, kept_keys, name_renames, new_keys

# Shared by shards, by spellings of one path, by an index that looks like an appended one, and by nobody.
PARTS = {
    0: ["a", "b", "sub/c", "d-s00002"],
    2: ["a", "./b", "sub//c", "d"],
    5: ["d", "only here", "a", "é"],
    6: [],
}


class Opened:
    def __init__(self, keys):
        self._keys = keys

    def kept_column(self, column):
        assert column == "key"
        return self._keys


@dataclass(frozen=True)
class Source:
    unique_keys: bool = False

    @contextlib.contextmanager
    def open(self, part):
        yield Opened(PARTS[part.shard_index])


def parts():
    return [ScorePart(index, "", "", len(keys), len(keys), 0, 0, {}) for index, keys in PARTS.items()]


def expected():
    """What the rule on all keys with one stem gives, asked for each stem alone."""
    holders = [KeyHolder(key, index, rank) for index, keys in PARTS.items() for rank, key in enumerate(keys)]
    stems = {stem(holder.key) for holder in holders}
    found = [each for one in stems for each in rename_shared([h for h in holders if stem(h.key) == one])]
    return {(each.shard_index, each.rank): each.key for each in found}


def rows(renamed):
    return {(some.shard_index, rank): key for some in renamed for rank, key in zip(some.ranks, some.keys, strict=True)}


@pytest.mark.parametrize("buckets", [1, 2, 3, 50])
def test_new_keys_are_the_same_however_many_buckets_there_are(buckets):
    by_bucket = {}
    for part in parts():
        sent = list(kept_keys(Source(), part, buckets))
        assert len(sent) == len({bucket for bucket, _ in sent}) <= buckets  # not an element for each row
        assert sorted(rank for _, keys in sent for rank in keys.ranks) == list(range(part.kept))
        for bucket, keys in sent:
            by_bucket.setdefault(bucket, []).append(keys)
    renamed = [each for some in by_bucket.values() for each in new_keys(reversed(some))]
    assert rows(renamed) == expected()
    assert len(expected()) == 5


@pytest.mark.parametrize("bucket_rows", [1, 5, 1000])
def test_keys_meet_through_the_engine(bucket_rows, monkeypatch):
    monkeypatch.setattr(rename_keys, "BUCKET_ROWS", bucket_rows)

    def check(found):
        assert rows(found) == expected()

    names = sum(_number(*row) for row in expected().items()) % 2**128  # the same however rows come together
    with beam.Pipeline(runner="FnApiRunner") as root:
        renamed = root | beam.Create(parts()) | RenameKeys(Source())
        assert_that(renamed, check)
        named = root | beam.Impulse() | beam.Map(lambda _, names: names, name_renames(renamed))
        assert_that(named, equal_to([names.to_bytes(16, "little")]), label="names")


def _number(row, key):
    shard_index, rank = row
    name = hashlib.blake2b(repr((shard_index, (rank, key))).encode(), digest_size=16).digest()
    return int.from_bytes(name, "little")
