"""Two runs over the same input in one page: what only one of them keeps."""

import errno
import json
import os
import re
import tempfile

import numpy as np
import pyarrow.compute as pc
import pytest

from beam_curate import read_score_table
from beam_curate.commands import report, select
from beam_curate.report import data as report_data
from beam_curate.report.changes import BOTH, HERE, NEITHER, THERE
from beam_curate.report.writing import plan_of_run, write_report
from beam_curate.runs.state_files import read_summary
from beam_curate.transforms.collect_figures import CollectFigures
from tests.conftest import encoded, photo
from tests.report.test_report import MODEL, Page, run


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    shards = [
        [(f"{shard}-{n}.jpg", encoded(photo(100 * shard + n, 60 + 4 * n, 60))) for n in range(12)] for shard in range(3)
    ]
    shards[1].append(("bad.jpg", b"<x>"))
    output, status = run(tmp_path_factory.mktemp("changes"), shards, *MODEL, "--min_aesthetic=none", "--max_nsfw=none")
    assert status == 0
    return output


@pytest.fixture(scope="module")
def two(scored):
    """Two selections: of the images in the middle by one score, and by the other."""
    rows = read_score_table(str(scored), ["aesthetic", "nsfw", "status"])
    rows = rows.filter(pc.equal(rows["status"], "kept"))
    middle = {name: float(np.median(rows[name])) for name in ("aesthetic", "nsfw")}
    found = []
    for name, flag in (("one", f"--min_aesthetic={middle['aesthetic']}"), ("two", f"--max_nsfw={middle['nsfw']}")):
        assert select.main([f"--scores={scored}", f"--output={scored.parent}/{name}", flag]) == 0
        found.append(scored.parent / name)
    return found


def expected(one, two):
    here, there = (read_score_table(str(run), ["status"])["status"].to_pylist() for run in (one, two))
    pairs = list(zip([status == "kept" for status in here], [status == "kept" for status in there], strict=True))
    sides = {BOTH: (True, True), HERE: (True, False), THERE: (False, True), NEITHER: (False, False)}
    return {name: pairs.count(pair) for name, pair in sides.items()}


def test_the_counts_are_those_of_both_tables(two, tmp_path):
    page = tmp_path / "compared.html"
    before = (two[0] / "report.html").read_bytes()
    assert report.main([f"--run={two[0]}", f"--against={two[1]}", f"--report={page}"]) == 0
    text = Page(page.read_text("utf-8")).text
    counts = expected(*two)
    assert min(counts.values()) > 0
    for words, number in counts.items():
        assert f"{number} {words}" in text
    funnels = [json.loads((run / "summary.json").read_text())["funnel"] for run in two]
    for status in ("kept", "rejected", "failed"):
        assert f"{status}{funnels[0][status]}{funnels[1][status]}" in text
    keys = read_score_table(str(two[0]), ["key"])["key"].to_pylist()
    here, there = (read_score_table(str(run), ["status"])["status"].to_pylist() for run in two)
    only = {key for key, one, other in zip(keys, here, there, strict=True) if (one, other) == ("kept", "rejected")}
    inside = text[text.index("Kept only here") : text.index("Kept only there")]
    assert set(re.findall(r"\d-\d+(?!\d)", inside)) <= only
    assert len(re.findall(r"\d-\d+", inside)) == min(12, len(only))
    assert (two[0] / "report.html").read_bytes() == before
    # In this process it is the same page.
    again = tmp_path / "again.html"
    write_report(str(two[0]), against=str(two[1]), path=str(again))
    assert again.read_bytes() == page.read_bytes()


def test_a_run_compared_with_itself_has_no_changes(two):
    plan, shards = plan_of_run(read_summary(str(two[0])), str(two[0]), str(two[0]))
    changes = report_data.collect(plan, shards).changes
    assert changes.counts[HERE] == changes.counts[THERE] == 0
    assert [gallery.places for gallery in changes.galleries] == [[], []]


def test_the_report_of_a_run_is_written_again(two, capsys):
    before = (two[0] / "report.html").read_bytes()
    (two[0] / "report.html").unlink()
    assert report.main([f"--run={two[0]}"]) == 0
    assert (two[0] / "report.html").read_bytes() == before
    assert f"look at {two[0]}/report.html" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_refused_in_one_line_before_any_work(two, tmp_path, monkeypatch, capfd):
    """No row is read, and no worker of Beam has an error to log."""
    monkeypatch.setattr(CollectFigures, "expand", None)
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    dry = [f"--scores={two[0]}", "--min_aesthetic=5", "--dry_run"]
    with monkeypatch.context() as patch:
        for folder, why in (
            (f"{tmp_path}/file", f"{tmp_path}/file is no folder"),
            ("/proc", "/proc cannot be written to: "),
            (f"{tmp_path}/new/below", f"{tmp_path} cannot be written to: Read-only file system"),
        ):
            if folder.startswith(f"{tmp_path}/new"):  # for whoever runs the tests may write to it
                patch.setattr(tempfile, "TemporaryFile", read_only)
            for command, flags in ((report.main, [f"--run={two[0]}"]), (select.main, dry)):
                assert command([*flags, f"--report={folder}/page.html"]) == 2
                (line,) = capfd.readouterr().err.splitlines()
                assert line.startswith(f"error: --report {folder}/page.html: {why}")
                assert line.endswith("; give a --report where a file can be written")
        assert report.main([f"--run={two[0]}"]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(
            f"error: --run {two[0]}: {two[0]} cannot be written to: Read-only file system; give a --report "
        )
    assert sorted(tmp_path.rglob("*")) == before


def read_only(**given):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), given["dir"])


def test_what_cannot_be_compared_or_written_is_refused(two, scored, tmp_path, capsys):
    other, _ = run(tmp_path, [[("1.jpg", encoded(photo(1)))]], *MODEL)
    page = f"--report={tmp_path}/page.html"
    for flags, words in (
        ([f"--against={other}", page], "is over other shards: shard 0 is "),
        ([f"--against={tmp_path}/none", page], "--against"),
        ([f"--against={two[1]}"], "--report is missing; give a file for the comparison"),
        ([f"--against={two[1]}", f"--report={two[1]}/x.html"], "is in the folder of --against, which stays as it is"),
        ([f"--report={scored.parent}/in/0.tar"], "0.tar, which is read; give another path"),
        ([f"--report={tmp_path}"], "is a folder; give the path of a file"),
    ):
        assert report.main([f"--run={two[0]}", *flags]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
