"""What joining the edges reads: each list once, however many shards are asked for."""

import collections
import threading

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate.duplicates.candidates import FOREIGN
from beam_curate.duplicates.groups import MEMBER
from beam_curate.duplicates.removal import find_table
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.duplicates.table import read_part
from beam_curate.records import ImageFacts, Member, SampleRef, ScoredSample, Shard
from beam_curate.runs import named_sources, score_table, state_files
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.run import Run
from beam_curate.runs.run_files import INPUT_SHARDS, SUMMARY
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.table_parts import TablePlace
from beam_curate.runs.wanted import WantedRun
from beam_curate.selection.rejudging import Selection
from beam_curate.storage.files import write_json
from beam_curate.storage.ranged_reading import RangeReader
from beam_curate.transforms.find_duplicates import FindDuplicates
from beam_curate.transforms.join_duplicates import _asks
from beam_curate.transforms.list_parts import ListParts
from beam_curate.transforms.preview_selection import PreviewSelection, read_preview


def table_of(folder, parts, per=4):
    """A finished run of some parts; row n of each is a copy of row n of the first."""
    output = str(folder)
    shards = [Shard(part, f"/s/{folder.name}/{part}.tar", 9) for part in range(parts)]
    Run(output).begin(WantedRun(Configuration(), shards))
    for shard in shards:
        rows = []
        for n in range(per):
            ref = SampleRef(shard.index, shard.path, n, f"{shard.index}-{n}", (Member("jpg", 512, 9),), "jpg")
            facts = ImageFacts(4, 3, "JPEG", f"{n:064x}", 9)
            vector = np.ones(8, "<f2").tobytes()
            rows.append(ScoredSample(ref, facts, vector, {"aesthetic": float(-shard.index)}, "kept"))
        write_part(output, shard.index, shard.path, score_table.to_table(rows, ["aesthetic"], 8))
    write_json(output, SUMMARY, {"funnel": {}})
    return output


def find(scores, output, against=None):
    place = TablePlace(scores)
    search = DuplicateSearch(Selection(place, None), against=TablePlace(against) if against else None)
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as root:
        _ = root | ListParts(place) | FindDuplicates(search, output)


@pytest.fixture
def reads(monkeypatch):
    """How often a file was opened, by its name."""
    counts = collections.Counter()
    open_read = state_files.open_read

    def counted(path):
        counts[path.rpartition("/")[2]] += 1
        return open_read(path)

    monkeypatch.setattr(state_files, "open_read", counted)
    return counts


@pytest.mark.parametrize("against", [False, True])
def test_the_list_of_shards_is_read_as_often_whatever_the_number_of_shards(tmp_path, reads, against):
    counts = []
    for parts in (3, 12):
        ours = table_of(tmp_path / f"ours{parts}", parts)
        other = table_of(tmp_path / f"other{parts}", parts) if against else None
        reads.clear()
        named_sources._listed.cache_clear()
        find(ours, str(tmp_path / f"found{parts}"), other)
        counts.append(reads[INPUT_SHARDS])
        rows = read_part(str(tmp_path / f"found{parts}"), parts - 1)
        assert rows.num_rows == 4
        named = f"/s/{'other' if against else 'ours'}{parts}/0.tar"
        assert set(rows.column("duplicate_of_shard").to_pylist()) == {named}
    assert counts[0] == counts[1]


def test_rows_are_asked_for_by_their_shard():
    members = np.zeros(4, MEMBER)
    place = np.uint64(1 << 32)
    members["row"] = np.arange(4, dtype=np.uint64) + np.uint64(5) * place
    members["of"] = [
        FOREIGN | (np.uint64(5) * place),
        np.uint64(5) * place,
        np.uint64(2) * place,
        FOREIGN | np.uint64(7),
    ]
    asked = {ask: (asker, rows.tolist()) for ask, (asker, rows) in _asks(5, members)}
    assert asked == {(False, 2): (5, [0]), (False, 5): (5, [0, 1, 2, 3]), (True, 0): (5, [7]), (True, 5): (5, [0])}
    assert all(type(foreign) is bool and type(shard) is int for foreign, shard in asked)


@pytest.mark.parametrize("parts", [3, 9])
def test_a_dry_run_reads_the_duplicates_of_each_part_as_often_whatever_their_number(tmp_path, monkeypatch, parts):
    scores = table_of(tmp_path / "run", parts)
    find(scores, str(tmp_path))
    monkeypatch.setattr("beam_curate.transforms.preview_selection.check_parts", lambda place: list(range(parts)))
    opened, begin, lock = collections.Counter(), RangeReader.__init__, threading.Lock()

    def counted(reader, path):
        with lock:
            opened[path.removeprefix(f"{tmp_path}/")] += 1
        begin(reader, path)

    monkeypatch.setattr(RangeReader, "__init__", counted)
    chosen = Selection(TablePlace(scores), ())
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as root:
        _ = root | PreviewSelection(chosen, str(tmp_path / "out"), find_table(str(tmp_path), scores))
    assert read_preview(str(tmp_path / "out")).lines[-1].together.samples == 4  # of each of the four pictures one
    for part in range(parts):
        name = f"part-{part:05d}.parquet"
        assert (opened[f"duplicates/{name}"], opened[f"run/scores/{name}"]) == (3, 3)
