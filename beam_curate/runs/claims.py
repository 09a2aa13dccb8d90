"""Who writes to a run's folder: one job at a time, and a job that died keeps nobody out.

A job's claim is a small file in `_temporary/` that says who it is. On local disks it is `running.json`, held by a lock of the
operating system (flock), which ends with the process however that ends. On object stores it is `running-1.json`, created under
the condition that there is none of its name, and whoever finds one asks whether its job is alive: a process by its number and
start on the same machine, a job of Dataflow by its name at the service. A dead job's claim is passed over by creating the next
number, so that of two who find it dead one gets it. Where it cannot be told (a process of another machine), the claim stands,
and the refusal names it: deleting the file is the word that its job is gone.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from beam_curate.runs.claim_holders import Holder, is_alive, this_process
from beam_curate.storage.exclusive import create_new
from beam_curate.storage.files import CLAIM, TEMPORARY, delete, files_under, join, read_bytes, remove_empty_temporary
from beam_curate.storage.object_stores import scheme
from beam_curate.storage.operations import exists, make_parent
from beam_curate.storage.retrying import StorageError, retried

_UNLOCKABLE: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_TRIES: Final = 5


class RunError(ValueError):
    """The output folder does not allow the run that was asked for; the message says what does."""


@dataclass
class _Claim:
    path: str
    file: int | None  # locked, on local disks
    goes_on: bool  # it is a service's job, which may outlive this process
    new: bool  # the folder was not there before


_held: dict[str, _Claim] = {}


def claim(output: str, job: Mapping[str, str] | None = None) -> None:
    """Takes a folder for this process, until `release`; again in the same process it does nothing.

    Args:
        output: The run's folder.
        job: Of a Dataflow job that goes on when this process ends: its `name`, `project` and `region`, and `template` if it is
            started by another than this process.

    Raises:
        RunError: Another job has it, it is no folder, or it may not be written to.
        StorageError: The claim cannot be written or read.
    """
    if output in _held:
        return
    if not scheme(output):
        _check_folder(output)
    mine = {**this_process(), **({"job": dict(job)} if job else {})}
    data = json.dumps(mine, indent=2).encode() + b"\n"
    new = not scheme(output) and not os.path.isdir(output)
    path = join(output, TEMPORARY, f"{CLAIM}.json")
    file = None if scheme(output) else _locked(output, path, data)
    if file is None:
        path = _create(output, data, mine)
    _held[output] = _Claim(path, file, job is not None, new)


def release(output: str) -> None:
    """Gives a folder back; that of a job that goes on without this process stays claimed, see `job_ended`."""
    found = _held.pop(output, None)
    if found is None:
        return
    if not found.goes_on:
        # Before the lock goes: who gets it then looks whether the file is still there.
        delete([found.path])
        remove_empty_temporary(output)
        if found.new:
            with contextlib.suppress(OSError):  # something was written
                os.rmdir(output)
    if found.file is not None:
        os.close(found.file)


def release_all() -> None:
    """Gives all folders of this process back."""
    for output in list(_held):
        release(output)


def is_claimed(output: str) -> bool:
    """Whether this process has the folder."""
    return output in _held


def job_ended(output: str) -> None:
    """Says that the service's job that writes to the folder has ended: `release` gives the folder back."""
    if output in _held:
        _held[output].goes_on = False


def _check_folder(output: str) -> None:
    """Refuses a local path at which there is something else than a folder, or above it."""
    there = output
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise RunError(f"`output` {output}: {there} is no folder; give the path of a folder, or of one to make")


def _locked(output: str, path: str, data: bytes) -> int | None:
    """As `_lock`, tried again where storage fails."""
    try:
        return retried("claiming", path, lambda: _lock(output, path, data))
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _FORBIDDEN:
            raise RunError(
                f"`output` {output} cannot be written to ({os.strerror(cause.errno)}); give a folder that can"
            ) from error
        raise


def _lock(output: str, path: str, data: bytes) -> int | None:
    """Locks a claim and writes it; None where the file system has no locks.

    Raises:
        RunError: Another process holds the lock.
    """
    while True:
        make_parent(path)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # the folder was removed, empty, by whoever has just ended
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(path, file):
                os.truncate(file, 0)
                os.write(file, data)
                return file
        except OSError as error:
            os.close(file)  # with its lock: this process tries again, or another one
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise RunError(_refusal(output, path, _written(path), certain=True)) from error
            if error.errno not in _UNLOCKABLE:
                raise
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
            return None
        os.close(file)  # deleted by the one before, after it was opened here


def _written(path: str) -> Holder:
    """Who holds a lock: he writes it at once, but after he has it."""
    for _ in range(20):
        if found := _read(path):
            return found
        time.sleep(0.01)
    return {}


def _is_file(path: str, file: int) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(file))


def _in_child() -> None:
    """A process that this one forks has no claim: its copy of the lock would outlive this process."""
    for found in _held.values():
        if found.file is not None:
            os.close(found.file)
    _held.clear()


os.register_at_fork(after_in_child=_in_child)


def _create(output: str, data: bytes, mine: Holder) -> str:
    """A claim by creating the next file, after a look at those that are there.

    Raises:
        RunError: Another job has the folder, or is taking it.
    """
    for _ in range(_TRIES):
        before = _claims(output)
        for path, holder in before.items():
            alive = is_alive(holder, mine)
            if alive is not False:
                raise RunError(_refusal(output, path, holder, certain=alive is True))
        number = 1 + max((_number(path) for path in before), default=0)
        path = join(output, TEMPORARY, f"{CLAIM}-{number}.json")
        if not create_new(path, data):
            continue
        try:
            # One who looked long ago may have passed over a claim that is another's by now.
            others = {
                each: holder for each, holder in _claims(output).items() if each != path and before.get(each) != holder
            }
            if others:
                other, holder = next(iter(others.items()))
                raise RunError(_refusal(output, other, holder, certain=True))
            if before:
                delete(list(before))
        except (RunError, StorageError):
            with contextlib.suppress(StorageError):  # the first error tells more
                delete([path])
            raise
        return path
    raise RunError(f"`output` {output}: other jobs are starting there at this moment; try again")


def _claims(output: str) -> dict[str, Holder]:
    found = {path: _read(path) for path in sorted(files_under(output, f"{TEMPORARY}/{CLAIM}-*.json"))}
    return {path: holder for path, holder in found.items() if holder is not None}


def _number(path: str) -> int:
    digits = path.rpartition(f"{CLAIM}-")[2].removesuffix(".json")
    return int(digits) if digits.isdigit() else 0


def _read(path: str) -> Holder | None:
    """Who holds a claim: empty if the file does not say, None if it is gone.

    Raises:
        StorageError: It is there and cannot be read: nobody can say that its job is dead.
    """
    try:
        found = json.loads(read_bytes(path))
    except StorageError:
        if exists(path):
            raise
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(output: str, path: str, holder: Holder, *, certain: bool) -> str:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown machine')}"
    if isinstance(holder.get("job"), dict):
        who = f"the Dataflow job {holder['job'].get('name')} of {holder['job'].get('project')}"
    since = f", since {holder['since']}" if "since" in holder else ""
    if certain:
        return f"`output` {output}: another job writes there, {who}{since}; wait for its end, or stop it"
    return (
        f"`output` {output}: another job may be writing there, {who}{since}, which cannot be checked from here; wait for its "
        f"end, or, if it has ended, delete {path}"
    )
