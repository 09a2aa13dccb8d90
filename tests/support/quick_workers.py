"""Worker processes of Beam's own runner, forked from one that has loaded Beam, in place of a new Python for each.

Loading Beam is half of what such a process does for a small pipeline. It loads what the pipeline's steps name, as a new one does.
"""

import os
import subprocess
import sys
import types

from apache_beam.runners.portability import local_job_service

from tests.support import forked

_MODULE = "apache_beam.runners.worker.sdk_worker_main"
_WORKER = f"""
import os, runpy
os.dup2(2, 1)
runpy.run_module("{_MODULE}", run_name="__main__", alter_sys=True)
"""


class QuickWorker:
    """A worker as Beam sees its process; what it writes is written here when it ends."""

    def __init__(self, command, shell, env):
        assert (command, shell) == (f"{sys.executable} -m {_MODULE}", True)
        self._forked = forked.Forked(_WORKER, cwd=os.getcwd(), env=env)
        self._forked.stdin.close()

    @property
    def returncode(self):
        """Its status; None before its end."""
        return self._forked.poll()

    def poll(self):
        """The same."""
        return self._forked.poll()

    def kill(self):
        """Ends it."""
        self._forked.kill()

    def wait(self):
        """Waits for its end."""
        sys.stderr.write(self._forked.stderr.read())
        return self._forked.close()


def quicken():
    """Has this process's pipelines use them."""
    local_job_service.subprocess = types.SimpleNamespace(
        Popen=QuickWorker, **{name: value for name, value in vars(subprocess).items() if name != "Popen"}
    )
