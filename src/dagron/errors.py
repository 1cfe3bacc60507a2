"""Every error that dagron raises or reports, split by who has to act.

::

    DagronError
    ├── GraphError (ValueError)              the author of the graph
    │   ├── CycleError
    │   ├── DuplicateNodeError
    │   ├── UnknownNodeError (KeyError)
    │   ├── NotOneNodeError (TypeError)
    │   ├── InvalidNameError (TypeError)
    │   └── UnstableNameError
    ├── TaskDefinitionError (ValueError)     the author of the tasks; raised before anything runs
    │   ├── MissingTaskError
    │   ├── UnknownTaskError
    │   ├── NotCallableError (TypeError)
    │   ├── NotRunByCallError (TypeError)
    │   ├── MissingInputError
    │   ├── ArgumentsError (TypeError)
    │   ├── HandleError (TypeError)
    │   │   └── HandleAttributeError (AttributeError)
    │   ├── TaskNotPicklableError
    │   ├── SharedOutputError
    │   └── UnguardedRunError
    ├── OptionError (ValueError)             the caller of the executor
    │   └── UnknownOptionError (TypeError)
    ├── CheckpointError                      the operator of the disk
    │   ├── NoCheckpointError
    │   ├── CheckpointDirectoryError
    │   ├── CheckpointExistsError
    │   ├── CheckpointLockedError
    │   ├── ForeignFilesError
    │   ├── FormatVersionError
    │   ├── CheckpointDamagedError
    │   ├── CommitError
    │   │   └── CheckpointGoneError
    │   ├── ClearError
    │   ├── PruneError
    │   ├── OtherDagError                    whoever prunes: the DAG is another one
    │   └── ResultUnavailableError
    │       ├── ResultNotKeptError           the author of the tasks: has the node keep its result
    │       └── ResultNotLoadableError       the author of the tasks: what the result is made of has changed
    ├── StoredValueError                     the author of the tasks; a result that this script or Python cannot load
    │   ├── ClassChangedError
    │   ├── OtherPythonError
    │   └── NotLoadableError
    ├── NodeError                            how one node ended without a result; found in `NodeResult.error`
    │   ├── TaskFailedError
    │   ├── WorkerLostError
    │   ├── NodeTimeoutError (TimeoutError)
    │   ├── MemoryLimitExceededError
    │   ├── ResultNotPicklableError
    │   ├── ResultNotWrittenError
    │   ├── OutputNotWrittenError
    │   ├── InputNotLoadableError
    │   ├── NodeSkippedError
    │   └── NodeCancelledError
    ├── NodesFailedError (ExceptionGroup)    the author of the tasks; raised by `ExecutionResult.raise_for_failures`
    ├── NotInTaskError (RuntimeError)        the author of the tasks
    ├── MissingPackageError (ImportError)    whoever installs packages
    ├── WorkerStartError                     the operator of the machine
    │   └── WorkerInitError                  the author of the `worker_init`
    └── InternalError                        us: please report it

Every class passes its fields to `super().__init__`, so every error survives pickling with its type, its fields and its
text. This module imports nothing of ours.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

__all__ = [
    "ArgumentsError",
    "CheckpointDamagedError",
    "CheckpointDirectoryError",
    "CheckpointError",
    "CheckpointExistsError",
    "CheckpointGoneError",
    "CheckpointLockedError",
    "ClassChangedError",
    "ClearError",
    "CommitError",
    "CycleError",
    "DagronError",
    "DuplicateNodeError",
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
    "NodeCancelledError",
    "NodeError",
    "NodeSkippedError",
    "NodeTimeoutError",
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
    "RemoteTraceback",
    "ResultNotKeptError",
    "ResultNotLoadableError",
    "ResultNotPicklableError",
    "ResultNotWrittenError",
    "ResultUnavailableError",
    "SharedOutputError",
    "StoredValueError",
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
]

_SHOWN = 8
"""Names that a message lists; the others are counted. Never varied: a longer list is not read."""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


class DagronError(Exception):
    """Base of every error of this package."""


# --- the author of the graph -------------------------------------------------------------------------------------


class GraphError(DagronError, ValueError):
    """The graph itself is wrong. Change the nodes or the edges."""


class CycleError(GraphError):
    """The edges form a cycle. Remove one of the edges on `path`.

    Attributes:
        path: The names along the cycle; the first stands again at the end.
    """

    def __init__(self, path: Sequence[str]) -> None:
        super().__init__(path)
        self.path = list(path)

    def __str__(self) -> str:
        shown = [repr(name) for name in self.path]
        if len(shown) > 2 * _SHOWN:
            shown = [*shown[:_SHOWN], f"... {len(shown) - 2 * _SHOWN} more ...", *shown[-_SHOWN:]]
        return f"the graph has a cycle: {' -> '.join(shown)}; remove one of these edges"


class DuplicateNodeError(GraphError):
    """A node was added twice. Give each node a name of its own."""

    def __init__(self, name: str, reason: str = "every node needs a name of its own") -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"node {self.name!r} was added twice; {self.reason}"


class UnknownNodeError(GraphError, KeyError):
    """A name was used that no node has. Check its spelling, or add the node."""

    def __init__(self, name: str, context: str = "the graph has no such node") -> None:
        super().__init__(name, context)
        self.name = name
        self.context = context

    def __str__(self) -> str:
        return f"unknown node {self.name!r}: {self.context}"


class NotOneNodeError(GraphError, TypeError):
    """What is asked for is no node: neither its handle nor its name."""

    def __init__(self, type_name: str) -> None:
        super().__init__(type_name)
        self.type_name = type_name

    def __str__(self) -> str:
        return (
            f"a {self.type_name} is not one node, which is a handle or a name; "
            "result.values(nodes) has those of several"
        )


class InvalidNameError(GraphError, TypeError):
    """A node's name is no string. Names are of type `str`; any string will do."""

    def __init__(self, shown: str, type_name: str) -> None:
        super().__init__(shown, type_name)
        self.shown = shown
        self.type_name = type_name

    def __str__(self) -> str:
        return f"a node's name must be a str, not {self.type_name}: {self.shown}"


