"""Begins a command: the signals first, since what comes before `listen` is not covered, and then what takes time to load."""

import importlib
from typing import NoReturn

from beam_curate.commands.garbage import look_seldom
from beam_curate.commands.interruption import listen


def run(command: str = "") -> NoReturn:
    """Runs a command, and ends the process with its status.

    Args:
        command: Its name; empty for the one that the command line names first, as in `beam-curate select`.
    """
    listen()
    look_seldom()
    from beam_curate.commands.cli import COMMANDS, main
    from beam_curate.commands.endings import run_command

    run_command(importlib.import_module(COMMANDS[command].module).main if command else main)
