"""A coordinator that is there to be killed: its start, its death, and what is left of it then."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import dagron
from dagron.testing.job import Order

__all__ = ["MARKER", "Gone", "Victim", "wait_until_gone"]

MARKER = "DAGRON_CAMPAIGN"
"""In the environment of every process of a run: a text that no other run has."""

_SOURCE = Path(dagron.__file__).parent.parent
_JOB = "dagron.testing.job"
_POLL_SECONDS = 0.005
"""Between two looks at all processes; never varied."""

_EXIT_SECONDS = 30.0
"""After which a coordinator that has said its last word is taken to hang."""

Said = dict[str, Any]


class Victim:
    """A coordinator in a process of its own. It starts with the object; close it in the end.

    Args:
        order: What it has to do; `pipe` is filled in.
        marker: Marks it and everything that comes from it.
        stderr: Where it, and its workers, complain.

    Attributes:
        marker: As given.
        ended_at: When it was killed, or had ended, by `time.monotonic()`.
        descendants: What was below it just before it was killed.
    """

    def __init__(self, order: Order, marker: str, stderr: Path) -> None:
        self.marker = marker
        self.ended_at = 0.0
        self.descendants: list[psutil.Process] = []
        self._rest = b""
        self._pipe, theirs = os.pipe()
        path = os.pathsep.join(filter(None, [str(_SOURCE), os.environ.get("PYTHONPATH", "")]))
        env = {**os.environ, "PYTHONPATH": path, MARKER: marker}
        env.pop("DAGRON_SIGNING_KEY", None)  # the campaign reads the checkpoint without one
        command = [sys.executable, "-m", _JOB, json.dumps(order._replace(pipe=theirs))]
        try:
            with open(stderr, "ab") as complaints:
                self._process = subprocess.Popen(
                    command,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                    pass_fds=(theirs,),
                )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(theirs)

    def begin(self, timeout_seconds: float) -> Said | None:
        """Wait until it is about to call the executor. If it does not come to that, return why."""
        said = self._said(timeout_seconds)
        if said is None:
            return self._late(timeout_seconds)
        return None if said["what"] == "begin" else said

    def kill_after(self, seconds: float, *, look_below: bool = True) -> Said | None:
        """Kill it with SIGKILL so many seconds from now. If it ends before that, return what it said.

        Args:
            seconds: From now on.
            look_below: Note its descendants first, which takes some milliseconds.
        """
        said = self._said(seconds)
        if said is not None:
            return said
        if look_below:
            self._note_descendants()
        self.ended_at = time.monotonic()
        self._process.kill()
        self._process.wait()
        line = self._line(0.0)  # it may have come to its end meanwhile
        return json.loads(line) if line else None

    def finish(self, timeout_seconds: float) -> Said:
        """Wait for its end and return what it said."""
        return self._said(timeout_seconds) or self._late(timeout_seconds)

    def close(self) -> None:
        """Make sure that it has ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _note_descendants(self) -> None:
        try:
            self.descendants = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            pass  # it has just ended

    def _said(self, timeout_seconds: float) -> Said | None:
        """Return the next thing that it says; None if it says nothing for so long."""
        line = self._line(timeout_seconds)
        if line is None:
            return None
        said: Said = json.loads(line) if line else {"what": "end"}
        if said["what"] == "end":
            code = self._exit_code()
            self.ended_at = time.monotonic()
            if code != 0 or not line:
                said["error"] = f"exit code {code}; its last word: {line.decode() or 'none'}"
        return said

    def _exit_code(self) -> int | None:
        try:
            return self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def _late(self, seconds: float) -> Said:
        self._process.kill()
        self._process.wait()
        self.ended_at = time.monotonic()
        return {"what": "end", "error": f"it was not done after {seconds:g} s"}

    def _line(self, timeout_seconds: float) -> bytes | None:
        """Return the next line; None if there is none for so long, and nothing at the end."""
        deadline = time.monotonic() + timeout_seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            data = os.read(self._pipe, 1 << 16)
            if not data:
                return b""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line


# --- what is left of it ----------------------------------------------------------------------------------------------


class Gone(NamedTuple):
    """How a run's processes went.

    Attributes:
        seconds: From the coordinator's death until none was left, or until the wait was given up.
        left: What was there even then.
    """

    seconds: float
    left: tuple[str, ...]


def wait_until_gone(victim: Victim, noted: Callable[[], Iterable[tuple[int, float]]], limit_seconds: float) -> Gone:
    """Wait until no process is left that came from a coordinator that has ended; what is left is then killed.

    Three ways to know them: their environment; that they were below the coordinator; and that they said so themselves.
    A zombie counts as gone: it runs no more, and how soon it is buried is up to its parent.

    Args:
        victim: The coordinator.
        noted: Asked each time for process ids of those that said so, and when, in seconds since the epoch.
        limit_seconds: Since its death.
    """
    seen_nothing_at = 0.0
    while True:
        now = time.monotonic()
        left = _left_of(victim, noted())
        if not left:
            # Twice in a row: a list of processes is not made at one moment, and a child may be born during the first.
            if seen_nothing_at:
                return Gone(seen_nothing_at - victim.ended_at, ())
            seen_nothing_at = now
            continue
        seen_nothing_at = 0.0
        if now - victim.ended_at > limit_seconds:
            described = tuple(_described(process) for process in left)
            for process in left:
                _kill(process)
            return Gone(now - victim.ended_at, described)
        time.sleep(_POLL_SECONDS)


def _left_of(victim: Victim, noted: Iterable[tuple[int, float]]) -> list[psutil.Process]:
    left = {process.pid: process for process in psutil.process_iter() if _is_marked(process, victim.marker)}
    left.update((process.pid, process) for process in victim.descendants if _runs(process))
    for pid, at in noted:
        try:
            process = psutil.Process(pid)
            # Process ids are given again; whoever has this one now was born before it noted itself, or is another.
            if process.create_time() <= at + 1.0 and _runs(process):
                left[pid] = process
        except psutil.NoSuchProcess:
            pass
    return list(left.values())


def _is_marked(process: psutil.Process, marker: str) -> bool:
    try:
        return process.environ().get(MARKER) == marker and _runs(process)
    except (psutil.Error, OSError):
        return False  # it has gone, or it is another user's


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({' '.join(process.cmdline())[:120]}), {process.status()}"
    except psutil.Error:
        return f"{process.pid}"


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass
