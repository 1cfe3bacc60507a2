"""Callbacks of the user, and the narrower interface through which the parts of dagron watch a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dagron.frozen import frozen

__all__ = ["ExecutionCallbacks", "RunObserver", "RunSnapshot", "RunningNode", "call_back"]

logger = logging.getLogger("dagron")


@dataclass(slots=True)
class ExecutionCallbacks:
    """Functions to call while a run goes on. All are optional.

    They run in the thread that called `execute`, in the order of the commits, each after the commit it speaks of, so a
    slow one holds up the run. One that raises is reported through `logging` and changes nothing.

    Attributes:
        on_start: `(name)`: an attempt was sent to a worker.
        on_complete: `(name, result)`: the node's result is in the checkpoint. Giving this asks for every value, so each
            one is unpickled here.
        on_failure: `(name, error)`: the node failed or timed out for good.
        on_skip: `(name)`: the node will not be attempted.
        on_restore: `(name)`: the node's result was taken from the checkpoint.
        on_retry: `(name, attempt, error)`: this attempt failed and another one follows.
    """

    on_start: Callable[[str], object] | None = None
    on_complete: Callable[[str, Any], object] | None = None
    on_failure: Callable[[str, BaseException], object] | None = None
    on_skip: Callable[[str], object] | None = None
    on_restore: Callable[[str], object] | None = None
    on_retry: Callable[[str, int, BaseException], object] | None = None


def call_back(function: Callable[..., object], *args: object) -> None:
    """Call a function of the user's whose failure is not ours."""
    try:
        function(*args)
    except Exception:
        logger.exception("the callback %r raised; the run goes on", function)


@frozen
class RunningNode:
    """What a slot runs.

    Attributes:
        name: The node.
        slot: The slot.
        seconds: For how long so far.
        memory_bytes: Resident memory of its worker with all below it, as it was within the last seconds; 0 if unknown.
    """

    name: str
    slot: int = 0
    seconds: float = 0.0
    memory_bytes: int = 0


@frozen
class RunSnapshot:
    """How far a run is.

    Attributes:
        total: Nodes of the DAG.
        completed: Nodes that are COMPLETED, the restored ones among them.
        restored: Nodes whose result was taken from the checkpoint.
        failed: Nodes that are FAILED.
        skipped: Nodes that are SKIPPED.
        cancelled: Nodes that are CANCELLED.
        running: What runs now, one for each busy slot, by slot.
        elapsed_seconds: Since the run began.
        left_seconds: How long the run will take still, from how long its nodes take; None if that is not known.
        preparing: For how long, in seconds, each of the workers that are in `worker_init` has been in it.
        retries: Further attempts that nodes got after one that failed.
        timed_out: Nodes that are TIMED_OUT.
    """

    total: int
    completed: int
    restored: int
    failed: int
    skipped: int
    cancelled: int
    running: tuple[RunningNode, ...]
    elapsed_seconds: float
    left_seconds: float | None = None
    preparing: tuple[float, ...] = ()
    retries: int = 0
    timed_out: int = 0


class RunObserver(Protocol):
    """Someone who watches a run, such as a progress bar. Called in the thread of the run; must be quick."""

    def run_started(self, snapshot: RunSnapshot) -> None:
        """The run began. Results that are restored at once count as completed already."""

    def run_moved(self, snapshot: RunSnapshot) -> None:
        """Some time passed: up to ten times a second, and less often if its share of the time gets above 0.8 %."""

    def run_ended(self, snapshot: RunSnapshot) -> None:
        """The run is over, be it with an error."""
