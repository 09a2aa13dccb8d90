"""Begins a command: the signals first, since what comes before `listen` is not covered, and then what takes time to load."""

import importlib
from typing import NoReturn

from pipelines.interruption import listen


def run(command: str = "") -> NoReturn:
    """Runs a command, and ends the process with its status.

    Args:
        command: Its name; empty for the one that the command line names first, as in `beam-curate select`.
    """
    listen()
    from pipelines.cli import COMMANDS, main
    from pipelines.options import run_command

    run_command(importlib.import_module(COMMANDS[command].module).main if command else main)
