"""How a node stands: in a run, at its end, and in a checkpoint that is read from outside. The words for it, once."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagron.checkpoint.reading.ledger import Ledger
    from dagron.graph.dag import DAG

__all__ = ["NodeStatus", "node_statuses", "status_of_failure"]


class NodeStatus(StrEnum):
    """How a node stands, in a run and in its checkpoint.

    A run ends with each of its nodes COMPLETED, FAILED, TIMED_OUT, SKIPPED or CANCELLED. The checkpoint of a run that
    has ended has the same, but where the run had CANCELLED and there was a result that is to be made again: that is
    STALE or LOST. That of a run that was interrupted has PENDING instead of CANCELLED: nobody has said that it is over.
    """

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    RUNNING = "running"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    STALE = "stale"
    LOST = "lost"
    PENDING = "pending"

    @property
    def label(self) -> str:
        """The word, as it stands in a sentence."""
        return self.value.replace("_", " ")

    @property
    def meaning(self) -> str:
        """What it says, in half a sentence."""
        return _MEANINGS[self]


_MEANINGS = {
    NodeStatus.COMPLETED: "its result is in the checkpoint",
    NodeStatus.FAILED: "its last attempt failed",
    NodeStatus.TIMED_OUT: "its last attempt took too long",
    NodeStatus.RUNNING: "it runs now",
    NodeStatus.SKIPPED: "a node upstream of it failed, and no run goes on",
    NodeStatus.CANCELLED: "the run was ended before it",
    NodeStatus.STALE: "its result no longer applies; the next resume makes it again",
    NodeStatus.LOST: "its result was damaged or lost; the next resume makes it again",
    NodeStatus.PENDING: "it has not run yet",
}


def status_of_failure(status: str) -> NodeStatus:
    """Return how a node stands whose FAILED record says this: whatever it says, it failed."""
    return NodeStatus.TIMED_OUT if status == NodeStatus.TIMED_OUT else NodeStatus.FAILED


_WITHOUT_RESULT = frozenset({NodeStatus.PENDING, NodeStatus.STALE, NodeStatus.LOST})


def node_statuses(
    ledger: Ledger, dag: DAG | None, running: Iterable[str] = (), *, goes_on: bool
) -> dict[str, NodeStatus]:
    """Return how each node of a checkpoint stands. Everything that shows nodes of a checkpoint asks here.

    Args:
        ledger: What the journal says.
        dag: The DAG of the last run; its order is that of the nodes. None if it is not known: then there are only the
            nodes that the journal has something to say about, in the order of their last records.
        running: What runs now.
        goes_on: Whether a run goes on, or may. It may still reach what is downstream of a node that failed: with
            `fail_fast=False`, or because a resume tries that node again.

    Without `fail_fast` a run skips only the nodes that take a result that is not there, and which these are is recorded
    at its end. So what such a run has not reached is PENDING until then.
    """
    found: dict[str, NodeStatus] = {}
    now = frozenset(running)
    if dag is None:
        known = dict.fromkeys([*ledger.commits, *ledger.failures, *ledger.stale, *ledger.lost, *ledger.dropped, *now])
        names = [name for name in known if name not in ledger.absent]
    else:
        names = list(dag.nodes)
    failed = []
    for name in names:
        if name in ledger.commits:
            found[name] = NodeStatus.COMPLETED
        elif name in now:
            found[name] = NodeStatus.RUNNING
        elif (failure := ledger.failures.get(name)) is not None:
            found[name] = status_of_failure(failure.status)
            failed.append(name)
        elif name in ledger.dropped:
            found[name] = NodeStatus.COMPLETED
        elif name in ledger.stale:
            found[name] = NodeStatus.STALE
        else:
            found[name] = NodeStatus.LOST if name in ledger.lost else NodeStatus.PENDING
    ended = ledger.ended
    if dag is not None and not goes_on and failed and (ledger.run.fail_fast or ended is not None):
        # What was invalidated since was not met by the run.
        others = ledger.withdrawn.union(ended.unreached if ended is not None else ())
        for node in dag.descendant_indices([dag.index_of(name) for name in failed]):
            name = dag.name_of(node)
            if found[name] in _WITHOUT_RESULT and name not in others:
                found[name] = NodeStatus.SKIPPED
    # What stood in a damaged stretch may have been the outcome of any node.
    if dag is not None and not goes_on and ended is not None and not ledger.damage:
        out_of_time = frozenset(ended.out_of_time)
        for name, status in found.items():
            if status is NodeStatus.PENDING and name not in ledger.withdrawn:
                found[name] = NodeStatus.TIMED_OUT if name in out_of_time else NodeStatus.CANCELLED
    return found
