"""A run that is made anew while a process lives: what the process knew of the one before does not count any more."""

import pyarrow as pa
import pytest

from beam_curate.records import Shard
from beam_curate.runs.configuration import Configuration, Rules
from beam_curate.runs.named_sources import check_rows
from beam_curate.runs.own_parts import open_own_part
from beam_curate.runs.run import Run
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.score_table import ScoreTableError, to_table
from beam_curate.runs.wanted import WantedRun


def begun(folder, shard, threshold):
    """A run over one input shard, without a row; gives its part's path."""
    wanted = WantedRun(
        Configuration(rules=Rules(threshold)), [Shard(0, shard, 1)], overwrite=(folder / "run.json").exists()
    )
    assert Run(str(folder)).begin(wanted) is False
    return write_part(str(folder), 0, shard, to_table([], ["aesthetic"], 4)).path


def test_the_shards_are_those_of_the_run_that_is_there(tmp_path):
    rows = {shard: pa.table({"shard": [shard], "index": [0]}) for shard in ("/a.tar", "/b.tar")}
    for shard, other in (("/a.tar", "/b.tar"), ("/b.tar", "/a.tar")):
        begun(tmp_path, shard, 4.0)
        check_rows(str(tmp_path), "part", 0, rows[shard])
        with pytest.raises(ScoreTableError, match=f"row 0 names '{other}' as its shard, and by .* is {shard}"):
            check_rows(str(tmp_path), "part", 0, rows[other])


def test_the_mark_is_that_of_the_run_that_is_there(tmp_path):
    path = tmp_path / begun(tmp_path, "/a.tar", 4.0)
    before = path.read_bytes()
    with open_own_part(str(tmp_path), str(path)):
        pass
    begun(tmp_path, "/a.tar", 5.0)
    with open_own_part(str(tmp_path), str(path)):
        pass
    path.write_bytes(before)
    with pytest.raises(ScoreTableError, match="is of another run"), open_own_part(str(tmp_path), str(path)):
        pass
