import math

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_curate import ScoreAndFilter, SplitByStatus
from beam_curate.records import EmbeddedSample, Failure, ImageFacts, SampleRef
from beam_curate.scores.rules import Rule
from beam_curate.transforms.score_and_filter import score_samples
from tests.support.stubs import DIM, stub_heads

FACTS = ImageFacts(100, 80, "JPEG", "ab", 9)
NARROW = ImageFacts(60, 80, "JPEG", "ab", 9)


def sample(index, failure=None, facts=FACTS):
    vector = np.random.default_rng(index).normal(size=DIM)
    data = b"" if failure else (vector / np.linalg.norm(vector)).astype("<f2").tobytes()
    return EmbeddedSample(SampleRef(0, "s.tar", index, f"k{index}"), None if failure else facts, data, failure)


FAILED = sample(1, Failure("decode", "not_an_image", "no"))


def test_one_row_each_in_order_with_failures_between():
    rows = list(score_samples([sample(0), FAILED, sample(2)], stub_heads(), ()))
    assert [row.ref.index for row in rows] == [0, 1, 2]
    assert [row.status for row in rows] == ["kept", "failed", "kept"]
    assert (rows[1].step, rows[1].reason, rows[1].message) == ("decode", "not_an_image", "no")
    assert all(math.isnan(value) for value in rows[1].scores.values())
    assert all(0 <= row.scores["nsfw"] <= 1 for row in rows if row.status == "kept")


def test_a_batch_of_nothing_but_failures_has_nothing_to_judge():
    (row,) = score_samples([FAILED], stub_heads(), [Rule("low", "aesthetic", minimum=5), Rule("x", "side", minimum=5)])
    assert (row.status, row.reason) == ("failed", "not_an_image")


def test_scores_do_not_depend_on_the_batch():
    heads = stub_heads()
    together = [row.scores for row in score_samples([sample(n) for n in range(40)], heads, ())]
    alone = [row.scores for n in range(40) for row in score_samples([sample(n)], heads, ())]
    assert together == alone


def test_a_rejected_row_keeps_all_its_scores_and_its_embedding():
    (row,) = score_samples([sample(0)], stub_heads(), [Rule("too_wide", "width", maximum=50)])
    assert (row.status, row.step, row.reason) == ("rejected", "filter", "too_wide")
    assert set(row.scores) == {"aesthetic", "nsfw"}
    assert row.embedding


def test_a_sample_without_failure_needs_facts():
    bad = EmbeddedSample(SampleRef(0, "s.tar", 0, "k"), None, sample(0).embedding)
    with pytest.raises(RuntimeError, match="without facts"):
        list(score_samples([bad], stub_heads(), ()))


def test_each_verdict_has_its_door():
    with TestPipeline(runner="FnApiRunner") as root:
        rows = (
            root
            | beam.Create([sample(0), FAILED, sample(2, facts=NARROW)])
            | ScoreAndFilter(stub_heads(), rules=[Rule("not_wide", "width", minimum=90)])
        )
        doors = rows | SplitByStatus()
        for name, wanted in {"kept": [0], "rejected": [2], "failed": [1]}.items():
            found = getattr(doors, name) | f"Index{name}" >> beam.Map(lambda row: row.ref.index)
            assert_that(found, equal_to(wanted), label=name)


def test_a_rule_without_its_score_is_refused_at_construction():
    with pytest.raises(ValueError, match="needs the score 'nsfw'"):
        ScoreAndFilter((), max_nsfw=0.5)
