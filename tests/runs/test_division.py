"""How output is divided is checked in one place, by whoever takes it."""

import re

import numpy as np
import pytest

from beam_curate import PackImages, WriteWebDatasetShards
from beam_curate.intake.shards import ShardWriting
from beam_curate.runs.configuration import Files
from beam_curate.runs.division import Division

WRONG = [
    ({"samples_per_shard": 0}, "samples_per_shard is 0; give a whole number of at least 1"),
    ({"samples_per_shard": -3}, "samples_per_shard is -3; give a whole number of at least 1"),
    ({"samples_per_shard": 2.5}, "samples_per_shard is 2.5; give a whole number of at least 1"),
    ({"samples_per_shard": None}, "samples_per_shard is None; give a whole number of at least 1"),
    ({"seed": "7"}, "seed is '7'; give a whole number, or None for the source order"),
    ({"seed": 1.5}, "seed is 1.5; give a whole number, or None for the source order"),
]


@pytest.mark.parametrize(("values", "said"), WRONG)
def test_wrong_values_are_named_with_what_is_right(values, said):
    for make in (Division, lambda **values: WriteWebDatasetShards("run", ["aesthetic"], **values)):
        with pytest.raises(ValueError, match=re.escape(said)):
            make(**values)


@pytest.mark.parametrize(("values", "said"), WRONG[:4])
def test_a_packing_refuses_the_same(values, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        PackImages(ShardWriting("out", **values))


def test_any_whole_numbers_are_taken():
    assert Division(np.int64(5), np.int64(-1)) == Division(5, -1)


@pytest.mark.parametrize(("samples", "files"), [(0, 0), (1, 1), (1000, 1), (1001, 2), (2000, 2)])
def test_the_last_file_holds_the_rest(samples, files):
    assert Division(1000).files(samples) == files


def test_a_configuration_notes_both():
    assert Files.of(Division(5, 7), extension="mds") == Files(5, 7, extension="mds")
