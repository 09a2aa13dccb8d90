import io
import sys
import threading

from beam_curate.progress import PROGRESS, Progress, progress_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_line_says_samples_speed_failures_and_the_share_of_the_input(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "200")  # the line is cut to the terminal's width
    with progress_line(total_bytes=2_000, interval=0.01):
        PROGRESS.add(samples=7, failed=2, input_bytes=1_000)
    last = shown.getvalue().split("\r")[-1]
    assert "7 samples" in last
    assert "images/s" in last
    assert "2 failed" in last
    assert "50%" in last


def test_two_runs_in_a_process_are_counted_apart(monkeypatch):
    for _ in range(2):
        shown = Terminal()
        monkeypatch.setattr(sys, "stderr", shown)
        with progress_line(total_bytes=100, interval=0.01):
            PROGRESS.add(samples=3, input_bytes=100)
        assert "3 samples" in shown.getvalue().split("\r")[-1]


def test_quiet_when_not_a_terminal(capsys):
    with progress_line(total_bytes=10, interval=0.01):
        PROGRESS.add(samples=1)
    assert capsys.readouterr().err == ""


def test_counting_from_many_threads_loses_nothing():
    progress = Progress()
    threads = [threading.Thread(target=lambda: [progress.add(samples=1) for _ in range(2_000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.snapshot() == (16_000, 0, 0)