class UnstableNameError(GraphError):
    """A node's name would be another one in the next run, so that a resume would not find its result."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"the name {self.name!r} would not be the same in the next run: {self.reason}"


# --- the author of the tasks -------------------------------------------------------------------------------------


class TaskDefinitionError(DagronError, ValueError):
    """The tasks do not fit the graph. Raised before anything runs."""


class MissingTaskError(TaskDefinitionError):
    """`tasks` lacks nodes of the DAG. It must name every node, also on `resume`."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.names = list(names)

    def __str__(self) -> str:
        return f"no task for {len(self.names)} node(s): {_listed(self.names)}; `tasks` must name every node of the DAG"


class UnknownTaskError(TaskDefinitionError):
    """`tasks` names nodes that the DAG does not have."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.names = list(names)

    def __str__(self) -> str:
        return f"{len(self.names)} task(s) for nodes that the DAG does not have: {_listed(self.names)}"


class NotCallableError(TaskDefinitionError, TypeError):
    """A task is not callable. Pass a function, or a `Task` around one."""

    def __init__(self, node: str, type_name: str) -> None:
        super().__init__(node, type_name)
        self.node = node
        self.type_name = type_name

    def __str__(self) -> str:
        return f"the task of node {self.node!r} is not callable: it is a {self.type_name}"


class NotRunByCallError(TaskDefinitionError, TypeError):
    """A task is a coroutine function or a generator function: calling it runs nothing."""

    def __init__(self, node: str, kind: str) -> None:
        super().__init__(node, kind)
        self.node = node
        self.kind = kind

    def __str__(self) -> str:
        what = "an `async def`" if "async" in self.kind or "coroutine" in self.kind else "a generator function"
        article = "an" if self.kind.startswith("a") else "a"
        how = "returns asyncio.run(...)" if what == "an `async def`" else "returns a list of what it yields"
        return (
            f"the task of node {self.node!r} is {what}: a call of it runs nothing, it returns {article} {self.kind}; "
            f"make the task a plain function that {how}"
        )


class MissingInputError(TaskDefinitionError):
    """A task requires a parameter that no parent provides. Add the edge, or give the parameter a default."""

    def __init__(self, node: str, parameter: str, parents: Sequence[str], is_node: bool = False) -> None:
        super().__init__(node, parameter, parents, is_node)
        self.node = node
        self.parameter = parameter
        self.parents = list(parents)
        self.is_node = is_node

    def __str__(self) -> str:
        parents = f"its parents are {_listed(self.parents)}" if self.parents else "it has no parents"
        if self.is_node:
            advice = f"add the edge {self.parameter!r} -> {self.node!r}"
        else:
            advice = "name the parameter after a parent, or give it a default"
        return f"the task of node {self.node!r} requires the parameter {self.parameter!r}, but {parents}; {advice}"


class ArgumentsError(TaskDefinitionError, TypeError):
    """The arguments of a node do not fit its callable."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(node, reason)
        self.node = node
        self.reason = reason

    def __str__(self) -> str:
        return f"the arguments of node {self.node!r} do not fit its callable: {self.reason}"


