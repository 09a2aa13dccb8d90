"""What is read of the rows that a report shows."""

import pyarrow as pa

from beam_curate.records import ImageFacts, Member, SampleRef, ScoredSample
from beam_curate.report.rows import DETAILS, Detail, details_of
from beam_curate.runs import score_table


def test_details_are_columns_of_the_score_table():
    assert set(DETAILS) <= set(score_table.schema(["a"], 4).names)


def test_details_are_those_of_their_rows():
    rows = [
        ScoredSample(
            SampleRef(0, "/s.tar", n, f"k{n}", (Member("jpg", 512, n),), "jpg"),
            ImageFacts(9, n, "JPEG", f"{n:064x}", n), b"", {"a": 1.0}, "kept",
        )
        for n in (1, 2)
    ]  # fmt: skip
    first, second = details_of(score_table.to_table(rows, ["a"], 4))
    assert first == Detail(
        "k1", "/s.tar", None, None, None, None, 9, 1, "jpg", f"{1:064x}", [{"suffix": "jpg", "offset": 512, "size": 1}]
    )
    assert (second.key, second.height) == ("k2", 2)
    assert details_of(pa.table({name: [] for name in DETAILS})) == []
