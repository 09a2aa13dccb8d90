"""Ends a command as machines and people do, and looks at what it says."""

import os
import signal

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def stop(process, dice):
    """Stops a command that runs, by a signal at random: SIGKILL and Ctrl-C to its group, SIGTERM to itself alone.

    One that is told to end says so with its status, with no traceback; one that had just finished has status 0.
    """
    number = dice.choice(SIGNALS)
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
