"""Reading parts with the verdicts of an overlay in place of their own."""

import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from beam_curate import read_score_table
from beam_curate.records import Removed, Shard
from beam_curate.runs import score_table
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.run import Run
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.score_table import ScoreTableError
from beam_curate.runs.summary import funnel
from beam_curate.runs.table_parts import TablePlace
from beam_curate.runs.wanted import WantedRun
from beam_curate.scores.rules import standard_rules
from beam_curate.selection.rejudging import Selection, passing, rejudge_part
from tests.runs.test_score_table import row

ROWS = 20


def finished(output, part):
    """Marks a run as complete."""
    (output / "summary.json").write_text(json.dumps({"funnel": asdict(funnel([part]))}))
    return part


def scored(output, changes=None):
    """A run with one part: every third row failed, and scores from 0 up."""
    rows = [row(index, "failed" if index % 3 == 2 else "kept") for index in range(ROWS)]
    table = score_table.to_table(rows, ["aesthetic"], 8)
    scores = [None if index % 3 == 2 else float(index) for index in range(ROWS)]
    place = table.schema.get_field_index("aesthetic")
    table = table.set_column(place, table.schema.field("aesthetic"), pa.array(changes or scores, pa.float32()))
    return finished(output, write_part(str(output), 0, "/s/2.tar", table))


def selected(scores, output, selection=None, removed=()):
    Run(str(output)).begin(WantedRun(Configuration(), [Shard(0, "/s/2.tar", 1)], scores=str(scores)))
    selection = selection or Selection(TablePlace(str(scores)), standard_rules(min_aesthetic=9))
    return finished(output, rejudge_part(selection, str(output), 0, removed))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(score_table, "ROW_GROUP_ROWS", 3)
    scored(tmp_path / "scored")
    return tmp_path / "scored", tmp_path / "best", selected(tmp_path / "scored", tmp_path / "best")


def test_an_overlay_stands_in_place_of_the_verdicts(runs):
    source, output, counts = runs
    before, after = read_score_table(str(source)), read_score_table(str(output))
    assert after.column_names == before.column_names
    verdict = ["status", "step", "reason", "error_message"]
    assert after.drop_columns(verdict).equals(before.drop_columns(verdict))
    kept = [index for index in range(9, ROWS) if index % 3 != 2]
    assert after.filter(pa.compute.equal(after["status"], "kept"))["index"].to_pylist() == kept
    assert (counts.kept, counts.failed, counts.rejected) == (len(kept), 6, ROWS - 6 - len(kept))
    assert after["error_message"].to_pylist()[1:4] == [
        "aesthetic is 1; kept if >= 9",
        "no",
        "aesthetic is 3; kept if >= 9",
    ]
    assert [path.name for path in output.iterdir()].count("scores") == 0


def test_a_table_that_is_not_whole_is_refused(runs):
    source, output, _ = runs
    (output / "verdicts" / "part-00000.parquet").unlink()
    with pytest.raises(ScoreTableError, match=r"holds no score table"):
        read_score_table(str(output))
    summary = source / "summary.json"
    whole = summary.read_text()
    for name, more in (("input", 1), ("kept", -1)):
        told = json.loads(whole)
        told["funnel"][name] += more
        summary.write_text(json.dumps(told))
        with pytest.raises(
            ScoreTableError, match=rf"ended with {told['funnel'][name]} samples \({name}\), and the table has"
        ):
            read_score_table(str(source))
    assert read_score_table(str(source), ["key"]).num_rows == ROWS  # verdicts that are not asked for
    summary.unlink()
    with pytest.raises(ScoreTableError, match=r"is not finished: it has no summary\.json; continue it with `resume`"):
        read_score_table(str(source))


@pytest.mark.parametrize("name", ["scores", "verdicts"])
@pytest.mark.parametrize("kept", [0.3, 1.0])
def test_a_damaged_file_is_named(runs, name, kept):
    source, output, _ = runs
    path = (output if name == "verdicts" else source) / name / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[4:2000] = b"x" * 1996  # the first pages
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(
        ScoreTableError, match=rf"^{path} is damaged, or not a Parquet file: .*; restore it, or make it again"
    ):
        read_score_table(str(output))


def test_columns_come_in_the_order_asked_for_and_unknown_ones_are_named(runs):
    _, output, _ = runs
    assert read_score_table(str(output), ["size", "status", "key"]).column_names == ["size", "status", "key"]
    with pytest.raises(ScoreTableError, match=r"part-00000\.parquet has no column 'sizes'"):
        read_score_table(str(output), ["status", "sizes"])
    with pytest.raises(ScoreTableError, match="holds no score table"):
        read_score_table(str(output / "verdicts"))


