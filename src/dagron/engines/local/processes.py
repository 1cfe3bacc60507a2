"""Processes of this machine: which they are, what is below them, and how much memory that has. Looks only."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dagron.errors import WorkerStartError

if TYPE_CHECKING:
    import psutil

__all__ = [
    "alive_below",
    "check_system",
    "children_of",
    "created_at",
    "is_alive",
    "pid_namespace",
    "resident_bytes",
    "tree_bytes",
]

# psutil is imported only where the platform leaves no other way: that takes as long as a third of a server's start.

_HAS_PROC = os.path.exists("/proc/self/stat")

_KERNEL_LISTS_CHILDREN = os.path.exists("/proc/thread-self/children")
"""Linux with CONFIG_PROC_CHILDREN. Elsewhere every process of the machine has to be looked at, for milliseconds."""


def check_system() -> None:
    """Check that this system can run what runs attempts.

    Raises:
        WorkerStartError: It cannot: it is Windows.
    """
    if not hasattr(os, "fork"):
        raise WorkerStartError(
            "nothing runs on Windows, where no process can be forked: use Linux (there is WSL) or macOS"
        )


def _stat(pid: int) -> list[bytes] | None:
    """Return what Linux says of a process, from its state on, as in proc_pid_stat(5); None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name of the program stands in brackets, and may hold brackets and spaces.
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def created_at(pid: int) -> float | None:
    """Return when a process was created; None if there is none. With the pid it tells which process it is.

    On Linux in clock ticks since the start of the machine, as the kernel has it: the time of day may be set later.
    """
    if _HAS_PROC:
        found = _stat(pid)
        return None if found is None else float(found[19])
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def pid_namespace() -> str:
    """Return a text that is equal where process ids mean the same; empty where the platform has one namespace."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def children_of(pid: int) -> list[int]:
    """Return the process ids of the children of a process; none if it has ended."""
    if not _KERNEL_LISTS_CHILDREN:
        import psutil

        try:
            return [child.pid for child in psutil.Process(pid).children()]
        except psutil.Error:
            return []
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
        except OSError:
            continue  # that thread has ended
    return found


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process, and it has not ended."""
    if _HAS_PROC:
        found = _stat(pid)
        return found is not None and found[0] not in b"ZX"
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def alive_below(pid: int) -> list[int]:
    """Return the process ids of what is alive below a process, parents first."""
    alive = []
    pids = children_of(pid)
    for child in pids:  # it grows meanwhile, which list iterators allow
        if is_alive(child):
            alive.append(child)
        pids += children_of(child)
    return alive


def resident_bytes() -> int:
    """Return the resident memory of this process. Cost: some 10 µs on Linux."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)


def tree_bytes(pid: int, limit: int) -> int:
    """Return the memory of a process and of all below it; 0 if it has ended.

    That is the sum of their resident memory, in which each counts the pages that it shares with others. Only if this is
    above `limit` and there are several processes, shared pages are divided among those that share them, as Linux does
    for the proportional set size: asking for that costs milliseconds.
    """
    import psutil

    try:
        processes = [psutil.Process(pid)]
    except psutil.Error:
        return 0
    for below in alive_below(pid):
        try:
            processes.append(psutil.Process(below))
        except psutil.Error:
            continue  # it has ended
    resident = sum(_bytes_of(process, shared=True) for process in processes)
    if len(processes) == 1 or resident <= limit:
        return resident
    return sum(_bytes_of(process, shared=False) for process in processes)


def _bytes_of(process: psutil.Process, *, shared: bool) -> int:
    import psutil

    try:
        if shared:
            return int(process.memory_info().rss)
        found = process.memory_full_info()
    except psutil.Error:
        return 0  # it has ended
    return int(getattr(found, "pss", found.rss))
