"""How far a job is: a bar on a terminal, a line a minute elsewhere, the counters of a job that runs elsewhere."""

import io
import re
import sys
import threading
from types import SimpleNamespace

import pytest

from beam_curate import progress
from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.job_counters import counters_seen
from beam_curate.commands.launch import ProgressOptions, pipeline_options
from beam_curate.commands.options import OptionError
from beam_curate.progress import PARTS, PROGRESS, Counts, Progress, Seen, parts_seen, samples_seen, shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_says_samples_speed_failures_and_the_share_of_the_input(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "200")  # the line is cut to the terminal's width
    with shown(samples_seen(PROGRESS.snapshot()), 2_000, "curate", interval=0.01):
        PROGRESS.add(samples=7, failed=2, input_bytes=1_000)
    last = screen.getvalue().split("\r")[-1]
    assert "7 samples" in last
    assert "images/s" in last
    assert "2 failed" in last
    assert "50%" in last


def test_two_runs_in_a_process_are_counted_apart(monkeypatch):
    for _ in range(2):
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        with shown(samples_seen(PROGRESS.snapshot()), 100, "curate", interval=0.01):
            PROGRESS.add(samples=3, input_bytes=100)
        assert "3 samples" in screen.getvalue().split("\r")[-1]


def said(look, total, mode=None, **more):
    """What is said until the first line is there."""
    looked = threading.Event()

    def once(seconds):
        if looked.is_set():
            stopped.wait(60)
        looked.set()
        return look(seconds)

    stopped = threading.Event()
    with shown(once, total, "curate", mode, interval=0.01, **more):
        assert looked.wait(60)
        stopped.set()


def test_off_a_terminal_there_are_lines(capsys):
    start = PROGRESS.snapshot()
    PROGRESS.add(samples=1_234, rejected=12, failed=5, input_bytes=2_500_000)
    said(samples_seen(start), 10_000_000)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("curate: 1,234 samples, ")
    assert " images/s, 12 rejected, 5 failed, 25 % of 10.0MB, " in line
    assert " left after " in line
    assert "\r" not in line


def test_a_search_for_duplicates_says_how_many_buckets_are_compared(capsys):
    start = PROGRESS.snapshot()
    PROGRESS.add(buckets=1_500)
    PROGRESS.add(compared=1_234)
    said(samples_seen(start), 0)
    assert capsys.readouterr().err.startswith("curate: 1,234 of 1,500 buckets compared after ")
    PROGRESS.add(samples=7)
    said(samples_seen(start), 0)
    line = capsys.readouterr().err
    assert line.startswith("curate: 7 samples, ")
    assert " images/s, 1,234 of 1,500 buckets compared after " in line


def test_a_job_says_only_what_it_does(capsys):
    """A packing rejects nothing, and a selection scores nothing."""
    start = PROGRESS.snapshot()
    PROGRESS.add(samples=7, failed=2)
    said(samples_seen(start), 0)
    assert re.match(r"curate: 7 samples, [\d.]+ images/s, 2 failed after \d+ s\n", capsys.readouterr().err)
    start = PROGRESS.snapshot()
    PROGRESS.add(judged=12_000, kept=4_200)
    said(samples_seen(start), 0)
    assert capsys.readouterr().err.startswith("curate: 12,000 rows judged (4,200 kept) after ")
    PROGRESS.add(written=3_000)
    said(samples_seen(start), 0)
    assert capsys.readouterr().err.startswith("curate: 12,000 rows judged (4,200 kept), 3,000 samples written after ")


def test_a_bar_without_a_share_shows_the_words_alone(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "200")
    start = PROGRESS.snapshot()
    with shown(samples_seen(start), 0, "select", interval=0.01, unit=""):
        PROGRESS.add(judged=12_000, input_bytes=5)
    assert re.search(r"\rselect: \d\d:\d\d, 12,000 rows judged \(0 kept\)\s*$", screen.getvalue())


@pytest.mark.parametrize(
    ("seen", "total", "words"),
    [
        (Seen(0), 0, "curate: at work after "),
        (Seen(0, "3 kept"), 0, "curate: 3 kept after "),
        (Seen(5_000), 0, "curate: 5.00kB after "),
        (Seen(300), 200, "curate: 100 % of 200B after "),
    ],
)
def test_what_is_not_known_is_not_said(capsys, seen, total, words):
    said(lambda seconds: seen, total)
    assert capsys.readouterr().err.startswith(words)


def test_a_short_job_says_nothing_off_a_terminal(capsys):
    with shown(samples_seen(PROGRESS.snapshot()), 10, "curate"):
        PROGRESS.add(samples=1)
    assert capsys.readouterr().err == ""


def test_none_is_quiet(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with shown(lambda seconds: pytest.fail("looked"), 10, "curate", "none", interval=0.001):
        threading.Event().wait(0.05)
    assert screen.getvalue() == ""


def test_the_option_is_known_to_every_command_and_checked():
    options = pipeline_options(["--progress=line"], CurateOptions)
    assert options.view_as(ProgressOptions).progress == "line"
    assert pipeline_options([], CurateOptions).view_as(ProgressOptions).progress is None
    with pytest.raises(OptionError, match="--progress: invalid choice: 'loud'"):
        pipeline_options(["--progress=loud"], CurateOptions)


def test_a_job_that_tells_nothing_is_still_at_work(capsys):
    def metrics():
        raise NotImplementedError

    said(counters_seen(SimpleNamespace(metrics=metrics)), 0, "line")
    assert capsys.readouterr().err.startswith("curate: at work after ")


def test_reads_of_parts_have_a_unit_of_their_own(capsys, monkeypatch):
    look = parts_seen()
    PROGRESS.add(parts=30)
    said(look, 120, unit=PARTS)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("curate: 25 % of 120 reads of parts, ")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "200")
    with shown(parts_seen(), 4, "report", "bar", interval=0.01, unit=PARTS):
        PROGRESS.add(parts=2)
    assert "2/4" in screen.getvalue().split("\r")[-1]


def test_a_look_that_never_ends_does_not_keep_the_command(monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0.01)
    looked, never = threading.Event(), threading.Event()

    def hang(seconds):
        looked.set()
        never.wait(60)
        return Seen(0)

    with shown(hang, 0, "curate", "line", interval=0.001):
        assert looked.wait(60)
    assert not never.is_set()
    never.set()


def test_counting_from_many_threads_loses_nothing():
    progress = Progress()
    threads = [threading.Thread(target=lambda: [progress.add(samples=1) for _ in range(2_000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.snapshot() == Counts(samples=16_000)
