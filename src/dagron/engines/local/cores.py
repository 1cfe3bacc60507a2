"""Processors: which ones this process has, which are cores of their own, and how many threads a worker may use."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

__all__ = [
    "THREAD_VARIABLES",
    "available_cpus",
    "can_pin",
    "limit_threads",
    "pin",
    "spread_cpus",
]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What OpenMP and the usual libraries for linear algebra read when they are loaded."""

_TOPOLOGY = "/sys/devices/system/cpu"


def can_pin() -> bool:
    """Tell whether a process can be bound to a processor here: on Linux and some other Unix systems, not on macOS."""
    return hasattr(os, "sched_setaffinity")


def available_cpus() -> list[int]:
    """Return the processors that this process may use."""
    if can_pin():
        try:
            return sorted(os.sched_getaffinity(0))
        except OSError:
            pass  # a sandbox forbids to ask
    return list(range(os.cpu_count() or 1))


def spread_cpus(topology: str | os.PathLike[str] = _TOPOLOGY) -> list[int]:
    """Return the processors that this process may use, those that share a core with an earlier one last."""
    seen: set[str] = set()
    first: list[int] = []
    second: list[int] = []
    for cpu in available_cpus():
        core = _core_of(cpu, topology)
        (second if core in seen else first).append(cpu)
        seen.add(core)
    return first + second


def _core_of(cpu: int, topology: str | os.PathLike[str]) -> str:
    try:
        with open(os.path.join(topology, f"cpu{cpu}", "topology", "thread_siblings_list")) as file:
            return file.read().strip()
    except OSError:
        return str(cpu)  # not told: a core of its own


def pin(cpu: int) -> None:
    """Bind this process, and what it starts, to a processor; where the system refuses, say so and go on without."""
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:
        sys.stderr.write(f"dagron: a worker is not bound to processor {cpu}: {error.strerror}\n")


def limit_threads(n: int, environment: MutableMapping[str, str]) -> None:
    """Let libraries that are loaded later use `n` threads, unless the environment already says how many."""
    if not any(name in environment for name in THREAD_VARIABLES):
        environment.update(dict.fromkeys(THREAD_VARIABLES, str(n)))