class HandleError(TaskDefinitionError, TypeError):
    """The handle of a node was used where its result cannot take its place. Give it to a node as an argument.

    Attributes:
        node: The node that the handle stands for.
        reason: What is wrong with its use; where a task holds the handle, at what place in the task.
        held_by: The node whose task holds the handle; None if it was met elsewhere.
    """

    def __init__(self, node: str, reason: str, held_by: str | None = None) -> None:
        super().__init__(node, reason, held_by)
        self.node = node
        self.reason = reason
        self.held_by = held_by

    def __str__(self) -> str:
        where = f"stands in the task of node {self.held_by!r} " if self.held_by is not None else ""
        return f"the handle of node {self.node!r} {where}{self.reason}"


class HandleAttributeError(HandleError, AttributeError):
    """An attribute of a result was asked for on the handle that stands for the result."""


class TaskNotPicklableError(TaskDefinitionError):
    """A task cannot be sent to a worker. Create what cannot be pickled inside the task instead.

    Attributes:
        node: The node.
        path: Where the culprit hangs, from the task on, such as `closure 'connect' -> attribute '_lock'`.
        reason: What the pickler said.
    """

    def __init__(self, node: str, path: str, reason: str) -> None:
        super().__init__(node, path, reason)
        self.node = node
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        return (
            f"the task of node {self.node!r} cannot be pickled{where}: {self.reason}; "
            "create that object inside the task, or pass what it is made from"
        )


class SharedOutputError(TaskDefinitionError):
    """Two nodes have one file among their `outputs`, so neither could be told what has become of it."""

    def __init__(self, node: str, other: str, path: str) -> None:
        super().__init__(node, other, path)
        self.node = node
        self.other = other
        self.path = path

    def __str__(self) -> str:
        return f"nodes {self.node!r} and {self.other!r} have the same output {self.path!r}; give each a file of its own"


class UnguardedRunError(TaskDefinitionError):
    """A module or a script begins a run while somebody only loads it, and what is to be loaded is not clear from that.

    Attributes:
        where: What begins the run.
    """

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where

    def __str__(self) -> str:
        return (
            f"{self.where} begins a run while it is only loaded; put what begins it under "
            "`if __name__ == '__main__':`, and leave what makes the flow outside of that"
        )


class OptionError(DagronError, ValueError):
    """An option has a value that it cannot have."""

    def __init__(self, option: str, shown: str, expected: str) -> None:
        super().__init__(option, shown, expected)
        self.option = option
        self.shown = shown
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.option}={self.shown} is not valid: expected {self.expected}"


class UnknownOptionError(OptionError, TypeError):
    """There is no option of this name.

    Attributes:
        option: The name.
        taker: What was given it, such as `CheckpointExecutor`.
        known: The options of it that may have been meant; empty if none is like it.
    """

    def __init__(self, option: str, taker: str, known: Sequence[str] = ()) -> None:
        DagronError.__init__(self, option, taker, known)
        self.option = option
        self.taker = taker
        self.known = known

    def __str__(self) -> str:
        meant = f"; did you mean {' or '.join(f'{name}=' for name in self.known)}?" if self.known else ""
        return f"{self.taker} has no option {self.option}={meant or '; dagron.CheckpointExecutor explains all of them'}"


# --- the operator of the disk ------------------------------------------------------------------------------------


class CheckpointError(DagronError):
    """Something about the checkpoint directory needs a decision or a repair."""


