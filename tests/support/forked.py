"""Processes of their own for code that a test gives, which have the large libraries loaded when they begin.

Python's forkserver loads them once for all tests of a process, and each of these is forked from it: seconds of work less for
each. A test needs a new Python instead where it looks at what is loaded, or where a library must see another environment when it
is loaded: so many threads, other kernels of numpy's BLAS.
"""

import atexit
import concurrent.futures
import multiprocessing
import os
import pathlib
import subprocess
import sys
import threading
import types
from multiprocessing import reduction

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOADED = [
    "apache_beam",
    "apache_beam.ml.inference.base",
    "apache_beam.runners.portability.fn_api_runner.fn_runner",
    "open_clip",
    "pyarrow.parquet",
    "torchvision.transforms.v2.functional",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(LOADED)


def in_place_of_new_processes(patch):
    """Has multiprocessing fork processes too where it is told to start a new Python for each."""
    others = multiprocessing.get_context
    patch.setattr(multiprocessing, "get_context", lambda method=None: _CONTEXT if method == "spawn" else others(method))


class _End:
    """An end of a pipe, which the process gets as the number of its own descriptor."""

    def __init__(self, number):
        self._number = number

    def __reduce__(self):
        return _own, (reduction.DupFd(self._number),)


def _own(duplicate):
    return duplicate.detach()


def _work(code, words, folder, environment, ends):
    """Runs the code as `python -c` does."""
    for number, end in enumerate(ends):
        os.dup2(end, number)
        os.close(end)
    sys.stdin, sys.stdout = open(0), open(1, "w")
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["-c", *words]
    while sys.path[0] in ("", str(ROOT)):  # as pytest has it
        del sys.path[0]
    sys.path.insert(0, "")
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        exec(compile(code, "<string>", "exec"), vars(main))
    finally:
        atexit._run_exitfuncs()


class Forked:
    """A process as subprocess.Popen has it, whose three streams are pipes of text; of one that is killed the status is -9."""

    def __init__(self, code, *words, cwd=ROOT, env=None):
        pairs = [os.pipe() for _ in range(3)]
        theirs = [pairs[0][0], pairs[1][1], pairs[2][1]]
        job = (code, words, str(cwd), dict(os.environ if env is None else env), [_End(number) for number in theirs])
        self._process = _CONTEXT.Process(target=_work, args=job)
        self._process.start()
        for number in theirs:
            os.close(number)
        self.stdin = open(pairs[0][1], "w")
        self.stdout, self.stderr = open(pairs[1][0]), open(pairs[2][0])
        self.pid = self._process.pid

    def poll(self):
        """Its status, or None while it goes on."""
        return self._process.exitcode

    def kill(self):
        """Ends it."""
        self._process.kill()

    def wait(self):
        """Waits for its end, and gives its status."""
        self._process.join()
        return self._process.exitcode

    def close(self):
        """Closes its streams, whose end it sees if it reads, and waits for its end."""
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()
        return self.wait()


def run(code, *words, cwd=ROOT, env=None, check=True, timeout=600):
    """Runs code to its end, with nothing to read; gives its status and what it wrote, as subprocess.run does.

    Raises:
        subprocess.CalledProcessError: It has failed, or was killed after so many seconds, and `check` is set.
    """
    forked = Forked(code, *words, cwd=cwd, env=env)
    forked.stdin.close()
    late = threading.Timer(timeout, forked.kill)
    late.start()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        errors = pool.submit(forked.stderr.read)
        written = forked.stdout.read()
    late.cancel()
    done = subprocess.CompletedProcess(["-c", *words], forked.close(), written, errors.result())
    if check:
        done.check_returncode()
    return done
