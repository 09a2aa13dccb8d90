"""What a search counts before it begins: the rows among which it looks, whatever else the table holds."""

import logging

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate import reasons
from beam_curate.duplicates.methods.exact import Exact
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.duplicates.table import read_part
from beam_curate.records import FAILED, KEPT, REJECTED, ImageFacts, Member, SampleRef, ScoredSample, Shard
from beam_curate.runs import score_table
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.run import Run
from beam_curate.runs.run_files import SUMMARY
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.table_parts import TablePlace
from beam_curate.runs.wanted import WantedRun
from beam_curate.selection.rejudging import Selection
from beam_curate.storage.files import write_json
from beam_curate.transforms import find_duplicates
from beam_curate.transforms.find_duplicates import FindDuplicates
from beam_curate.transforms.list_parts import ListParts

VERDICTS = [
    (KEPT, "", ""),
    (REJECTED, "score", reasons.NOT_KEPT_BY_RULE),
    (REJECTED, reasons.SCREEN, reasons.NOT_KEPT_BY_SCREEN),
    (REJECTED, reasons.SCREEN, reasons.NOT_KEPT_BY_SCREEN),
    (FAILED, "decode", "truncated_image"),
]


@pytest.fixture
def table(tmp_path):
    """A finished run of two shards of which most rows have no embedding."""
    folder = str(tmp_path / "run")
    shards = [Shard(part, f"/s/{part}.tar", 9) for part in range(2)]
    Run(folder).begin(WantedRun(Configuration(), shards))
    for shard in shards:
        rows = []
        for n in range(20):
            status, step, reason = VERDICTS[n % 5]
            ref = SampleRef(shard.index, shard.path, n, f"{n}", (Member("jpg", 512, 9),), "jpg")
            vector = np.eye(4, dtype="<f2")[n % 4].tobytes() if n % 5 < 2 else b""
            facts = ImageFacts(4, 3, "JPEG", f"{n:064x}", 9)
            rows.append(ScoredSample(ref, facts, vector, {"aesthetic": 1.0}, status, step, reason))
        write_part(folder, shard.index, shard.path, score_table.to_table(rows, ["aesthetic"], 4))
    write_json(folder, SUMMARY, {"funnel": {}})
    return TablePlace(folder)


@pytest.mark.parametrize(("rules", "rows"), [(None, 8), ((), 16)], ids=["kept", "all"])
def test_the_rows_that_are_told_and_settled_by_are_those_that_are_searched(table, rules, rows, tmp_path, caplog):
    """Samples that were screened out have no embedding: with them the search settled for more rows than there are."""
    search = DuplicateSearch(Selection(table, rules), [Semantic(0.01)])
    caplog.set_level(logging.INFO, "beam_curate.duplicates")
    logging.getLogger("beam_curate.duplicates").propagate = True
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as root:
        _ = root | ListParts(table) | FindDuplicates(search, str(tmp_path / "found"))
    assert [text for text in caplog.messages if text.startswith(f"semantic: {rows} rows in 1.0 buckets each")]
    read = [search.rows(False).read_unranked(part, ["embedding"]).ids for part in range(2)]
    assert sum(map(len, read)) == rows


def test_rows_of_a_part_are_put_into_buckets_a_few_at_a_time(table, tmp_path, monkeypatch):
    """A part may have any number of rows, and each may go to many buckets: not all copies are in memory at once."""
    spread, counted = Semantic.spread, []

    def counting(method, found, spreading):
        counted.append(len(found.ids))
        return spread(method, found, spreading)

    def searched(name):
        counted.clear()
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as root:
            _ = root | ListParts(table) | FindDuplicates(search, str(tmp_path / name))
        return [read_part(str(tmp_path / name), part) for part in range(2)]

    monkeypatch.setattr(Semantic, "spread", counting)
    search = DuplicateSearch(Selection(table, ()), [Exact(), Semantic(0.01)])
    at_once = searched("at-once")
    assert (counted, [part.num_rows for part in at_once]) == ([8, 8], [8, 8])
    monkeypatch.setattr(find_duplicates, "_SPREAD", 3)
    monkeypatch.setattr(find_duplicates, "_HELD_BYTES", 1)
    assert searched("in-turns") == at_once
    assert counted == [3, 3, 2] * 2
