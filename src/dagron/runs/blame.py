"""What was at fault, where only the run can tell: which parent, the disk or one process, who filled the disk."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterable

from dagron.checkpoint.writing.store import CheckpointStore
from dagron.crossing.exceptions import load_exception
from dagron.engines.outcomes import Outcome, OutcomeKind
from dagron.engines.protocol import Happened, Lost, Returned
from dagron.errors import CheckpointDamagedError, CommitError, ResultNotWrittenError
from dagron.graph.dag import DAG
from dagron.runs.losses import fault_of_input
from dagron.runs.plan import RunPlan

__all__ = ["Blame", "is_full"]

_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
"""What a worker is refused for no reason of its own. Others are asked about: this process tries it, too."""

_SHOWN = 3
"""Nodes that the error of a full disk names; the others are counted."""


def is_full(cause: BaseException | None) -> bool:
    """Tell whether the disk was full, or what this user may have of it."""
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


class Blame:
    """Completes what engines say of failures.

    Args:
        dag: The DAG of the run.
        plan: What is known about its nodes.
        store: The checkpoint, begun.
    """

    def __init__(self, dag: DAG, plan: RunPlan, store: CheckpointStore) -> None:
        self._dag = dag
        self._plan = plan
        self._store = store

    def name_of_input(self, node: int, i: int) -> str:
        """Return the parent whose result is the `i`-th input of a node."""
        return self._dag.name_of(self._dag.parent_indices(node)[self._plan.bindings[node].consumed[i]])

    def parent(self, outcome: Outcome) -> Outcome:
        """Complete the outcome of a node that could not load an input: only the run knows whose result that is."""
        node, fault = outcome.node, outcome.fault
        assert fault is not None
        names = self._dag.name_of(node), self.name_of_input(node, fault.parent)
        return outcome._replace(fault=fault_of_input(fault, *names, str(self._store.directory.path)))

    def process(self, outcome: Outcome, damage: str) -> Outcome:
        """Complete the outcome of a node whose worker could not write, if this process can.

        Raises:
            CommitError: This process cannot either: it is the disk.
        """
        name = self._dag.name_of(outcome.node)
        fault = outcome.fault
        assert fault is not None
        error = load_exception(name, fault.exception, fault.type_name, fault.message, fault.traceback_text)
        assert isinstance(error, ResultNotWrittenError)
        if error.errno in _OF_THE_DISK or self._store.directory.try_file(error.n_bytes) is not None:
            raise self._store.refused(f"the result of node {name!r}: {error.reason}")
        error = ResultNotWrittenError(name, error.reason, error.errno, error.n_bytes, damage)
        told = fault._replace(message=str(error), exception=pickle.dumps(error), retryable=True)
        return outcome._replace(fault=told)

    def damaged_inputs(self, node: int) -> None:
        """Record which inputs of a node are damaged, so that the next resume makes them again."""
        damaged = []
        for i in range(len(self._plan.bindings[node].consumed)):
            name = self.name_of_input(node, i)
            if self._store.commit_of(name) is not None:
                try:
                    self._store.load(name)
                except CheckpointDamagedError:
                    damaged.append(name)
        if damaged:
            self._store.invalidate(damaged, "its bytes were found damaged", lost=True)

    def writers(self, error: CommitError, running: Iterable[str], happened: Iterable[Happened]) -> CommitError:
        """Complete the error of a full disk: what filled it may be the result that a worker is writing.

        Args:
            error: What was refused.
            running: The nodes that run.
            happened: What the engine has brought since, which may say that others were refused as well.
        """
        names = dict.fromkeys(running)
        for item in happened:
            if isinstance(item, Returned | Lost):
                refused = (outcome.node for outcome in item.outcomes if outcome.kind == OutcomeKind.DISK)
                names |= dict.fromkeys(map(self._dag.name_of, refused))
        if not names:
            return error
        first = ", ".join(map(repr, list(names)[:_SHOWN]))
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return CommitError(error.path, f"{error.reason}, while the result of {first}{more} may have been in the making")
