"""What goes into the state of a run, and what comes out: events in the past tense, commands in the imperative.

Values only, all of them frozen. Nodes and slots are indices; times are in seconds on a monotonic clock of the caller's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import NamedTuple

from dagron.frozen import frozen

__all__ = [
    "AttemptEnded",
    "BatchReturned",
    "CancelRequested",
    "Changed",
    "Command",
    "CommitFailures",
    "CommitResults",
    "Committed",
    "Dispatch",
    "Drop",
    "End",
    "Event",
    "Invalidate",
    "Kill",
    "NoteLoss",
    "Observe",
    "Restore",
    "Retry",
    "Skip",
    "SlotLost",
    "SlotObserved",
    "Started",
    "TimeReached",
]


class End(IntEnum):
    """How an attempt ended. A worker tells the first two; the state decides on the others.

    Attributes:
        COMPLETED: It has a result.
        RAISED: It has none, and says why.
        LOST: Its worker died.
        TIMED_OUT: It was killed because it took too long.
        OUT_OF_MEMORY: It was killed because it had too much memory.
        CANCELLED: It was killed because the run was to end.
        PUT_BACK: Its worker was killed for what was not its own. It does not count, and the node goes out again.
    """

    COMPLETED = 0
    RAISED = 1
    LOST = 2
    TIMED_OUT = 3
    OUT_OF_MEMORY = 4
    CANCELLED = 5
    PUT_BACK = 6


# --- events --------------------------------------------------------------------------------------------------------


class AttemptEnded(NamedTuple):
    """One attempt of a batch that its worker has told of, as part of an event.

    Attributes:
        node: The node.
        completed: Whether it has a result.
        retryable: Whether what it raised is worth a further attempt.
        seconds: How long it took.
    """

    node: int
    completed: bool
    retryable: bool
    seconds: float


@frozen
class Started:
    """The run began."""

    now: float


@frozen
class BatchReturned:
    """A slot is done with its oldest batch; `unstarted` of it were not begun."""

    slot: int
    ended: Sequence[AttemptEnded]
    unstarted: Sequence[int]
    now: float


@frozen
class SlotLost:
    """The worker of a slot died. `running` was in its hands, None if nothing was; `unstarted` were not begun."""

    slot: int
    ended: Sequence[AttemptEnded]
    running: int | None
    unstarted: Sequence[int]
    now: float


@frozen
class Changed:
    """The results of these nodes, which are committed next, differ from those that they replace."""

    nodes: Collection[int]


@frozen
class Committed:
    """Outcomes are in the checkpoint."""

    nodes: Sequence[int]
    now: float


@frozen
class SlotObserved:
    """The slot has run `node` for that long; None if it is between two nodes.

    Its worker has `memory_bytes` with all below it, and had `before_bytes` when the node began, 0 if it was new; both 0
    if that was not asked for.
    """

    slot: int
    node: int | None
    seconds: float
    now: float
    memory_bytes: int = 0
    before_bytes: int = 0


@frozen
class TimeReached:
    """It is now at least `wake_at`."""

    now: float


@frozen
class CancelRequested:
    """No more is to be started and what runs is to be killed. With `timed_out`, what ran counts as timed out."""

    now: float
    timed_out: bool = False


Event = Started | BatchReturned | SlotLost | Changed | Committed | SlotObserved | TimeReached | CancelRequested


# --- commands ------------------------------------------------------------------------------------------------------


@frozen
class Dispatch:
    """Send these nodes to a slot as one batch."""

    slot: int
    nodes: tuple[int, ...]


@frozen
class CommitResults:
    """Commit the results of these nodes: report `Changed` for those that differ, commit, report `Committed`."""

    nodes: tuple[int, ...]


@frozen
class CommitFailures:
    """Commit that these nodes failed, then report `Committed`."""

    nodes: tuple[int, ...]


@frozen
class NoteLoss:
    """Note how an attempt ended whose worker died with it.

    Attributes:
        node: The node.
        attempt: Which attempt.
        end: Any but COMPLETED and RAISED. With PUT_BACK the node has not failed.
        memory_bytes: With OUT_OF_MEMORY, what it was seen with.
    """

    node: int
    attempt: int
    end: End
    memory_bytes: int = 0


@frozen
class Retry:
    """Tell that this node gets a further attempt after a delay, because the last one failed."""

    node: int
    delay_seconds: float


@frozen
class Invalidate:
    """Record that the commits of these nodes no longer apply, before the results that outdate them are committed."""

    nodes: tuple[int, ...]


@frozen
class Drop:
    """The results of these nodes are not to be kept, and all that take them are in the checkpoint."""

    nodes: tuple[int, ...]


@frozen
class Restore:
    """These nodes keep the results that they have."""

    nodes: tuple[int, ...]


@frozen
class Skip:
    """These nodes will not be attempted because of `cause`."""

    nodes: tuple[int, ...]
    cause: int


@frozen
class Kill:
    """Kill the worker of a slot with all below it.

    Attributes:
        slot: The slot.
        node: Whose attempt this ends; None if it ends all that runs there, or if the worker is to be replaced.
        end: Why: TIMED_OUT, OUT_OF_MEMORY, or CANCELLED.
        memory_bytes: With OUT_OF_MEMORY, what the worker was seen with.
    """

    slot: int
    node: int | None
    end: End = End.CANCELLED
    memory_bytes: int = 0


@frozen
class Observe:
    """Report `SlotObserved` for this slot; with the memory, if there is a limit to compare it with."""

    slot: int
    memory_limit: int | None = None


Command = (
    Dispatch | CommitResults | CommitFailures | NoteLoss | Retry | Invalidate | Drop | Restore | Skip | Kill | Observe
)
