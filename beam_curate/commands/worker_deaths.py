"""Ends a local run when one of its worker processes dies; Beam's in-process runner would wait for its answer for ever."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Final

from beam_curate.commands.interruption import end_children, leave

GRACE_SECONDS: Final = 15.0
"""How long the runner gets to end by itself after a worker died; it may wait for the dead one even then."""

# The thread in which Beam's runner waits for a worker process (--direct_running_mode=multi_processing); it raises when the
# process ends with an error, or by a signal, and nobody looks at it.
_WAITING_THREAD: Final = "run_worker"
# What the runner raises if it finds the connection to a worker closed before that thread finds the process ended.
_CLOSED: Final = "Channel closed prematurely"
_NOTICE_SECONDS: Final = 5.0
# Interrupts the main thread as Ctrl-C does where nothing else takes that; SIGINT itself ends the command.
_WAKE: Final = signal.SIGUSR1


class WorkerDiedError(RuntimeError):
    """A worker process of the run was killed or crashed."""


@contextlib.contextmanager
def ends_with_its_workers() -> Iterator[None]:
    """Interrupts the block with a KeyboardInterrupt when a worker process dies.

    If the block has not ended, with all of its workers, GRACE_SECONDS later, this process ends with status 1, and with it the
    workers that are left. Use it in the main thread, around the wait for the pipeline: elsewhere
    no signal could interrupt the wait, and it does nothing.

    Raises:
        WorkerDiedError: A worker process died, such as by the kernel's out-of-memory killer.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main:
        yield
        return
    deaths: list[str] = []
    noticed, left = threading.Event(), threading.Event()
    hook_before = threading.excepthook

    def notice(args: threading.ExceptHookArgs) -> None:
        if args.thread is None or args.thread.name != _WAITING_THREAD or main.ident is None:
            hook_before(args)
            return
        deaths.append(str(args.exc_value))
        if len(deaths) == 1:
            threading.Thread(target=_end_after_grace, args=(left, deaths[0]), daemon=True).start()
            signal.pthread_kill(main.ident, _WAKE)
            noticed.set()

    threading.excepthook = notice
    handler_before = signal.signal(_WAKE, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, RuntimeError) as error:
        if _CLOSED in str(error):
            with contextlib.suppress(KeyboardInterrupt):
                noticed.wait(_NOTICE_SECONDS)
        if not deaths:
            raise
        raise WorkerDiedError(
            f"{deaths[0]}; if the kernel killed it because memory ran out, use fewer workers or a smaller batch"
        ) from error
    finally:
        left.set()
        signal.signal(_WAKE, handler_before)
        threading.excepthook = hook_before


def _end_after_grace(left: threading.Event, death: str) -> None:
    """Ends the process unless the block is left in time, and the threads of its workers too."""
    dying = threading.current_thread()
    waiting = [thread for thread in threading.enumerate() if thread.name == _WAITING_THREAD and thread is not dying]
    if left.wait(GRACE_SECONDS):
        for thread in waiting:
            thread.join(GRACE_SECONDS / len(waiting))
        if not any(thread.is_alive() for thread in waiting):
            return
    print(f"{death}, and the runner does not end; what is finished is kept: go on with --resume", file=sys.stderr)
    sys.stderr.flush()
    end_children()
    leave(1)
