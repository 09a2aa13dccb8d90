"""Runs the blocks of a page as a reader would: in a folder, without a network; all in one process.

A shell reads each block. It knows `beam-curate` and `python` as functions that write down their words, and the words are then
given to the program in this process, which has loaded torch and Beam already. Only what fetches has a process of its own, for
the libraries of the network keep the proxy that they find at their first call.
"""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from unittest.mock import patch

from beam_curate.commands import cli

DEAD_PROXY = "http://127.0.0.1:9"
SETTINGS = {"HTTPS_PROXY": DEAD_PROXY, "HTTP_PROXY": DEAD_PROXY, "HF_HUB_OFFLINE": "1"}
_FUNCTIONS = """
written_down() { printf '%s\\0' "$#" "$@"; }
beam-curate() { written_down beam-curate "$@"; }
python() { written_down python "$@"; }
"""


def programs(code, folder):
    """The programs that a block of the shell starts in a folder: for each its words, as the shell hands them over."""
    done = subprocess.run(["bash", "-ec", _FUNCTIONS + code], cwd=folder, capture_output=True, text=True, check=True)
    words = done.stdout.split("\0")
    assert words.pop() == "", f"the block does more than to start programs: {code}"
    while words:
        count = int(words.pop(0))
        yield words[:count]
        del words[:count]


def start(words):
    """Runs a program, `beam-curate …` or `python -m …`; gives its exit status."""
    if words[:2] == ["beam-curate", "fetch-models"]:
        own = [sys.executable, "-c", "from beam_curate.commands.starting import run; run()", *words[1:]]
        done = subprocess.run(own, capture_output=True, text=True, check=False, timeout=500)
        print(done.stdout, done.stderr)
        return done.returncode
    with patch.object(sys, "argv", list(words)):
        try:
            if words[0] == "beam-curate":
                return cli.main(words[1:])
            assert words[1] == "-m", words
            del sys.argv[:2]
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return end.code or 0
    return 0


def run(kind, code, folder):
    """Runs a block, and ends at the first program that fails; gives the exit status and what was printed."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        _inside(folder),
        patch.dict(os.environ, SETTINGS),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        if kind == "python":
            exec(compile(code, "<block>", "exec"), {"__name__": "__main__"})
        else:
            for words in programs(code, folder):
                if status := start(words):
                    break
    return subprocess.CompletedProcess(code, status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _inside(folder):  # contextlib.chdir is of Python 3.11
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
