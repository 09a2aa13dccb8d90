"""How a command ends: its errors in one line each, its exit status, its folder given back."""

import atexit
import contextlib
import functools
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar, cast

from beam_curate.commands import interruption

Main = TypeVar("Main", bound=Callable[..., int])

_OWN_ERROR = re.compile(r"^beam_curate(?:\.\w+)+Error: (.+)", re.MULTILINE)


def printable(text: object) -> str:
    """A text on one line, with `?` for characters that would act on a terminal (escapes, directions of writing)."""
    line = " ".join(str(text).split())
    return "".join(character if character.isprintable() else "?" for character in line)


def counted(number: int, noun: str) -> str:
    """A number and what it counts: `1 shard`, `2,000 shards`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def as_options(message: object) -> str:
    """An error of the library in the words of a command line.

    The library names arguments in backquotes, or as Python calls them at the beginning: `output` is --output, and
    `clip_model='x'` is --clip_model 'x'.
    """
    text = re.sub(r"^([a-z][a-z0-9_]*)=(?=')", r"--\1 ", str(message))
    return re.sub(r"`([a-z][a-z0-9_]*)`", r"--\1", text)


def fail(error: object) -> int:
    """Prints one line on standard error and gives the exit status of a wrong command."""
    print(f"error: {printable(as_options(error))}", file=sys.stderr)
    return 2


def gives_back(main: Main) -> Main:
    """A command that gives its output folder back at its end, however it ends; see `beam_curate.runs.claims`."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        finally:
            claims = sys.modules.get("beam_curate.runs.claims")
            if claims is not None:  # else it ended before anything was loaded
                claims.release_all()

    return cast(Main, run)


def run_command(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process with its status.

    An error of one of this project's own classes says what is wrong in a line (status 1); so does one in a worker process, whose
    traceback Beam makes the text of its own error. Any other error is a bug and keeps its traceback. Where the reader of what it
    prints has gone, as in `| head`, it ends as other programs do then (status 141), without a word.
    """
    try:
        status = main()
    except KeyboardInterrupt:  # of a caller that does not `listen`
        print("error: interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        status = 128 + signal.SIGPIPE
    except (OSError, ValueError, RuntimeError) as error:
        from_worker = _OWN_ERROR.findall(str(error)) if type(error) is RuntimeError else []
        if not from_worker and type(error).__module__.split(".")[0] != "beam_curate":
            raise
        print(f"error: {printable(as_options(from_worker[-1] if from_worker else error))}", file=sys.stderr)
        status = 1
    leave(status)


def _nobody_reads() -> bool:
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False


def leave(status: int) -> NoReturn:
    """Ends the process: exit handlers run, buffers are flushed, and the interpreter is not torn down.

    A thread of one of the native libraries sometimes outlives the interpreter and aborts the process ("terminate called
    without an active exception", status 134) after all work is done: 3 of 16 times after a short command (measured). A
    job's success must not be told as a failure.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    interruption.leave(status)