class NoCheckpointError(CheckpointError):
    """There is no checkpoint in the directory. Check the path; a run makes one.

    Attributes:
        checkpoint_dir: The directory, absolute.
        others: Checkpoints that are near it.
    """

    def __init__(self, checkpoint_dir: str, others: Sequence[str] = ()) -> None:
        super().__init__(checkpoint_dir, others)
        self.checkpoint_dir = checkpoint_dir
        self.others = others

    def __str__(self) -> str:
        near = f"; there is one in {', '.join(map(repr, self.others[:4]))}" if self.others else ""
        return f"there is no checkpoint in {self.checkpoint_dir!r}{near}"


class CheckpointDirectoryError(CheckpointError):
    """The checkpoint directory cannot be used as it is. Nothing in it was changed."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot use {self.path!r} as a checkpoint directory: {self.reason}"


class CheckpointExistsError(CheckpointError):
    """There is a checkpoint, and the caller has not said whether to go on from it or to give it up."""

    def __init__(self, path: str, n_completed: int) -> None:
        super().__init__(path, n_completed)
        self.path = path
        self.n_completed = n_completed

    def __str__(self) -> str:
        return (
            f"{self.path!r} holds a checkpoint with {self.n_completed} completed node(s); nothing was run; "
            "pass resume=True to go on from it, or resume=False to give it up and start again"
        )


class CheckpointLockedError(CheckpointError):
    """Another run is writing this checkpoint. Wait for it, stop it, or use another directory."""

    def __init__(self, path: str, pid: int | None = None, host: str | None = None, since: str | None = None) -> None:
        super().__init__(path, pid, host, since)
        self.path = path
        self.pid = pid
        self.host = host
        self.since = since

    def __str__(self) -> str:
        holder = "another run" if self.pid is None else f"process {self.pid} on {self.host}, since {self.since}"
        return f"the checkpoint {self.path!r} is held by {holder}; a checkpoint has one writer at a time"


class ForeignFilesError(CheckpointError):
    """The directory holds `.pkl` files that belong to no checkpoint, or not to this one where a node would write."""

    def __init__(self, path: str, names: Sequence[str]) -> None:
        super().__init__(path, names)
        self.path = path
        self.names = list(names)

    def __str__(self) -> str:
        return (
            f"{self.path!r} holds {len(self.names)} .pkl file(s) that belong to no checkpoint ({_listed(self.names)}); "
            "nothing was changed; move them away, or use an empty directory"
        )


class FormatVersionError(CheckpointError):
    """The checkpoint has a format that this dagron does not read: nothing of it was believed, unpickled or changed.

    A newer dagron has written it, which means to upgrade; or an older one, whose version 0 is from before the first.
    """

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(path, found, known)
        self.path = path
        self.found = found
        self.known = known

    def __str__(self) -> str:
        cure = "upgrade dagron" if self.found > self.known else "go on with the older dagron that wrote it"
        return (
            f"{self.path!r} has checkpoint format {self.found}, but this dagron reads format {self.known} only; "
            f"nothing was changed; {cure}, or use another directory"
        )


class CheckpointDamagedError(CheckpointError):
    """Bytes of the checkpoint are not what was written."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(path, offset, reason)
        self.path = path
        self.offset = offset
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path!r} is damaged at byte {self.offset}: {self.reason}"


