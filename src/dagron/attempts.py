"""Attempts that gave no result: why, as the exception that the caller gets and as the fields of a FAILED record."""

from __future__ import annotations

from typing import Any

from dagron.crossing.serialize import load_exception
from dagron.errors import MemoryLimitExceededError, NodeTimeoutError, WorkerLostError
from dagron.events import End
from dagron.failures import shown_origin
from dagron.output import last_lines, printed_text
from dagron.state import Policy
from dagron.workers.child import Outcome
from dagron.workers.pool import Lost, Printed

__all__ = ["Failure", "error_of_loss", "printed_fields"]


class Failure:
    """Why the last attempt of a node gave no result; the exception itself is made when it is asked for.

    Args:
        outcome: What the worker said; None if it is lost.
        error: Why, if the worker is lost.
        attempt: Which attempt.
        slot: The slot that made it.
        printed: The end of what it wrote.
        lost: If the worker is lost, what was lost with it.
    """

    __slots__ = ("_error", "attempt", "lost", "outcome", "printed", "slot", "status", "stderr")

    def __init__(
        self,
        outcome: Outcome | None,
        error: BaseException | None,
        attempt: int,
        slot: int,
        printed: Printed,
        lost: Lost | None = None,
    ) -> None:
        self.outcome = outcome
        self._error = error
        self.attempt = attempt
        self.slot = slot
        self.printed = printed_fields(printed)
        self.stderr = last_lines(printed.stderr)
        self.lost = lost._replace(printed=Printed()) if lost is not None else None  # its texts are much shorter
        self.status = "failed"

    def error(self, node: str) -> BaseException:
        """Return the exception. Unpickling it runs code that it names."""
        if self._error is None:
            assert self.outcome is not None
            self._error = load_exception(node, self.outcome.data, *self.outcome.failure)
            where = "\n  ".join([f"node {node!r}, attempt {self.attempt}", *shown_origin(self.fields(node))])
            try:
                BaseException.add_note(self._error, where)
            except Exception:
                pass  # it lets nothing be set
        return self._error

    def fields(self, node: str) -> dict[str, Any]:
        """Return what a FAILED record says."""
        cpu, inputs = 0.0, tuple[tuple[str, str], ...]()
        if self.outcome is not None:
            kind, message, text = self.outcome.failure
            started, seconds, cpu = self.outcome.started_unix, self.outcome.duration_seconds, self.outcome.cpu_seconds
            memory, pid, inputs = self.outcome.peak_rss_bytes, self.outcome.pid, self.outcome.inputs
        else:
            kind, message, text = type(self._error).__name__, str(self._error), ""
            assert self.lost is not None
            seconds, memory, pid = self.lost.seconds, self.lost.peak_rss_bytes or 0, self.lost.pid
            started = self.lost.ended_unix - seconds
        return {
            "name": node,
            "status": self.status,
            "type": kind,
            "message": message,
            "traceback": text,
            "attempts": self.attempt,
            "slot": self.slot,
            "pid": pid,
            "started": started,
            "seconds": seconds,
            "cpu": cpu,
            "system": self.outcome.system_seconds if self.outcome is not None else 0.0,
            "memory": memory,
            "inputs": inputs,
            **self.printed,
        }


def error_of_loss(node: str, attempt: int, policy: Policy, lost: Lost, end: End, memory_bytes: int) -> BaseException:
    """Return the exception of a node whose worker is dead.

    Args:
        node: The node.
        attempt: Which attempt it was.
        policy: What was asked for the node.
        lost: How the worker was found.
        end: What it was killed for: TIMED_OUT or OUT_OF_MEMORY; else LOST.
        memory_bytes: What it was last seen with, if that was looked at.
    """
    if end == End.TIMED_OUT:
        assert policy.timeout is not None
        return NodeTimeoutError(node, attempt, policy.timeout)
    if end == End.OUT_OF_MEMORY:
        assert policy.memory_limit is not None
        return MemoryLimitExceededError(node, attempt, policy.memory_limit, memory_bytes)
    return WorkerLostError(node, attempt, lost.exit_code, lost.peak_rss_bytes, last_lines(lost.printed.stderr))


def printed_fields(printed: Printed) -> dict[str, Any]:
    """Return what a record says of what an attempt wrote."""
    return {
        "stdout": printed_text(printed.stdout),
        "stderr": printed_text(printed.stderr),
        "stdout_bytes": printed.stdout_bytes,
        "stderr_bytes": printed.stderr_bytes,
    }
