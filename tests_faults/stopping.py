"""Ends a command as machines and people do, and looks at what it says."""

import os
import pathlib
import re
import signal
import time

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def stop(process, dice):
    """Stops a command that runs, by a signal at random: SIGKILL and Ctrl-C to its group, SIGTERM to itself alone.

    One that is told to end says so with its status, with no traceback; one that had just finished has status 0. What Python does
    before a command's first line is Python's: that is waited for.
    """
    number = dice.choice(SIGNALS)
    while number != signal.SIGKILL and process.poll() is None and not _listens(process):
        time.sleep(0.005)
    if number == signal.SIGTERM:
        process.send_signal(number)
    else:
        os.killpg(process.pid, number)
    printed, _ = process.communicate(timeout=120)
    if number == signal.SIGKILL:
        assert process.returncode == -number
        return
    assert process.returncode in (0, 128 + number), (process.returncode, printed)
    assert "Traceback" not in printed, printed
    if process.returncode:
        assert printed.strip().splitlines()[-1].startswith("error: "), printed


def _listens(process):
    """Whether the process has a handler for SIGTERM, which Python sets none for by itself."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)[1], 16) >> signal.SIGTERM - 1 & 1
