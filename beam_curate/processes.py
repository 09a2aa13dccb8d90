"""What tells a process from all others: its number, when it began, and the namespace in which the number means something."""

import os


def pid_namespace() -> int:
    """The namespace of this process's number: those of containers differ. Source: pid_namespaces(7).

    Raises:
        OSError: The system has no /proc.
    """
    return os.stat("/proc/self/ns/pid").st_ino


def process_started(pid: int) -> str:
    """When a process began, in ticks since the machine was started; empty if there is none. Source: proc(5), field 22."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
