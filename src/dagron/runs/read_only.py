"""A resume where the checkpoint can only be read: it gives the results, if there is nothing left to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dagron.callbacks import ExecutionCallbacks, call_back
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.errors import CheckpointDirectoryError
from dagron.graph.dag import DAG
from dagron.results.results import ExecutionResult
from dagron.runs.conclusion import conclude_restored
from dagron.runs.plan import RunPlan
from dagron.runs.prepare import Earlier, prepare

if TYPE_CHECKING:
    from dagron.results.trace import ExecutionTrace

__all__ = ["resume_read_only"]

_NAMES_SHOWN = 8
"""Nodes that the error names: as many as a `TaskDefinitionError` does."""


def resume_read_only(
    store: CheckpointStore,
    dag: DAG,
    plan: RunPlan,
    callbacks: ExecutionCallbacks,
    trace: ExecutionTrace | None,
    look: Callable[[Ledger], None] | None,
) -> ExecutionResult:
    """Return the results of a checkpoint that is complete. Takes no lock and writes nothing.

    Args:
        store: The checkpoint, not open.
        dag: The DAG.
        plan: Of its tasks.
        callbacks: Of the user.
        trace: Takes the restored nodes, or None.
        look: Called with what the journal says; may raise.

    Raises:
        CheckpointDirectoryError: There is something to run, or no checkpoint; or it is not to be trusted.
        CheckpointError: It cannot be read.
    """
    commits = store.open_to_read()
    ledger = store.ledger
    if ledger is not None and look is not None:
        look(ledger)
    stale, dropped = (store.stale, store.dropped) if ledger is not None else ((), PackedCommits())
    prepared = prepare(dag, plan, Earlier(ledger, commits, stale, store.load, store.digests, dropped))
    kept = {*prepared.restore.restored, *prepared.restore.held}
    if len(kept) < len(dag):
        names = [name for i, name in enumerate(dag.nodes) if i not in kept]
        shown = ", ".join(map(repr, names[:_NAMES_SHOWN])) + (" ..." if len(names) > _NAMES_SHOWN else "")
        reason = f"it is not writable, and {len(names)} of {len(dag)} nodes would run: {shown}"
        raise CheckpointDirectoryError(str(store.directory.path), reason)
    if callbacks.on_restore is not None:
        for name in dag.nodes:
            call_back(callbacks.on_restore, name)
    if trace is not None:
        trace.add_restored(dag.nodes)
    return conclude_restored(dag, store, trace)