class CommitError(CheckpointError):
    """The disk refused a write. What was committed before is intact; `resume` goes on from there."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"could not write to the checkpoint {self.path!r}: {self.reason}; "
            "the run was stopped, everything committed before is intact, and resume() goes on from there"
        )


class CheckpointGoneError(CommitError):
    """The directory or its journal was removed or replaced while a run wrote to it: no resume finds what comes next."""

    def __str__(self) -> str:
        return (
            f"could not write to the checkpoint {self.path!r}: {self.reason}; "
            "the run was stopped, and what it had committed is where that has gone; put it back and resume() goes on "
            "from there, or start again"
        )


class ClearError(CheckpointError):
    """The disk refused the deletion of a checkpoint. The text says what is left of it."""

    def __init__(self, path: str, reason: str, left: str) -> None:
        super().__init__(path, reason, left)
        self.path = path
        self.reason = reason
        self.left = left

    def __str__(self) -> str:
        return f"could not clear the checkpoint {self.path!r}: {self.reason}; {self.left}"


class PruneError(CheckpointError):
    """The disk refused the pruning of a checkpoint. The text says how the checkpoint stands."""

    def __init__(self, path: str, reason: str, left: str) -> None:
        super().__init__(path, reason, left)
        self.path = path
        self.reason = reason
        self.left = left

    def __str__(self) -> str:
        return f"could not prune the checkpoint {self.path!r}: {self.reason}; {self.left}"


class OtherDagError(CheckpointError):
    """A pruning would drop all that a checkpoint has, as its DAG has none of the nodes. Nothing was dropped.

    Attributes:
        path: The checkpoint.
        nodes: The nodes that it knows.
    """

    def __init__(self, path: str, nodes: Sequence[str]) -> None:
        super().__init__(path, nodes)
        self.path = path
        self.nodes = list(nodes)

    def __str__(self) -> str:
        return (
            f"the DAG has none of the {len(self.nodes)} node(s) of the checkpoint {self.path!r} "
            f"({_listed(self.nodes)}), so it may be that of another job; nothing was dropped; pass even_all=True "
            "(--even-all) to drop them all"
        )


class ResultUnavailableError(CheckpointError):
    """A result was asked for that is no longer there."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(node, reason)
        self.node = node
        self.reason = reason

    def __str__(self) -> str:
        return f"the result of node {self.node!r} is not available: {self.reason}"


class ResultNotKeptError(ResultUnavailableError):
    """The result was not to be kept, and was deleted when all that take it were recorded; `keep=True` makes it again.

    Attributes:
        checkpoint_dir: The checkpoint, absolute.
    """

    reason = "it was not kept"

    def __init__(self, node: str, checkpoint_dir: str) -> None:
        DagronError.__init__(self, node, checkpoint_dir)
        self.node = node
        self.checkpoint_dir = checkpoint_dir

    def __str__(self) -> str:
        return (
            f"the result of node {self.node!r} was not kept: it was deleted from {self.checkpoint_dir!r} when all that "
            "take it were recorded; give the node keep=True and resume, and it is made again"
        )


class ResultNotLoadableError(ResultUnavailableError):
    """The bytes of a result are those that were recorded, and cannot be unpickled here and now.

    What the result is made of is gone, was renamed, or is of another version. Put it back, or invalidate the node.

    Attributes:
        node: The node that made the result.
        reason: What the attempt to load it raised.
        modules: What may have changed: modules that the result names.
        checkpoint_dir: The checkpoint, absolute.
    """

    def __init__(self, node: str, reason: str, modules: Sequence[str], checkpoint_dir: str) -> None:
        DagronError.__init__(self, node, reason, modules, checkpoint_dir)
        self.node = node
        self.reason = reason
        self.modules = list(modules)
        self.checkpoint_dir = checkpoint_dir

    def __str__(self) -> str:
        why = _not_loadable(self.node, self.reason, self.modules, self.checkpoint_dir)
        return f"the result of node {self.node!r} {why}"


def _not_loadable(node: str, reason: str, modules: Sequence[str], checkpoint_dir: str) -> str:
    import shlex  # costs as much as the rest of this module

    what = f"put back the {_listed(modules)} with which it was made" if modules else "put back what it was made with"
    words = ["dagron", "invalidate", checkpoint_dir, *(["--"] if node.startswith("-") else []), node]
    return f"cannot be loaded: {reason}; {what}, or have the next resume make it again: {shlex.join(words)}"


# --- what a stored value means -------------------------------------------------------------------------------------


class StoredValueError(DagronError):
    """A stored value means nothing here. Invalidate the node that made it, so that it is made again."""


class ClassChangedError(StoredValueError):
    """Something of the script is no longer what it was when a value was stored.

    Attributes:
        path: Its name in the script.
        difference: What is different now.
    """

    def __init__(self, path: str, difference: str) -> None:
        super().__init__(path, difference)
        self.path = path
        self.difference = difference

    def __str__(self) -> str:
        return f"{self.path!r} of the script is not what it was when this value was stored: {self.difference}"


class OtherPythonError(StoredValueError):
    """A value holds code of another version of Python, which this one must not run.

    Attributes:
        stored: That version.
        found: The version that runs.
    """

    def __init__(self, stored: str, found: str) -> None:
        super().__init__(stored, found)
        self.stored = stored
        self.found = found

    def __str__(self) -> str:
        return (
            f"this value holds code of {self.stored}, which {self.found} cannot run; read it with {self.stored}, "
            "or have the node that made it run again"
        )


