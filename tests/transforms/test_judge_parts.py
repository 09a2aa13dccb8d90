"""Rows that a step on the whole table removes, joined by part, and a top rule on what is left."""

import collections
import json

import apache_beam as beam
import pyarrow as pa
import pytest
from pyarrow import dataset

from beam_curate import read_score_table
from beam_curate.records import Removed, Shard
from beam_curate.runs import score_table
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.run import Run
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.table_parts import TablePlace
from beam_curate.runs.wanted import WantedRun
from beam_curate.scores.rules import standard_rules
from beam_curate.scores.top import TopRule
from beam_curate.selection import rejudging
from beam_curate.selection.rejudging import Selection, passing
from beam_curate.transforms.judge_parts import JudgeParts
from beam_curate.transforms.select_rows import SelectRows
from tests.runs.test_score_table import row

SHARDS = [Shard(number, f"/s/{number}.tar", 1) for number in range(3)]
ROWS = 6
REMOVED = [
    (0, Removed((1, 4), "near_duplicate", ("as 2/3", "as 2/5"))),
    (2, Removed((0,), "near_duplicate", ("as 1/1",))),
    (2, Removed((2,), "near_duplicate", ("as 1/1",))),
    (1, Removed((0, 5), "near_duplicate", ("rejected by a rule already", "failed already"))),
]


@pytest.fixture
def source(tmp_path):
    """Three parts with the scores 0, 3, 6, …, 15; 1, 4, …; 2, 5, …; the last row of each failed."""
    for number in range(3):
        rows = [row(index, "failed" if index == ROWS - 1 else "kept") for index in range(ROWS)]
        table = score_table.to_table(rows, ["aesthetic"], 8)
        scores = [float(3 * index + number) for index in range(ROWS - 1)]
        values = {"shard_index": [number] * ROWS, "aesthetic": [*scores, None]}
        for name, column in values.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(name), pa.array(column, table.schema.field(name).type))
        write_part(str(tmp_path / "scored"), number, SHARDS[number].path, table)
    return tmp_path / "scored"


def selected(source, output, top=None, removed=REMOVED, pending=SHARDS, minimum=2.0):
    Run(str(output)).begin(WantedRun(Configuration(), SHARDS, scores=str(source)))
    rules = None if minimum is None else standard_rules(min_aesthetic=minimum)
    selection = Selection(TablePlace(str(source)), rules, top)
    with beam.Pipeline(runner="FnApiRunner") as root:
        rows = root | "Removed" >> beam.Create(removed) if removed else None
        _ = root | beam.Create(pending) | SelectRows(selection, str(output), rows)
    statuses = dataset.dataset(output / "verdicts").to_table(["status"])["status"].to_pylist()
    counted = {name: statuses.count(name) for name in ("failed", "rejected", "kept")}
    ended = {"input": len(statuses), **counted, "reasons": {}}
    (output / "summary.json").write_text(json.dumps({"funnel": ended}))  # finished, as far as readers ask


def outcome(output):
    rows = read_score_table(str(output)).to_pylist()
    return {(row["shard_index"], row["index"]): (row["status"], row["step"], row["reason"]) for row in rows}


def test_removed_rows_are_rejected_after_the_rules(source, tmp_path):
    selected(source, tmp_path / "out")
    found = outcome(tmp_path / "out")
    gone = {(0, 1), (0, 4), (2, 0), (2, 2)}
    assert {place for place, verdict in found.items() if verdict[1] == "dedup"} == gone
    assert {found[place] for place in gone} == {("rejected", "dedup", "near_duplicate")}
    assert found[1, 0] == found[0, 0] == ("rejected", "filter", "aesthetic_below_min")
    assert {found[number, 5] for number in range(3)} == {("failed", "decode", "not_an_image")}
    assert sum(verdict[0] == "kept" for verdict in found.values()) == 18 - 3 - 4 - 2
    messages = {row["error_message"] for row in read_score_table(str(tmp_path / "out")).to_pylist()}
    assert {"as 2/3", "as 2/5", "as 1/1"} < messages
    assert "failed already" not in messages


