"""The mark of a run: another one for whatever decides its rows, and the same for what may change when it goes on."""

import pytest

from beam_curate.records import Shard
from beam_curate.runs.configuration import Configuration, Files, Model, Rules, Scoring
from beam_curate.runs.own_parts import mark_of

SHARDS = (Shard(0, "/a.tar", 10), Shard(1, "/b.tar", 20))
RUN = {"model": Model("ViT", "w1", 8), "scoring": Scoring("ViT", 32, "fp32", max_pixels=100), "rules": Rules(4.5, 0.5)}


def mark(*shards, **changes):
    return mark_of(Configuration(**{**RUN, **changes}), shards or SHARDS)


@pytest.mark.parametrize(
    "other",
    [
        mark(model=Model("ViT", "w2", 8)),
        mark(scoring=Scoring("ViT", 32, "bf16", max_pixels=100)),
        mark(rules=Rules(4.5, 0.6)),
        mark(more={"a": 1}),
        mark(Shard(0, "/a.tar", 10)),
        mark(Shard(0, "/a.tar", 10), Shard(1, "/c.tar", 20)),
        mark(Shard(0, "/a.tar", 11), Shard(1, "/b.tar", 20)),
    ],
    ids=[
        "weights",
        "precision",
        "rule",
        "of the user's own",
        "a shard less",
        "another shard",
        "another size of a shard",
    ],
)
def test_it_is_another_one_for_all_that_decides_the_rows(other):
    assert other != mark()


def test_it_is_the_same_for_what_may_change_when_a_run_goes_on():
    assert mark(scoring=Scoring("ViT", 32, "fp32", max_pixels=200)) == mark()
    assert mark(files=Files(samples_per_file=7)) == mark()
