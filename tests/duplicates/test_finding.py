"""What a search for duplicates notes of itself: read back as it was written, and refused with a name where it is damaged."""

import json
import re

import numpy as np
import pytest

from beam_curate.duplicates.finding import (
    SUMMARY,
    FoundGroup,
    FoundPair,
    FoundSample,
    OtherDataset,
    RowPlace,
    SearchResult,
    place,
    read_findings,
)
from beam_curate.duplicates.methods.exact import Exact
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.storage.json_files import DamagedFileError
from beam_curate.storage.json_records import to_json

ROOT, OTHER = RowPlace(False, 3, 7), RowPlace(True, 0, 2)
RESULT = SearchResult(
    methods=("exact", "semantic"),
    keep_by="aesthetic",
    between_datasets=True,
    action="drop",
    groups=1,
    duplicates=2,
    by_method={"exact": 1, "semantic": 1},
    largest_group=3,
    parts=4,
    input="ab",
    against=OtherDataset("/other", "", input="cd"),
    largest=(FoundGroup(2, OTHER, (FoundSample(False, 3, 7, None, 1.0), FoundSample(False, 1, 0, "exact", 0.5))),),
    pairs=(FoundPair(method="semantic", similarity=0.98, duplicate=True, samples=(ROOT, OTHER)),),
    more={"eps": 0.05, "border": 0.25},
)


@pytest.fixture
def written(tmp_path):
    (tmp_path / "duplicates").mkdir()

    def write(**changed):
        said = {**to_json(RESULT), **changed}
        said = {name: value for name, value in said.items() if value != "left out"}
        (tmp_path / SUMMARY).write_text(json.dumps(said))
        return str(tmp_path)

    return write


def test_what_was_written_is_read(written):
    assert read_findings(written()) == RESULT


def test_older_files_lack_two_names(written):
    (pair,) = to_json(RESULT)["pairs"]
    del pair["method"]
    found = read_findings(written(parts="left out", pairs=[pair]))
    assert (found.parts, found.pairs) == (0, RESULT.pairs)


def test_a_value_is_that_of_a_method_with_an_option():
    assert (RESULT.value(Semantic), RESULT.value(Exact)) == (0.05, None)


def test_a_run_that_applies_the_table_notes_the_rule_and_the_counts_but_no_examples():
    rule = to_json(RESULT.rule)
    assert (rule["eps"], rule["methods"], rule["action"]) == (0.05, ["exact", "semantic"], "drop")
    counts = {"groups": 1, "duplicates": 2, "by_method": {"exact": 1, "semantic": 1}, "largest_group": 3}
    assert rule["found"] == {**counts, "parts": 4, "input": "ab", "border": 0.25}
    assert rule["against"] is None


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"groups": "1"}, "groups is '1', and no whole number"),
        ({"methods": "left out"}, "it has no methods"),
        ({"methods": ["exact", "telepathy"]}, "it names the method 'telepathy', which is not there"),
        ({"by_method": {"telepathy": 1}}, "it names the method 'telepathy', which is not there"),
        ({"by_method": {"exact": 1.5}}, "by_method.exact is '1.5', and no whole number"),
        ({"eps": "much"}, "eps is 'much', and no whole number or number"),
        ({"against": "left out"}, "it has no against"),
        ({"against": {"scores": "/other"}}, "against: it has no input"),
        ({"largest": [{"size": 2, "root": {"other": False, "index": 1}, "samples": []}]},
         "it has no largest[0].root.shard_index"),
        ({"pairs": [{"similarity": 1, "duplicate": 1, "samples": []}]}, "pairs[0].duplicate is '1', and no truth value"),
        ({"pairs": [{"similarity": 1, "duplicate": True, "samples": []}]}, "pairs[0].samples has 0 samples"),
    ],
)  # fmt: skip
def test_damage_is_named_with_the_file_the_field_and_what_to_do(written, changed, problem):
    output = written(**changed)
    with pytest.raises(DamagedFileError, match=re.escape(f"{output}/{SUMMARY} is damaged: {problem}; ")):
        read_findings(output)


def test_a_place_is_that_of_an_id():
    assert place(int(np.uint64(3) << np.uint64(32) | np.uint64(7))) == ROOT
