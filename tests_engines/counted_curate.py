"""`curate` for one test: it notes the images of each call of the model, and may fail a bundle once, when a part is written.

    python -m tests_engines.counted_curate COUNTS PARTS OPTIONS…

COUNTS is a file that gets a number a line. PARTS is the folder of the parts after the first of which a call fails; `-` for none.
For engines whose workers are in the command's own process.
"""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_curate.clip.handler import ClipModelHandler
from beam_curate.commands import curate
from beam_curate.commands.endings import run_command

FAILURE = "this bundle fails"


def main(counts: Path, parts: Path | None, options: Sequence[str]) -> int:
    """Runs the command.

    Args:
        counts: The file of the numbers.
        parts: Where parts are written; None: no call fails.
        options: Those of curate.
    """
    embed, lock = ClipModelHandler.embed_pixels, threading.Lock()
    failed: list[bool] = []

    def counting(self: ClipModelHandler, batch: Sequence[Any], pixels: Sequence[Any], model: Any) -> Any:
        with lock:
            if parts is not None and not failed and any(parts.glob("part-*")):
                failed.append(True)
                raise RuntimeError(FAILURE)
            with counts.open("a") as stream:
                stream.write(f"{len(pixels)}\n")
        return embed(self, batch, pixels, model)

    ClipModelHandler.embed_pixels = counting  # type: ignore[method-assign]
    return curate.main(options)


if __name__ == "__main__":
    folder = None if sys.argv[2] == "-" else Path(sys.argv[2])
    run_command(lambda: main(Path(sys.argv[1]), folder, sys.argv[3:]))
