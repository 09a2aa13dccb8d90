"""What sounds right and is off is said before a run ends, with the rule and the range of the score."""

import re

import pytest

from beam_curate.commands import curate
from beam_curate.report.data import collect
from beam_curate.report.remarks import remarks
from beam_curate.report.writing import plan_of_run
from beam_curate.runs.state_files import read_summary
from tests.conftest import encoded, photo
from tests.report.test_report import MODEL, made_run, row, run


def said(folder, configuration, threshold=0.5):
    rows = [row(0, index, index / 10, threshold) for index in range(1, 9)]
    output = made_run(folder / "run", [rows], configuration)
    return list(remarks(collect(*plan_of_run(read_summary(str(output)), str(output)))))


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({"min_aesthetic": 0.3}, []),
        ({"min_aesthetic": 0.1}, ["aesthetic ≥ 0.1 rejects no sample: aesthetic is 0.1 to 0.8 in this data"]),
        ({"min_aesthetic": 0.9}, ["aesthetic ≥ 0.9 rejects every sample: aesthetic is 0.1 to 0.8 in this data"]),
        ({"keep": "aesthetic < 0.05"}, ["aesthetic < 0.05 rejects every sample: aesthetic is 0.1 to 0.8 in this data"]),
        ({"keep": "aesthetic < 3"}, ["aesthetic < 3 rejects no sample: aesthetic is 0.1 to 0.8 in this data"]),
        ({}, []),
    ],
)
def test_a_threshold_outside_the_range_of_its_score(tmp_path, configuration, expected):
    assert said(tmp_path, {"max_nsfw": None, **configuration}) == expected


def test_all_samples_were_rejected(tmp_path, capfd):
    members = [(f"{n}.jpg", encoded(photo(n))) for n in range(4)] + [("bad.jpg", b"<x>")]
    _, status = run(tmp_path, [members], *MODEL, "--min_aesthetic=20", "--max_nsfw=none")
    assert status == 0
    found = capfd.readouterr().err
    first = (
        r"note: all 4 samples were rejected, and 1 failed: aesthetic_below_min 4; aesthetic is [-\d.]+ to [-\d.]+ in "
    )
    assert re.search(first, found)
    assert re.search(r"note: aesthetic ≥ 20 rejects every sample: aesthetic is ", found)
    assert "warning: no sample passed the rules" in found
    assert found.index("note: all 4") < found.index("warning: no sample")
    again = [
        f"--input={tmp_path}/in/*.tar",
        f"--output={tmp_path}/some",
        *MODEL,
        "--min_aesthetic=none",
        "--max_nsfw=none",
    ]
    assert curate.main(again) == 0
    assert "note: a" not in capfd.readouterr().err