@pytest.mark.parametrize(("top", "best"), [({"count": 3}, {(1, 4), (2, 4), (2, 3)}), ({"fraction": "1/3"}, None)])
def test_the_top_is_chosen_from_what_is_left(source, tmp_path, top, best):
    selected(source, tmp_path / "out", TopRule("aesthetic", **top))
    found = outcome(tmp_path / "out")
    kept = {place for place, verdict in found.items() if verdict[0] == "kept"}
    assert kept == (best or {(1, 4), (2, 4), (2, 3)})  # 9 are left, of which a third are 3
    assert [verdict[2] for verdict in found.values()].count("below_top") == 6
    assert [verdict[1] for verdict in found.values()].count("dedup") == 4


def test_parts_that_are_there_already_count_too(source, tmp_path):
    rule = TopRule("aesthetic", count=3)
    selected(source, tmp_path / "whole", rule)
    for shard in SHARDS:
        selected(source, tmp_path / f"only{shard.index}", rule, pending=[shard])
        (part,) = (tmp_path / f"only{shard.index}" / "verdicts").iterdir()
        assert part.read_bytes() == (tmp_path / "whole" / "verdicts" / part.name).read_bytes()


def test_a_top_rule_reads_its_columns_five_times_and_each_part_once_to_judge_it(source, tmp_path, monkeypatch):
    read = collections.Counter()
    real = rejudging._read

    def counted(selection, part, columns):
        read["whole rows" if "key" in columns else tuple(columns)] += 1
        return real(selection, part, columns)

    monkeypatch.setattr(rejudging, "_read", counted)
    selected(source, tmp_path / "out", TopRule("aesthetic", count=3))
    assert read == {("aesthetic",): 5 * len(SHARDS), "whole rows": len(SHARDS)}


def test_verdicts_that_stand_and_rows_that_are_removed(source, tmp_path):
    selected(source, tmp_path / "out", minimum=None)
    assert sum(verdict[0] == "kept" for verdict in outcome(tmp_path / "out").values()) == 15 - 5
    assert passing(Selection(TablePlace(str(source)), None), 1).tolist() == [0, 1, 2, 3, 4]


def test_rows_of_a_part_that_is_not_there_are_a_bug(source, tmp_path):
    with pytest.raises(Exception, match="1 groups of rows are to be rejected in part 7, which the table does not have"):
        selected(source, tmp_path / "out", removed=[(7, Removed((0,), "r", ("m",)))])


def test_an_error_in_a_thread_ends_the_job(source, tmp_path):
    (source / "scores" / "part-00001.parquet").unlink()
    with pytest.raises(Exception, match=r"part-00001\.parquet is missing"):
        selected(source, tmp_path / "out", removed=None)


def test_the_same_bytes_with_repeated_bundles(source, tmp_path):
    selection = Selection(TablePlace(str(source)), standard_rules(min_aesthetic=2.0), TopRule("aesthetic", count=3))
    for name, flags in (("once", []), ("twice", ["--direct_runner_bundle_repeat=2"])):
        Run(str(tmp_path / name)).begin(WantedRun(Configuration(), SHARDS, scores=str(source)))
        options = beam.options.pipeline_options.PipelineOptions(["--runner=FnApiRunner", *flags])
        with beam.Pipeline(options=options) as root:
            numbers = root | beam.Create([0, 1, 2])
            removed = root | "Removed" >> beam.Create(REMOVED)
            _ = numbers | JudgeParts(selection, str(tmp_path / name), numbers, removed)
    for path in (tmp_path / "once" / "verdicts").iterdir():
        assert path.read_bytes() == (tmp_path / "twice" / "verdicts" / path.name).read_bytes()