class NotLoadableError(StoredValueError):
    """A value cannot be made of its pickle. Whoever loads the result of a node says which node that is.

    Attributes:
        reason: The type and the text of what was raised.
        modules: Modules that the pickle names and that may be why, the likeliest first.
    """

    def __init__(self, reason: str, modules: Sequence[str] = ()) -> None:
        super().__init__(reason, modules)
        self.reason = reason
        self.modules = list(modules)

    def __str__(self) -> str:
        return f"this value cannot be loaded: {self.reason}"


# --- how a node ended without a result -----------------------------------------------------------------------------


class NodeError(DagronError):
    """A node has no result. Found in `NodeResult.error`; never raised by `execute`."""


class TaskFailedError(NodeError):
    """Stands in for an exception that could not be pickled or unpickled; carries its text."""

    def __init__(self, node: str, type_name: str, message: str, traceback_text: str = "") -> None:
        super().__init__(node, type_name, message, traceback_text)
        self.node = node
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return f"the task of node {self.node!r} raised {self.type_name}: {self.message}"


LAST_LINES = "; the last lines that it wrote to stderr:\n"
"""What stands in the text of a `WorkerLostError` before the end of what its worker wrote."""


def _mib(n: int) -> str:
    return f"{n / 2**20:.0f} MiB"


def _indented(text: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in text.splitlines(keepends=True))


def exit_text(exit_code: int | None) -> str:
    """Return how a process ended, for a sentence about it."""
    if exit_code is None:
        return "vanished"
    if exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = "unknown signal"
        return f"was killed by signal {-exit_code} ({name})"
    return f"exited with code {exit_code}"


def _while_loading(parent: str) -> str:
    return f" while it unpickled the result of {parent!r}" if parent else ""


class WorkerLostError(NodeError):
    """The worker died while it ran this node. Only this attempt was lost.

    Attributes:
        node: The node.
        attempt: Which attempt of it.
        exit_code: As in `multiprocessing`: negative for a signal; None if unknown.
        peak_rss_bytes: Peak resident memory of the worker; None if unknown.
        stderr_tail: The last lines that the node wrote to standard error.
        loading: The parent whose result was being unpickled; empty if none was.
    """

    def __init__(
        self,
        node: str,
        attempt: int,
        exit_code: int | None,
        peak_rss_bytes: int | None = None,
        stderr_tail: str = "",
        loading: str = "",
    ) -> None:
        super().__init__(node, attempt, exit_code, peak_rss_bytes, stderr_tail, loading)
        self.node = node
        self.attempt = attempt
        self.exit_code = exit_code
        self.peak_rss_bytes = peak_rss_bytes
        self.stderr_tail = stderr_tail
        self.loading = loading

    def __str__(self) -> str:
        peak = "" if self.peak_rss_bytes is None else f"; its peak memory was {_mib(self.peak_rss_bytes)}"
        hint = "; the machine may have run out of memory" if self.exit_code == -9 else ""
        how = f"{exit_text(self.exit_code)} in attempt {self.attempt}{_while_loading(self.loading)}"
        text = f"the worker of node {self.node!r} {how}{peak}{hint}"
        if self.stderr_tail:
            text += LAST_LINES + _indented(self.stderr_tail)
        return text


class NodeTimeoutError(NodeError, TimeoutError):
    """The node ran longer than it may; its process tree was killed.

    Attributes:
        node: The node.
        attempt: Which attempt of it.
        timeout_seconds: Its timeout.
        loading: The parent whose result was being unpickled; empty if none was.
    """

    def __init__(self, node: str, attempt: int, timeout_seconds: float, loading: str = "") -> None:
        super().__init__(node, attempt, timeout_seconds, loading)
        self.node = node
        self.attempt = attempt
        self.timeout_seconds = timeout_seconds
        self.loading = loading

    def __str__(self) -> str:
        how = (
            f"ran longer than {str(self.timeout_seconds).removesuffix('.0')} s in attempt {self.attempt} and was killed"
        )
        return f"node {self.node!r} {how}{_while_loading(self.loading)}"


