"""The phases of a node in a run, and how it gets from one to another.

Life of a node, as in `TRANSITIONS`; what has no arrow is final::

    WAITING ───┬▶ READY       its parents are settled
               ├▶ COMPLETED   it keeps the result that it has
               ├▶ SKIPPED     an ancestor has no result
               └▶ CANCELLED   the run is cancelled
    READY ─────┬▶ RUNNING     a slot gets it
               └▶ CANCELLED   the run is cancelled
    RUNNING ───┬▶ COMMITTING  it completed, or failed and gets no further attempt
               ├▶ BACKOFF     it failed, and gets a further attempt
               ├▶ READY       it is put back: it was not begun, or what ended it was not its own
               ├▶ TIMED_OUT   the time of the run is over, and it was killed
               └▶ CANCELLED   the run is cancelled, and it was killed or not begun
    BACKOFF ───┬▶ READY       its delay is over
               └▶ CANCELLED   the run is cancelled
    COMMITTING ┬▶ COMPLETED   its result is in the checkpoint
               ├▶ FAILED      its failure is in the checkpoint
               └▶ TIMED_OUT   its failure is in the checkpoint, and was its timeout
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from dagron.runs.events import End

__all__ = ["TRANSITIONS", "Phase", "phase_of_failure"]


class Phase(IntEnum):
    """Where a node stands. Those from COMPLETED on are final."""

    WAITING = 0
    READY = 1
    RUNNING = 2
    BACKOFF = 3
    COMMITTING = 4
    COMPLETED = 5
    FAILED = 6
    TIMED_OUT = 7
    SKIPPED = 8
    CANCELLED = 9


TRANSITIONS: Mapping[Phase, Mapping[Phase, str]] = {
    Phase.WAITING: {
        Phase.READY: "its parents are settled",
        Phase.COMPLETED: "it keeps the result that it has",
        Phase.SKIPPED: "an ancestor has no result",
        Phase.CANCELLED: "the run is cancelled",
    },
    Phase.READY: {
        Phase.RUNNING: "a slot gets it",
        Phase.CANCELLED: "the run is cancelled",
    },
    Phase.RUNNING: {
        Phase.COMMITTING: "it completed, or failed and gets no further attempt",
        Phase.BACKOFF: "it failed, and gets a further attempt",
        Phase.READY: "it is put back: it was not begun, or what ended it was not its own",
        Phase.TIMED_OUT: "the time of the run is over, and it was killed",
        Phase.CANCELLED: "the run is cancelled, and it was killed or not begun",
    },
    Phase.BACKOFF: {
        Phase.READY: "its delay is over",
        Phase.CANCELLED: "the run is cancelled",
    },
    Phase.COMMITTING: {
        Phase.COMPLETED: "its result is in the checkpoint",
        Phase.FAILED: "its failure is in the checkpoint",
        Phase.TIMED_OUT: "its failure is in the checkpoint, and was its timeout",
    },
}
"""How a node gets from one phase to another, and why. A phase that is no key is final."""


def phase_of_failure(end: End) -> Phase:
    """Return the phase of a node whose last attempt ended in this way, once its failure is committed."""
    return Phase.TIMED_OUT if end == End.TIMED_OUT else Phase.FAILED
