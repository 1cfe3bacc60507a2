"""From a run that has ended to what its caller is given."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.crossing.loading import load_result_of
from dagron.errors import CheckpointDamagedError, NodeCancelledError, NodeSkippedError, ResultNotKeptError
from dagron.graph.dag import DAG
from dagron.results.reasons import shown_reason
from dagron.results.results import ExecutionResult, NodeResult, NodeResults
from dagron.results.status import NodeStatus
from dagron.runs.coordinator import Coordinator
from dagron.runs.phases import Phase
from dagron.runs.state import RunState

if TYPE_CHECKING:
    from dagron.results.trace import ExecutionTrace

__all__ = ["conclude", "conclude_restored"]

_FAILED = (NodeStatus.FAILED, NodeStatus.TIMED_OUT)
_STATUS = {
    Phase.COMPLETED: NodeStatus.COMPLETED,
    Phase.FAILED: NodeStatus.FAILED,
    Phase.TIMED_OUT: NodeStatus.TIMED_OUT,
    Phase.SKIPPED: NodeStatus.SKIPPED,
    Phase.CANCELLED: NodeStatus.CANCELLED,
}


def conclude(
    dag: DAG, state: RunState, coordinator: Coordinator, store: CheckpointStore, trace: ExecutionTrace | None
) -> ExecutionResult:
    """Return how the nodes ended. What is known of a node is put together when it is first asked for.

    Args:
        dag: The DAG.
        state: Where the run stands: at its end.
        coordinator: Knows the failures.
        store: Loads the results.
        trace: The spans, or None.
    """
    restored = frozenset(state.restored)

    def make(name: str, node: int) -> NodeResult[Any]:
        result: NodeResult[Any] = NodeResult(
            name, _STATUS[state.phase_of(node)], restored=node in restored, attempts=state.attempts_of(node)
        )
        commit = store.commit_of(name) or store.dropped.get(name)
        if result.status is NodeStatus.COMPLETED and commit is not None:
            _fill(result, store, commit)
        elif result.status is NodeStatus.COMPLETED:
            result._load = partial(_found_damaged, store.directory.path_to(store.file_name(name)))
        elif result.status is NodeStatus.SKIPPED:
            result.error = NodeSkippedError(name, dag.name_of(state.cause_of(node)))
        elif (failure := coordinator.failures.get(node)) is not None:
            result.error = failure.error(name)
            result.slot = failure.slot
            result.stderr_tail = failure.stderr
            result._failure = failure.record(name)
            result._figures = failure.figures
        if result.attempts > 1 or result.restored:
            result._retried = partial(store.retried, name)
        if node in state.stopped:
            # Whatever its last attempt met, what counts is that there was to be no further one.
            result.error = NodeCancelledError(name, coordinator.cancel_reason)
        return result

    def failures() -> list[tuple[str, str]]:
        failed = [node for node in coordinator.failures if _STATUS[state.phase_of(node)] in _FAILED]
        records = [coordinator.failures[node].record(dag.name_of(node)) for node in failed]
        return [(record.name, shown_reason(record)) for record in records]

    names = {name: node for node, name in enumerate(dag.nodes)}
    return ExecutionResult(
        NodeResults(names, make),
        _failures=failures,
        succeeded=state.count(Phase.COMPLETED),
        failed=state.count(Phase.FAILED),
        skipped=state.count(Phase.SKIPPED),
        timed_out=state.count(Phase.TIMED_OUT),
        cancelled=state.count(Phase.CANCELLED),
        restored=state.n_restored,
        retries=coordinator.n_retries,
        trace=trace,
    )


def conclude_restored(dag: DAG, store: CheckpointStore, trace: ExecutionTrace | None) -> ExecutionResult:
    """Return the results of a checkpoint in which every node is completed and of which nothing was run.

    Args:
        dag: The DAG.
        store: Loads the results.
        trace: The spans, or None.
    """

    def make(name: str, _: int) -> NodeResult[Any]:
        result: NodeResult[Any] = NodeResult(name, NodeStatus.COMPLETED, restored=True)
        commit = store.commit_of(name) or store.dropped.get(name)
        assert commit is not None, "every node is completed"
        _fill(result, store, commit)
        return result

    names = {name: node for node, name in enumerate(dag.nodes)}
    return ExecutionResult(NodeResults(names, make), succeeded=len(dag), restored=len(dag), trace=trace)


def _fill(result: NodeResult[Any], store: CheckpointStore, commit: Commit) -> None:
    result.attempts = commit.attempts
    result._figures = commit.figures
    result.result_bytes = commit.size
    result.stored_bytes = 0 if commit.name in store.dropped else commit.stored_size
    result.slot = commit.slot
    result._load = partial(_value_of, store, commit)


def _value_of(store: CheckpointStore, commit: Commit) -> Any:
    # Asked when it is loaded, as a callback may ask in the middle of a run.
    found = store.dropped.get(commit.name)
    if found is not None and found.sequence == commit.sequence:
        raise ResultNotKeptError(commit.name, str(store.directory.path))
    return load_result_of(commit.name, store.load_committed(commit), str(store.directory.path))


def _found_damaged(path: str) -> Any:
    raise CheckpointDamagedError(path, 0, "its bytes were found damaged in this run; the next resume makes them again")
