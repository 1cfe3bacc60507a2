"""Ends processes of a run whose server did not: it was killed itself, perhaps with the coordinator."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping

from dagron.engines.awake import STEP_SECONDS, AwakeClock
from dagron.engines.local.processes import alive_below, created_at, is_alive

__all__ = ["sweep"]

_SECONDS = 2.0
"""How long what is found is killed again and again. Never varied: a kill takes milliseconds, and what hangs stays."""


def sweep(processes: Mapping[int, float]) -> list[int]:
    """Kill what is left of the processes of a run, and everything below them.

    Args:
        processes: The workers and their server: process id and `created_at`. A process id alone means nothing, as the
            system gives it to others later.

    Returns:
        The process ids of what was killed.

    Guarantees:
        Killed is only: a process that is one of these by both; what is in the session of a worker, which bears the
        worker's process id and can have no other member as long as that id is not given anew; and what is below either.
        What has moved to a session of its own and has lost its parents cannot be told from others, and stays.
    """
    killed: set[int] = set()
    clock = AwakeClock(STEP_SECONDS)
    deadline = clock.monotonic() + _SECONDS
    while (found := _left(processes)) and clock.monotonic() < deadline:
        clock.look()
        for pid in found:
            killed.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.005)
    return sorted(killed)


def _left(processes: Mapping[int, float]) -> set[int]:
    import psutil

    # A worker's process id that somebody else has by now says nothing about sessions any more.
    sessions = {pid: created for pid, created in processes.items() if created_at(pid) in (None, created)}
    found: set[int] = set()
    for pid in psutil.pids():
        created = created_at(pid)
        try:
            session = os.getsid(pid)
        except (ProcessLookupError, PermissionError):
            continue
        if created is None or pid == os.getpid():
            continue
        if processes.get(pid) == created or (session in sessions and created >= sessions[session]):
            found.add(pid)
            found.update(alive_below(pid))
    return {pid for pid in found if is_alive(pid)}
