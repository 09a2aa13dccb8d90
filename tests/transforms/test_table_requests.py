"""What a selection asks of the storage for each part of the table: counted, whatever the number of parts."""

import collections
import threading

import numpy as np
import pytest

from beam_curate.commands import select
from beam_curate.records import PlacedRows, ScorePart
from beam_curate.runs import run, score_table
from beam_curate.runs.placed_rows import Meeting
from beam_curate.runs.row_sources import TableRows
from beam_curate.runs.table_parts import TablePlace
from beam_curate.storage.ranged_reading import RangeReader
from beam_curate.transforms import collect_figures
from benchmarks.selecting import make_run, make_source

FOOTER = 1 << 16


class Requests:
    """Files opened, ranges asked for and bytes that came, by the folder and name of the file."""

    def __init__(self):
        self.opened, self.asked, self.bytes = (collections.Counter() for _ in range(3))
        self.lock, self.own = threading.Lock(), threading.local()

    def add(self, counter, path, number=1):
        if not getattr(self.own, "aside", False):
            with self.lock:
                counter["/".join(path.split("/")[-2:])] += number

    def of(self, name):
        return self.opened[name], self.asked[name]


@pytest.fixture
def requests(monkeypatch):
    found = Requests()
    begin, fetch = RangeReader.__init__, RangeReader._fetch

    def opening(self, path):
        begin(self, path)
        found.add(found.opened, path)

    def fetching(self, start, stop):
        data = fetch(self, start, stop)
        found.add(found.asked, self.path)
        found.add(found.bytes, self.path, len(data))
        return data

    monkeypatch.setattr(RangeReader, "__init__", opening)
    monkeypatch.setattr(RangeReader, "_fetch", fetching)
    return found


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "source.tar", 100)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_selection_asks_the_same_of_each_part(parts, source, requests, tmp_path, monkeypatch):
    """The part itself is opened before the job, to judge, to write its kept rows and for the report; the last three also read of
    it. Its verdicts are opened for the keys, to write and for the report; being small they come whole with the footer."""
    make_run(tmp_path / "scored", source, parts)
    read_shown = collect_figures.read_shown

    def beside(*arguments):
        """What is shown of samples is read of a few parts, however many there are."""
        requests.own.aside = True
        try:
            return read_shown(*arguments)
        finally:
            requests.own.aside = False

    monkeypatch.setattr(collect_figures, "read_shown", beside)
    words = [f"--scores={tmp_path}/scored", f"--output={tmp_path}/out", "--keep=aesthetic >= 0.97"]
    assert select.main([*words, "--samples_per_shard=50"]) == 0
    for number in range(1, parts):  # the first one also says what columns there are
        scores, verdicts = (score_table.part_name(number, folder) for folder in ("scores", "verdicts"))
        # One more where a file of samples ends within the part.
        twice = requests.opened[verdicts] - 3
        assert twice in (0, 1)
        assert requests.of(verdicts) == (3 + twice, 3 + twice)
        assert requests.of(scores) == (4 + twice, 7 + 2 * twice)
        size = (tmp_path / "scored" / scores).stat().st_size
        assert requests.bytes[scores] < (4 + twice) * FOOTER + (1 + twice) * size + 200_000


def test_the_only_row_group_is_read_with_its_verdicts_at_once(source, requests, tmp_path):
    make_run(tmp_path / "scored", source, 1)
    name = score_table.part_name(0)
    with TablePlace(str(tmp_path / "scored")).open(0) as part:
        assert part.read_kept(np.array([3, 7]), ["key", "aesthetic"]).schema.names == ["key", "aesthetic"]
    assert requests.of(name) == (1, 2)


def test_rows_that_were_counted_and_are_gone_stop_the_writing(source, tmp_path):
    make_run(tmp_path / "scored", source, 1)
    rows = PlacedRows(0, score_table.part_name(0), b"", 990, 20, 0, {})
    with pytest.raises(RuntimeError, match="has 10 of the 20 kept rows from number 990 on"):
        Meeting(TableRows(str(tmp_path / "scored"))).rows([rows])


def test_which_table_a_run_judges_is_looked_up_once(source, tmp_path, monkeypatch):
    make_run(tmp_path / "scored", source, 3)
    looks, read = [], run.read_run_file
    monkeypatch.setattr(run, "read_run_file", lambda folder: (looks.append(folder), read(folder))[1])
    rows = TableRows(str(tmp_path / "scored"))
    for number in range(3):
        for folder in ("verdicts", "scores"):
            rows.open(ScorePart(number, "", score_table.part_name(number, folder), 0, 0, 0, 0, {}))
    assert len(looks) == 1