class MemoryLimitExceededError(NodeError):
    """The worker of a node, with all that the node started, had more memory than it may; it was killed.

    Attributes:
        node: The node.
        attempt: Which attempt of it.
        limit_bytes: What it may have.
        memory_bytes: What it had when it was looked at last.
        limit: The limit as it was given.
        memory: What it had, in the unit of the limit.
    """

    def __init__(
        self, node: str, attempt: int, limit_bytes: int, memory_bytes: int, limit: str = "", memory: str = ""
    ) -> None:
        super().__init__(node, attempt, limit_bytes, memory_bytes, limit, memory)
        self.node = node
        self.attempt = attempt
        self.limit_bytes = limit_bytes
        self.memory_bytes = memory_bytes
        self.limit = limit
        self.memory = memory

    def __str__(self) -> str:
        return (
            f"the worker of node {self.node!r} had {self.memory or _mib(self.memory_bytes)} of memory in attempt "
            f"{self.attempt}, more than its limit of {self.limit or _mib(self.limit_bytes)}, and was killed"
        )


class ResultNotPicklableError(NodeError):
    """The task ran, but what it returned cannot be pickled. Return plain data instead."""

    def __init__(self, node: str, path: str, reason: str) -> None:
        super().__init__(node, path, reason)
        self.node = node
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        return f"the result of node {self.node!r} cannot be pickled{where}: {self.reason}"


class ResultNotWrittenError(NodeError):
    """The worker could not write the result to the checkpoint, although others can: its process was at fault.

    Attributes:
        node: The node.
        reason: What the system said.
        errno: Its number.
        n_bytes: Bytes that the result had at least.
        damage: What the task has done to its process, as far as that was found.
    """

    def __init__(self, node: str, reason: str, errno: int, n_bytes: int, damage: str = "") -> None:
        super().__init__(node, reason, errno, n_bytes, damage)
        self.node = node
        self.reason = reason
        self.errno = errno
        self.n_bytes = n_bytes
        self.damage = damage

    def __str__(self) -> str:
        damage = f"; what its task did to the process: {self.damage}" if self.damage else ""
        return f"the worker of node {self.node!r} could not write the result: {self.reason}{damage}"


class OutputNotWrittenError(NodeError):
    """The task returned, and a file that its node has among its `outputs` was not written.

    Attributes:
        node: The node.
        path: The file, absolute.
        reason: What is wrong with the file.
    """

    def __init__(self, node: str, path: str, reason: str) -> None:
        super().__init__(node, path, reason)
        self.node = node
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"the task of node {self.node!r} did not write its output {self.path!r}: {self.reason}"


class InputNotLoadableError(NodeError):
    """The task was not called, because the result of a parent that it takes cannot be unpickled; see the parent.

    Attributes:
        node: The node that takes the result; nothing is wrong with it.
        parent: The node that made the result.
        reason: What the attempt to load it raised.
        modules: As of `ResultNotLoadableError`.
        checkpoint_dir: As of `ResultNotLoadableError`.
    """

    def __init__(self, node: str, parent: str, reason: str, modules: Sequence[str], checkpoint_dir: str) -> None:
        super().__init__(node, parent, reason, modules, checkpoint_dir)
        self.node = node
        self.parent = parent
        self.reason = reason
        self.modules = list(modules)
        self.checkpoint_dir = checkpoint_dir

    def __str__(self) -> str:
        why = _not_loadable(self.parent, self.reason, self.modules, self.checkpoint_dir)
        return f"the task of node {self.node!r} was not called, as the result of its parent {self.parent!r} {why}"


class NodeSkippedError(NodeError):
    """The node was not attempted because a node that it depends on has no result."""

    def __init__(self, node: str, cause: str) -> None:
        super().__init__(node, cause)
        self.node = node
        self.cause = cause

    def __str__(self) -> str:
        return f"node {self.node!r} was skipped because {self.cause!r} did not complete"


