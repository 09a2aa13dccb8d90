"""Ends a local run when one of its worker processes dies; Beam's in-process runner would wait for its answer for ever."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Final

# The thread in which Beam's runner waits for a worker process (--direct_running_mode=multi_processing); it raises when the
# process ends with an error, or by a signal, and nobody looks at it.
_WAITING_THREAD: Final = "run_worker"


class WorkerDiedError(RuntimeError):
    """A worker process of the run was killed or crashed."""


@contextlib.contextmanager
def ends_with_its_workers() -> Iterator[None]:
    """Interrupts the block, as Ctrl-C does, when a worker process dies.

    Use it in the main thread, around the wait for the pipeline; elsewhere no signal could interrupt the wait, and it does
    nothing.

    Raises:
        WorkerDiedError: A worker process died, such as by the kernel's out-of-memory killer.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main:
        yield
        return
    deaths: list[str] = []
    hook_before = threading.excepthook

    def notice(args: threading.ExceptHookArgs) -> None:
        if args.thread is None or args.thread.name != _WAITING_THREAD or main.ident is None:
            hook_before(args)
        else:
            deaths.append(str(args.exc_value))
            if len(deaths) == 1:
                signal.pthread_kill(main.ident, signal.SIGINT)

    threading.excepthook = notice
    try:
        yield
    except KeyboardInterrupt as error:
        if not deaths:
            raise
        raise WorkerDiedError(
            f"{deaths[0]}; if the kernel killed it for want of memory, use fewer workers or a smaller batch"
        ) from error
    finally:
        threading.excepthook = hook_before
