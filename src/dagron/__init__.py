"""Run a DAG of CPU-bound tasks on worker processes; checkpoint every node; survive `kill -9`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dagron.errors import (
    ArgumentsError,
    CheckpointDamagedError,
    CheckpointDirectoryError,
    CheckpointError,
    CheckpointExistsError,
    CheckpointGoneError,
    CheckpointLockedError,
    ClassChangedError,
    ClearError,
    CommitError,
    CycleError,
    DagronError,
    DuplicateNodeError,
    ForeignFilesError,
    FormatVersionError,
    GraphError,
    HandleAttributeError,
    HandleError,
    InputNotLoadableError,
    InternalError,
    InvalidNameError,
    MemoryLimitExceededError,
    MissingInputError,
    MissingPackageError,
    MissingTaskError,
    NoCheckpointError,
    NodeCancelledError,
    NodeError,
    NodesFailedError,
    NodeSkippedError,
    NodeTimeoutError,
    NotCallableError,
    NotInTaskError,
    NotLoadableError,
    NotOneNodeError,
    NotRunByCallError,
    OptionError,
    OtherDagError,
    OtherPythonError,
    OutputNotWrittenError,
    PruneError,
    RemoteTraceback,
    ResultNotKeptError,
    ResultNotLoadableError,
    ResultNotPicklableError,
    ResultNotWrittenError,
    ResultUnavailableError,
    SharedOutputError,
    StoredValueError,
    TaskDefinitionError,
    TaskFailedError,
    TaskNotPicklableError,
    UnguardedRunError,
    UnknownNodeError,
    UnknownOptionError,
    UnknownTaskError,
    UnstableNameError,
    WorkerInitError,
    WorkerLostError,
    WorkerStartError,
)

if TYPE_CHECKING:
    from dagron.callbacks import ExecutionCallbacks, RunningNode, RunObserver, RunSnapshot
    from dagron.checkpoint.writing.pruning import PruneReport
    from dagron.executor import CheckpointExecutor
    from dagron.flow import Flow
    from dagron.graph.dag import DAG, DAGBuilder
    from dagron.looking.checkpoint import Checkpoint, load
    from dagron.looking.status import CheckpointStatus
    from dagron.results.info import CheckpointInfo
    from dagron.results.results import ExecutionResult, NodeResult
    from dagron.results.status import NodeStatus
    from dagron.results.trace import ExecutionTrace, Span
    from dagron.runs.forecast import Forecast
    from dagron.tasks.current import CurrentAttempt, current
    from dagron.tasks.handle import Node
    from dagron.tasks.nodes import Nodes
    from dagron.tasks.options import Task

__version__ = "0.1.0"

__all__ = [
    "DAG",
    "ArgumentsError",
    "Checkpoint",
    "CheckpointDamagedError",
    "CheckpointDirectoryError",
    "CheckpointError",
    "CheckpointExecutor",
    "CheckpointExistsError",
    "CheckpointGoneError",
    "CheckpointInfo",
    "CheckpointLockedError",
    "CheckpointStatus",
    "ClassChangedError",
    "ClearError",
    "CommitError",
    "CurrentAttempt",
    "CycleError",
    "DAGBuilder",
    "DagronError",
    "DuplicateNodeError",
    "ExecutionCallbacks",
    "ExecutionResult",
    "ExecutionTrace",
    "Flow",
    "Forecast",
    "ForeignFilesError",
    "FormatVersionError",
    "GraphError",
    "HandleAttributeError",
    "HandleError",
    "InputNotLoadableError",
    "InternalError",
    "InvalidNameError",
    "MemoryLimitExceededError",
    "MissingInputError",
    "MissingPackageError",
    "MissingTaskError",
    "NoCheckpointError",
    "Node",
    "NodeCancelledError",
    "NodeError",
    "NodeResult",
    "NodeSkippedError",
    "NodeStatus",
    "NodeTimeoutError",
    "Nodes",
    "NodesFailedError",
    "NotCallableError",
    "NotInTaskError",
    "NotLoadableError",
    "NotOneNodeError",
    "NotRunByCallError",
    "OptionError",
    "OtherDagError",
    "OtherPythonError",
    "OutputNotWrittenError",
    "PruneError",
    "PruneReport",
    "RemoteTraceback",
    "ResultNotKeptError",
    "ResultNotLoadableError",
    "ResultNotPicklableError",
    "ResultNotWrittenError",
    "ResultUnavailableError",
    "RunObserver",
    "RunSnapshot",
    "RunningNode",
    "SharedOutputError",
    "Span",
    "StoredValueError",
    "Task",
    "TaskDefinitionError",
    "TaskFailedError",
    "TaskNotPicklableError",
    "UnguardedRunError",
    "UnknownNodeError",
    "UnknownOptionError",
    "UnknownTaskError",
    "UnstableNameError",
    "WorkerInitError",
    "WorkerLostError",
    "WorkerStartError",
    "current",
    "load",
]

# Loaded when they are first named: a worker imports this package too, and needs little of it.
_HOMES = {
    "Checkpoint": "looking.checkpoint",
    "CheckpointExecutor": "executor",
    "CheckpointInfo": "results.info",
    "CheckpointStatus": "looking.status",
    "CurrentAttempt": "tasks.current",
    "DAG": "graph.dag",
    "DAGBuilder": "graph.dag",
    "ExecutionCallbacks": "callbacks",
    "ExecutionResult": "results.results",
    "ExecutionTrace": "results.trace",
    "Flow": "flow",
    "Forecast": "runs.forecast",
    "Node": "tasks.handle",
    "NodeResult": "results.results",
    "NodeStatus": "results.status",
    "Nodes": "tasks.nodes",
    "PruneReport": "checkpoint.writing.pruning",
    "RunObserver": "callbacks",
    "RunSnapshot": "callbacks",
    "RunningNode": "callbacks",
    "Span": "results.trace",
    "Task": "tasks.options",
    "current": "tasks.current",
    "load": "looking.checkpoint",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'dagron' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"dagron.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