class NodeCancelledError(NodeError):
    """The run ended before this node did; `resume` runs it."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(node, reason)
        self.node = node
        self.reason = reason

    def __str__(self) -> str:
        return f"node {self.node!r} was cancelled: {self.reason}"


class NodesFailedError(DagronError, ExceptionGroup[Exception]):
    """Nodes have no result. A group of their errors: `except*` takes those of one type out of it.

    Attributes:
        nodes: The names of the nodes; `exceptions` has their errors in the same order.
        n_nodes: Nodes of the run.
        n_skipped: Nodes that were skipped.
        n_cancelled: Nodes that were cancelled.
    """

    def __new__(
        cls,
        nodes: Sequence[str],
        exceptions: Sequence[Exception],
        n_nodes: int = 0,
        n_skipped: int = 0,
        n_cancelled: int = 0,
    ) -> NodesFailedError:
        """Make the group; its constructor takes its text and the exceptions and nothing else."""
        of = f" of {n_nodes}" if n_nodes else ""
        counts = ((n_skipped, "skipped"), (n_cancelled, "cancelled"))
        more = "".join(f", {n} {word}" for n, word in counts if n)
        text = f"{len(nodes)}{of} node(s) without a result: {_listed(nodes)}{more}"
        return super().__new__(cls, text, exceptions)

    def __init__(
        self,
        nodes: Sequence[str],
        exceptions: Sequence[Exception],
        n_nodes: int = 0,
        n_skipped: int = 0,
        n_cancelled: int = 0,
    ) -> None:
        super().__init__(nodes, exceptions, n_nodes, n_skipped, n_cancelled)  # type: ignore[call-arg, arg-type]
        self.nodes = list(nodes)
        self.n_nodes = n_nodes
        self.n_skipped = n_skipped
        self.n_cancelled = n_cancelled

    def __str__(self) -> str:
        return self.message

    def derive(self, excs: Sequence[Exception]) -> ExceptionGroup[Exception]:  # type: ignore[override]
        """Return a group of some of these errors, as `except*` and `split` make it."""
        names = {id(error): name for name, error in zip(self.nodes, self.exceptions, strict=True)}
        nodes = [names.get(id(error), "") for error in excs]
        return NodesFailedError(nodes, excs, self.n_nodes, self.n_skipped, self.n_cancelled)


class NotInTaskError(DagronError, RuntimeError):
    """`dagron.current()` was called where no task runs.

    Attributes:
        n_running: How many attempts are made in this process, in other threads.
    """

    def __init__(self, n_running: int) -> None:
        super().__init__(n_running)
        self.n_running = n_running

    def __str__(self) -> str:
        if self.n_running:
            return (
                f"dagron.current(): {self.n_running} tasks run in threads of this process, and this is none of these "
                "threads; call it in the task, and pass on what it returns"
            )
        return (
            "dagron.current() tells a task of itself, and no task runs in this process; where a task has started the "
            "process, pass on what dagron.current() returns in the task"
        )


class MissingPackageError(DagronError, ImportError):
    """Something was asked for that needs a package which is not installed.

    Attributes:
        what: What was asked for.
        package: What to install.
        instead: What does without it.
    """

    def __init__(self, what: str, package: str, instead: str) -> None:
        super().__init__(what, package, instead)
        self.what = what
        self.package = package
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.what} needs {self.package}, which is not installed: pip install {self.package}; {self.instead}"


class WorkerStartError(DagronError):
    """No worker process could be started on this machine."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"could not start a worker process: {self.reason}"


class WorkerInitError(WorkerStartError):
    """The `worker_init` of the run failed. The run has ended, no node is blamed, and what was recorded is kept.

    Attributes:
        reason: What it raised, as text; the last lines that the worker wrote if it ended.
        exit_code: How the worker ended, as in `multiprocessing`, if that is how it failed; None if it raised.
        traceback_text: The traceback, if it raised.
    """

    def __init__(self, reason: str, exit_code: int | None = None, traceback_text: str = "") -> None:
        DagronError.__init__(self, reason, exit_code, traceback_text)
        self.reason = reason
        self.exit_code = exit_code
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        if self.exit_code is None:
            return f"worker_init failed: {self.reason}"
        hint = "; the machine may have run out of memory" if self.exit_code == -9 else ""
        text = f"worker_init failed: its worker {exit_text(self.exit_code)}{hint}"
        if self.reason:
            text += "; the last lines that it wrote to stderr:\n" + _indented(self.reason)
        return text


class InternalError(DagronError):
    """An invariant of dagron itself is broken. Please report it with this text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"internal error, please report it: {self.text}"


class RemoteTraceback(Exception):
    """The traceback of an exception as text; set as `__cause__` of what came from a worker."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'
