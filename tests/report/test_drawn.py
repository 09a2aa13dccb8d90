"""Rows drawn for the sliders: the same in any order of parts, bounded, and right on average."""

import pickle
import random

import numpy as np
import pytest

from beam_curate.report import drawn
from beam_curate.report.drawn import Drawn
from beam_curate.report.table import RANDOM, Group, _drawn

COLUMNS = ("score", "rare", "one")


def part(shard, rows, seed=0):
    """Of a part: a score with a long tail, one that few rows have, and one that is always the same."""
    draw = np.random.default_rng((shard, seed))
    values = {
        "score": draw.normal(5, 1, rows),
        "rare": np.where(draw.random(rows) < 0.02, draw.random(rows), np.nan),
        "one": np.full(rows, 0.25),
    }
    index = np.arange(rows)
    values[RANDOM] = _drawn(shard + 1000 * seed, index)
    statuses = np.array(["kept", "rejected"], object)[(values["score"] < 5).astype(int)]
    flags = {name: statuses == name for name in ("kept", "rejected", "failed")}
    judgeable = draw.random(rows) < 0.9
    return Group(shard, index, statuses, np.full(rows, None, object), flags, values, judgeable, np.ones(rows, bool))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(drawn, "MAX_ROWS", 500)


def added(groups):
    found = [Drawn.of(COLUMNS, group) for group in groups]
    while len(found) > 1:
        found.append(found.pop(0) + found.pop(0))
    return found[0]


def test_parts_in_any_order_give_the_same_rows_and_chances(small):
    groups = [part(shard, rows) for shard, rows in enumerate([0, 1, 700, 3, 900, 40, 2500, 300])]
    whole = added(groups).drawn()
    assert 300 < len(whole.chances) <= 500
    draw = random.Random(3)
    for _ in range(6):
        again = added(draw.sample(groups, len(groups))).drawn()
        assert again.chances.tobytes() == whole.chances.tobytes()
        assert again.rows.places.tobytes() == whole.rows.places.tobytes()
        assert again.rows.values.tobytes() == whole.rows.values.tobytes()
        shown = [found.at for found in added(draw.sample(groups, len(groups))).spread(60)]
        assert shown == [found.at for found in added(groups).spread(60)]


def test_few_rows_are_all_there(small):
    groups = [part(shard, 60) for shard in range(4)]
    found = added(groups).drawn()
    assert len(found.chances) == sum(int(group.judgeable.sum()) for group in groups)
    assert set(found.chances) == {1.0}


def test_what_is_held_is_bounded(small):
    found = Drawn.none(COLUMNS)
    for shard in range(60):
        found = found + Drawn.of(COLUMNS, part(shard, 400))
        assert len(found.number) <= 3 * 500 + 400
    assert len(found.drawn().chances) <= 500
    assert len(pickle.dumps(found)) < 200_000


def test_rows_where_a_score_is_rare_are_drawn_more_often(monkeypatch):
    monkeypatch.setattr(drawn, "MAX_ROWS", 3000)
    groups = [part(shard, 2000) for shard in range(10)]
    found = added(groups).drawn()
    score = np.concatenate([group.values["score"][group.judgeable] for group in groups])
    highest = np.sort(score)[-5:]
    assert set(highest) <= set(found.rows.values[:, 0])
    ends = np.abs(found.rows.values[:, 0] - 5) > 3
    assert found.chances[ends].mean() > 3 * found.chances[~ends].mean()


@pytest.mark.parametrize("threshold", [4.0, 5.5, 8.0])
def test_sums_over_the_drawn_rows_are_right_on_average(small, threshold):
    """The mean of many draws is that of all rows, within three errors of the mean."""
    found, truth = [], []
    for seed in range(40):
        groups = [part(shard, 700, seed) for shard in range(6)]
        rows, chances = added(groups).drawn()
        found.append(float((1 / chances)[rows.values[:, 0] >= threshold].sum()))
        truth.append(sum(int((group.values["score"][group.judgeable] >= threshold).sum()) for group in groups))
    off = np.array(found) - np.array(truth)
    assert abs(off.mean()) <= 3 * off.std() / np.sqrt(len(off)) + 1e-9
    assert off.std() < 0.2 * np.mean(truth) + 3


def test_the_error_that_is_told_holds_95_times_in_100(small):
    """Of many draws: the formula of the page's script, which test_choosing compares with this one."""
    held, tried = 0, 0
    for seed in range(60):
        groups = [part(shard, 700, seed) for shard in range(6)]
        rows, chances = added(groups).drawn()
        score = np.concatenate([group.values["score"][group.judgeable] for group in groups])
        for threshold in (3.5, 4.5, 5.0, 6.0, 7.0):
            passing, weights = rows.values[:, 0] >= threshold, 1 / chances
            share = weights[passing].sum() / weights.sum()
            error = 1.96 * ((1 - chances) * weights**2 * (passing - share) ** 2).sum() ** 0.5 / weights.sum()
            held += abs(share - (score >= threshold).mean()) <= error
            tried += 1
    assert 0.91 <= held / tried <= 0.99


def test_pictures_come_in_turn_from_all_ranges(small):
    found = added([part(shard, 2000) for shard in range(10)])
    values = [found_.values["score"] for found_ in found.spread(60)]
    counts, _ = np.histogram(values, np.linspace(1.5, 8.5, 8))
    assert counts.min() >= 2


def test_no_columns_and_no_rows():
    assert len(Drawn.none(()).drawn().chances) == 0
    assert Drawn.of((), part(0, 10)).spread(5) == []
