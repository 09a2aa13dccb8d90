"""Begins a command: the signals first, since what comes before `listen` is not covered, and then what takes time to load."""

import importlib
import os
import sys
from typing import NoReturn

from beam_curate.commands.garbage import look_seldom
from beam_curate.commands.interruption import listen


def run(command: str = "") -> NoReturn:
    """Runs a command, and ends the process with its status.

    Args:
        command: Its name; empty for the one that the command line names first, as in `beam-curate select`.
    """
    _open_closed_streams()
    listen()
    look_seldom()
    from beam_curate.commands.cli import COMMANDS, main
    from beam_curate.commands.endings import run_command

    run_command(importlib.import_module(COMMANDS[command].module).main if command else main)


def _open_closed_streams() -> None:
    """Opens what is closed of standard input, output and error (`>&-`) as /dev/null, before any other file takes its number.

    What Python or a native library prints would stop the command else, or get into a file of the run.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