def test_only_the_files_whose_columns_are_wanted_are_opened(runs):
    source, output, counts = runs
    (source / "scores" / "part-00000.parquet").unlink()
    assert read_score_table(str(output), ["key", "index", "status"]).num_rows == ROWS
    with Run(str(output)).table_of(counts).open(0) as part:
        assert part.counts == counts
        assert part.kept_column("key") == [f"k{index}" for index in range(9, ROWS) if index % 3 != 2]


def test_kept_rows_are_found_by_rank_across_row_groups(runs):
    _, output, counts = runs
    kept = [index for index in range(9, ROWS) if index % 3 != 2]
    with Run(str(output)).table_of(counts).open(0) as part:
        assert part.num_row_groups == 7
        for ranks in ([0], [6], [0, 1, 4, 5], list(range(7))):
            table = part.read_kept(np.array(ranks))
            assert table.column("index").to_pylist() == [kept[rank] for rank in ranks]
            assert table.schema.names == part.schema.names
        assert part.read_kept(np.array([6, 10, 50])).num_rows == 1
        assert part.read_kept(np.array([50]), ["key"]).schema.names == ["key"]


def test_a_table_that_moved_is_named_with_the_remedy(runs, tmp_path):
    source, output, _ = runs
    source.rename(tmp_path / "moved")
    with pytest.raises(ScoreTableError, match=r"scored/scores/part-00000\.parquet is missing: .*`resume`.*as `scores`"):
        read_score_table(str(output))
    moved = str(tmp_path / "moved")
    assert Run(str(output)).begin(WantedRun(Configuration(), [Shard(0, "/s/2.tar", 1)], resume=True, scores=moved))
    assert read_score_table(str(output)).num_rows == ROWS
    assert json.loads((output / "run.json").read_text())["scores"] == moved
    (output / "verdicts" / "part-00000.parquet").rename(output / "verdicts" / "part-00001.parquet")
    with pytest.raises(ScoreTableError, match=r"scores/part-00001\.parquet is missing"):
        read_score_table(str(output))


def test_a_table_that_was_written_again_does_not_fit(runs):
    source, output, _ = runs
    changed = [None if index % 3 == 2 else float(index) + 0.1 for index in range(ROWS)]
    scored(source, changed)
    with pytest.raises(
        ScoreTableError, match=r"was written again after .*best was selected from it; repeat .*`overwrite`"
    ):
        read_score_table(str(output))


def test_a_selection_of_a_selection_has_one_table_and_no_verdicts_in_between(runs, tmp_path):
    source, output, _ = runs
    place, found = Run(str(output)).table, Run(str(output)).judged_parts
    assert (place, found) == (TablePlace(str(source), str(output)), {0: "verdicts/part-00000.parquet"})
    selected(place.scores, tmp_path / "again", Selection(place, ()))
    assert read_score_table(str(tmp_path / "again")).equals(read_score_table(str(source)))


def test_rows_are_removed_after_the_rules(runs, tmp_path):
    source, _, _ = runs
    selection = Selection(TablePlace(str(source)), standard_rules(min_aesthetic=9))
    assert passing(selection, 0).tolist() == [9, 10, 12, 13, 15, 16, 18, 19]
    removed = [
        Removed((12, 3, 5), "near_duplicate", ("as k9", "as k0", "as k2")),
        Removed((12, 19), "exact_duplicate", ("as k10", "as k18")),
    ]
    selected(source, tmp_path / "unique", selection, removed)
    rows = read_score_table(str(tmp_path / "unique")).to_pylist()
    named = {row["index"]: (row["reason"], row["error_message"]) for row in rows if row["step"] == "dedup"}
    assert named == {12: ("exact_duplicate", "as k10"), 19: ("exact_duplicate", "as k18")}
    assert rows[3]["reason"] == "aesthetic_below_min"
    assert rows[5]["status"] == "failed"
    stand = Selection(TablePlace(str(source)), rules=None)
    assert passing(stand, 0).tolist() == [index for index in range(ROWS) if index % 3 != 2]


@pytest.mark.parametrize("rows", [(0, 1), (ROWS,), (-1,)])
def test_rows_that_cannot_be_removed_are_a_bug(runs, tmp_path, rows):
    source, _, _ = runs
    with pytest.raises(ValueError, match=f"in a part of {ROWS} rows: give a message for each, and places from 0 to 19"):
        selected(source, tmp_path / "never", Selection(TablePlace(str(source))), [Removed(rows, "r", ("m",))])
