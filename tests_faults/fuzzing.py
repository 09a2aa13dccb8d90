"""Runs a fuzz target for a bounded time from a few seeds."""

import pathlib
import tempfile

import atheris

SECONDS = 60
MAX_BYTES = 16_384


def fuzz(target, seeds, argv):
    """Fuzzes for the seconds of the command line; ends the process, with status 0 if nothing was found.

    A single input may take 20 seconds and 4 GB at most.
    """
    seconds = int(argv[1]) if len(argv) > 1 else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        for place, seed in enumerate(seeds):
            pathlib.Path(folder, str(place)).write_bytes(seed)
        limits = [
            f"-max_total_time={seconds}",
            f"-max_len={MAX_BYTES}",
            "-timeout=20",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
        ]
        atheris.Setup([argv[0], *limits, folder], target)
        atheris.Fuzz()
