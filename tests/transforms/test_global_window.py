"""What brings all rows together refuses windows when the pipeline is built, by name and with the remedy."""

import apache_beam as beam
import pytest
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, Repeatedly
from apache_beam.transforms.window import FixedWindows, GlobalWindows

from beam_curate import WriteWebDatasetShards
from beam_curate.duplicates.removal import Duplicates
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.records import ScoredSample, ScorePart
from beam_curate.selection.rejudging import Selection, TablePlace
from beam_curate.transforms.find_duplicates import FindDuplicates
from beam_curate.transforms.global_window import require_global_window
from beam_curate.transforms.judge_parts import JudgeParts
from beam_curate.transforms.judge_table import JudgeTable
from beam_curate.transforms.remove_duplicates import RemoveDuplicates
from beam_curate.transforms.write_score_table import WriteScoreTable
from beam_curate.transforms.write_webdataset_shards import PackShards


def windows():
    return beam.WindowInto(FixedWindows(60))


def panes():
    trigger = Repeatedly(AfterCount(1))
    return beam.WindowInto(GlobalWindows(), trigger=trigger, accumulation_mode=AccumulationMode.DISCARDING)


SELECTION = Selection(TablePlace("run"), rules=None)


@pytest.mark.parametrize("into", [windows, panes])
@pytest.mark.parametrize(
    ("transform", "element_type"),
    [
        (WriteWebDatasetShards("run", ["aesthetic"]), ScoredSample),
        (WriteScoreTable("run", ["aesthetic"], 768), ScoredSample),
        (PackShards("run"), ScorePart),
        (JudgeTable("run"), ScorePart),
        (FindDuplicates(DuplicateSearch(SELECTION), "run"), ScorePart),
        (RemoveDuplicates(SELECTION, Duplicates("run")), int),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rows_in_windows_are_refused(transform, element_type, into):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    rows = pipeline | beam.Create([]).with_output_types(element_type) | into()
    inner = "WriteScoreTable" if isinstance(transform, WriteWebDatasetShards) else type(transform).__name__
    with pytest.raises(ValueError, match=rf"^{inner} writes one folder.*WindowInto\(beam\.window\.GlobalWindows"):
        rows | transform


def test_parts_of_a_selection_in_windows_are_refused():
    pipeline = beam.Pipeline(runner="FnApiRunner")
    numbers = pipeline | beam.Create([1])
    with pytest.raises(ValueError, match=r"^JudgeParts writes one folder"):
        numbers | windows() | JudgeParts(SELECTION, "run", numbers)


def test_an_earlier_runs_parts_in_windows_are_refused(tmp_path):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    rows = pipeline | beam.Create([]).with_output_types(ScoredSample)
    done = pipeline | "Done" >> beam.Create([]).with_output_types(ScorePart) | windows()
    with pytest.raises(ValueError, match=r"^WriteWebDatasetShards writes one folder"):
        rows | WriteWebDatasetShards(str(tmp_path), ["aesthetic"], done=done)


def test_the_remedy_and_what_grouping_gives_are_fine():
    pipeline = beam.Pipeline(runner="FnApiRunner")
    rows = pipeline | beam.Create([(1, 2)])
    again = rows | windows() | "Global" >> beam.WindowInto(GlobalWindows())
    for allowed in (rows, again, rows | beam.Reshuffle(), rows | beam.GroupByKey()):
        require_global_window(allowed, beam.Map(len))
