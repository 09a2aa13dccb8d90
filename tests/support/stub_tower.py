"""A tower for tests of processes, in a module of its own: the processes import it, and nothing heavy with it."""

import os
import signal
import struct
import time
from multiprocessing.connection import Connection

import numpy as np


class StrangeError(RuntimeError):
    """An error that cannot be built again in another process."""

    def __init__(self, text, needed):
        super().__init__(text)


class AcceleratorError(RuntimeError):
    """Stands for torch's."""


class Tower:
    """A tower whose embedding is the number of its process and the image's first byte, which tells it how to fail."""

    def __init__(self, broken=False):
        if broken:
            raise ValueError("no such weights")
        self._lost = False

    def describe(self):
        return "described"

    def runtime(self):
        return "cpu", "fp32"

    def embed(self, items, places):
        first = self._first(items)
        self._lost = self._lost or 9 in first
        if self._lost:
            raise AcceleratorError("CUDA error: an illegal memory access was encountered")
        if 8 in first:
            raise StrangeError("cannot see 8", None)
        if 7 in first:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        if 6 in first:
            raise MemoryError("no room")
        if 5 in first:
            os._exit(3)
        if 10 in first:
            Connection._send_bytes = _half
        if 11 in first:
            time.sleep(3600)
        if 12 in first:
            Connection._send_bytes = _half_and_stop
        return np.array([(os.getpid(), number) for number in first], np.int64).reshape(len(items), 2)

    def _first(self, items):
        if not hasattr(items, "read"):
            return [int(item) for item in items]  # texts
        rows = np.zeros((len(items), 4), np.uint8)
        items.read(rows)
        return rows[:, 0].tolist()


def _half(connection, answer):
    """Ends the process in the middle of its answer, which has its length before it."""
    whole = struct.pack("!i", len(answer)) + bytes(answer)
    os.write(connection.fileno(), whole[: len(whole) // 2])
    os._exit(3)


def _half_and_stop(connection, answer):
    """Has the process stand still there."""
    whole = struct.pack("!i", len(answer)) + bytes(answer)
    os.write(connection.fileno(), whole[: len(whole) // 2])
    os.kill(os.getpid(), signal.SIGSTOP)


def image(number):
    """The pixels of a tiny image."""
    return bytes([number, 0, 0, 0])


def turns(copies, number):
    """The processes of some calls of a model with one image."""
    from beam_curate.clip.careful_calls import CarefulCalls

    return [int(CarefulCalls(1, "turns").embed([image(0)], copies)[0][0]) for _ in range(number)]


class Shared(Tower):
    """A tower on a GPU that is shared through MPS, for which a folder stands: who has lost it there, all have lost."""

    def __init__(self, gpu):
        super().__init__()
        self._fault = os.path.join(gpu, "fault")
        if os.path.exists(self._fault):
            others = [number for number in os.listdir(gpu) if number.isdigit() and _alive(number)]
            if others:
                raise RuntimeError("CUDA error: MPS server is not ready to accept new MPS client requests")
            os.unlink(self._fault)
        open(os.path.join(gpu, str(os.getpid())), "x").close()

    def embed(self, items, places):
        if 9 in self._first(items):
            open(self._fault, "w").close()
        self._lost = os.path.exists(self._fault)
        return super().embed(items, places)


def _alive(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def tower_after(gate):
    """A tower that is loaded when a file is there; the number of the process that loads it stands in a file beside."""
    open(f"{gate}.{os.getpid()}", "x").close()
    while not os.path.exists(gate):
        time.sleep(0.02)
    return Tower()


def tower_that_fails_to_load(flags):
    """A tower that is not loaded as often as there are files in a folder, each of which is taken away."""
    for flag in sorted(os.listdir(flags))[:1]:
        os.unlink(os.path.join(flags, flag))
        raise OSError("the disk with the weights is not there")
    return Tower()
