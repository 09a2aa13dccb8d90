from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_curate.scores.top import (
    PASSES,
    Cutoff,
    TopRule,
    allot,
    among_top,
    count_digits,
    narrow,
    parse_top,
    share,
    sort_keys,
    ties,
)


def select(parts, rule):
    """All steps on parts in memory; the flags of each part."""
    keyed = []
    for part in parts:
        keys, present = sort_keys(pa.array(part, pa.float64()))
        keyed.append((keys[present], present))
    cutoff = Cutoff()
    for _ in range(PASSES):
        counts = Counter()
        for keys, _ in keyed:
            counts.update(count_digits(keys, cutoff))
        cutoff = narrow(cutoff, counts, rule)
    shares = allot(cutoff, [(shard, n) for shard, (keys, _) in enumerate(keyed) if (n := ties(keys, cutoff))])
    flags = []
    for shard, (keys, present) in enumerate(keyed):
        flag = np.zeros(len(present), bool)
        flag[present] = among_top(keys, share(cutoff, shares, shard))
        flags.append(flag.tolist())
    return flags


numbers = st.one_of(st.floats(allow_infinity=True, allow_nan=True), st.sampled_from([0.0, -0.0, 1.0, 1.5]), st.none())


@given(st.lists(st.lists(numbers, max_size=8), max_size=5), st.integers(0, 30))
def test_the_best_are_kept_and_ties_go_by_the_order_of_the_shards(parts, count):
    values = [(value, shard, row) for shard, part in enumerate(parts) for row, value in enumerate(part)]
    present = [entry for entry in values if entry[0] is not None and entry[0] == entry[0]]
    best = sorted(present, key=lambda entry: (-entry[0], entry[1], entry[2]))[:count]
    expected = {(shard, row) for _, shard, row in best}
    flags = select(parts, TopRule("aesthetic", count=count))
    assert {(shard, row) for shard, part in enumerate(flags) for row, flag in enumerate(part) if flag} == expected


@pytest.mark.parametrize(
    ("fraction", "rows", "kept"), [("0.3", 10, 3), ("0.3", 5, 2), ("1/3", 9, 3), ("1", 7, 7), ("0.001", 10, 0)]
)
def test_a_fraction_is_taken_as_written(fraction, rows, kept):
    flags = select([list(range(rows))], TopRule("aesthetic", fraction=fraction))
    assert flags[0] == [row >= rows - kept for row in range(rows)]


def test_order_of_keys():
    values = [-np.inf, -2.0, -1e-300, 0.0, 1e-300, 0.5, float(np.float32(0.7)), 1e300, np.inf]
    keys, present = sort_keys(pa.array(values))
    assert present.all()
    assert (np.diff(keys.astype(object)) > 0).all()
    assert sort_keys(pa.array([-0.0]))[0] == sort_keys(pa.array([0.0]))[0]
    assert sort_keys(pa.array([1, None], pa.int32()))[1].tolist() == [True, False]


def test_options():
    assert parse_top("", "") is None
    assert parse_top("aesthetic=1000", "") == TopRule("aesthetic", count=1000)
    assert parse_top("", " aesthetic = 0.3 ") == TopRule("aesthetic", fraction="0.3")
    assert parse_top("", "aesthetic=1/3").wanted(9) == 3
    for count, fraction in [("aesthetic", ""), ("a=0", ""), ("a=1.5", ""), ("=5", ""), ("", "a=0"), ("", "a=1.1"),
                            ("", "a=x"), ("", "a=1/0"), ("", "a=nan"), ("a=1", "a=1")]:  # fmt: skip
        with pytest.raises(ValueError, match="give"):
            parse_top(count, fraction)
