"""What a run gives back: how it and its nodes ended, and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from dagron.errors import (
    CheckpointDamagedError,
    CheckpointError,
    HandleError,
    NodesFailedError,
    NotOneNodeError,
    ResultUnavailableError,
    TaskFailedError,
    UnknownNodeError,
)
from dagron.figures import NO_FIGURES, Figures
from dagron.results.failures import shown_failure
from dagron.results.ignored import Unseen
from dagron.results.reasons import shown_error
from dagron.results.status import NodeStatus
from dagron.shown import text_of
from dagron.tasks.handle import Node

if TYPE_CHECKING:
    import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]

    from dagron.checkpoint.format.records import Failed, Retried
    from dagron.results.trace import ExecutionTrace

__all__ = ["ExecutionResult", "NodeResult", "NodeResults"]


K = TypeVar("K")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


_UNLOADED: Any = object()

_FAILED = (NodeStatus.FAILED, NodeStatus.TIMED_OUT)


@dataclass(slots=True)
class NodeResult(Generic[T_co]):
    """How one node ended; `T_co` is the type of its result.

    Attributes:
        name: The node.
        status: How it ended.
        error: Why it has no result: what its task raised, with the remote traceback as its cause, or a `NodeError`.
        restored: Whether the result was taken from the checkpoint.
        attempts: Attempts in the run that made the result; 0 if it was never attempted.
        result_bytes: Size of the pickled result.
        stored_bytes: What the result takes in the checkpoint; 0 if it is not there.
        slot: The slot that ran it; -1 for none.
        stderr_tail: The last lines that the node wrote to standard error, if it failed.
    """

    name: str
    status: NodeStatus
    error: BaseException | None = None
    restored: bool = False
    attempts: int = 0
    result_bytes: int = 0
    stored_bytes: int = 0
    slot: int = -1
    stderr_tail: str = ""
    _figures: Figures = NO_FIGURES
    _load: Callable[[], Any] | None = field(default=None, repr=False, compare=False)
    _value: Any = field(default=_UNLOADED, repr=False, compare=False)
    _failure: Failed | None = field(default=None, repr=False, compare=False)
    _retried: Callable[[], list[Retried]] | None = field(default=None, repr=False, compare=False)

    def explain(self) -> str:
        """Return a report of how the node ended, for people.

        The report of a failure has the error and the line of your code that raised it; the slot, process, time and
        memory of the last attempt; the inputs by name; the traceback with the frames of libraries folded; and the last
        lines that the node printed. Attempts that failed before the last one follow, as far as the checkpoint has them.
        """
        lines = [self._explained(), *self._earlier_lines()]
        return "\n".join(lines)

    def _explained(self) -> str:
        if self._failure is not None:
            return shown_failure(self._failure)
        if self.error is not None:
            return str(self.error)
        how = "was restored from the checkpoint" if self.restored else f"{self.status.label} in attempt {self.attempts}"
        return f"node {self.name!r} {how}"

    def _earlier_lines(self) -> list[str]:
        if self._retried is None or self.attempts <= 1:
            return []
        from dagron.results.earlier import earlier_attempts, shown_earlier

        try:
            retried = self._retried()
        except CheckpointError:
            return []  # cleared, or superseded by a later run
        return [
            "",
            "attempts before the last one:",
            *(f"    {line}" for line in shown_earlier(earlier_attempts(retried))),
        ]

    @property
    def started_unix(self) -> float:
        """When the last attempt began, in seconds since the epoch; 0.0 if there was none."""
        return self._figures.started_unix

    @property
    def ended_unix(self) -> float:
        """When that attempt ended, in seconds since the epoch; 0.0 if there was none."""
        return self._figures.ended_unix

    @property
    def duration_seconds(self) -> float:
        """How long the last attempt took, with loading its inputs and pickling its result."""
        return self._figures.duration_seconds

    @property
    def cpu_seconds(self) -> float:
        """User and system time of that attempt, with the child processes that it waited for."""
        return self._figures.cpu_seconds

    @property
    def user_seconds(self) -> float:
        """The part of `cpu_seconds` that was not spent in the system."""
        return self._figures.cpu_seconds - self._figures.system_seconds

    @property
    def system_seconds(self) -> float:
        """The part of `cpu_seconds` that was spent in the system."""
        return self._figures.system_seconds

    @property
    def peak_rss_bytes(self) -> int:
        """Peak resident memory of the worker up to the end of that attempt."""
        return self._figures.peak_rss_bytes

    @property
    def result(self) -> T_co:
        """What the task returned; None if it did not complete.

        Loaded from the checkpoint when it is first asked for, and kept. Unpickling runs code that the result names.

        Raises:
            ResultUnavailableError: The checkpoint no longer has it: it was cleared, superseded or damaged. Or, as
                `ResultNotLoadableError`, what it is made of is gone or has changed since: a package, a class of the
                script, the version of Python.
        """
        if self._value is _UNLOADED:
            if self._load is None:
                return None  # type: ignore[return-value]  # ExecutionResult says that it may be None
            try:
                self._value = self._load()
            except CheckpointDamagedError as error:
                reason = f"{error}; was the checkpoint cleared, or written by a later run?"
                raise ResultUnavailableError(self.name, reason) from error
        value: T_co = self._value
        return value

    def _row(self) -> dict[str, Any]:
        """Return what is known of it as `dagron export` has it."""
        from dagron.results.reasons import shown_error
        from dagron.results.tables import NodeFigures

        figures, error = self._figures, ""
        if self._failure is not None:
            error = shown_error(self._failure.type, self._failure.message)
        elif self.status in (NodeStatus.FAILED, NodeStatus.TIMED_OUT):
            error = shown_error(type(self.error).__qualname__, text_of(self.error))
        found = NodeFigures(
            self.name,
            self.status,
            self.attempts,
            self.slot,
            figures.started_unix,
            figures.duration_seconds,
            figures.cpu_seconds,
            figures.peak_rss_bytes,
            self.result_bytes,
            error,
            figures.system_seconds,
            figures.ended_unix,
            self.stored_bytes,
        )
        return found.row()


class NodeResults(Mapping[str, NodeResult[Any]]):
    """The results of all nodes by name, in the order of `dag.nodes`. Made when they are asked for, and then kept."""

    def __init__(
        self,
        names: Mapping[str, int],
        make: Callable[[str, int], NodeResult[Any]],
        unknown: Callable[[str], str] = lambda _: "the run had no such node",
    ) -> None:
        self._names = names
        self._make = make
        self._unknown = unknown
        self._made: dict[str, NodeResult[Any]] = {}

    def __getitem__(self, name: str) -> NodeResult[Any]:
        made = self._made.get(name)
        if made is None:
            index = self._names.get(name)
            if index is None:
                raise UnknownNodeError(name, self._unknown(name))
            made = self._made[name] = self._make(name, index)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"NodeResults({len(self)} nodes)"


_MAX_SHOWN = 5
"""Failed nodes that the text of a result names: it is to fit below a cell and into a log."""


@dataclass(slots=True, repr=False)
class ExecutionResult:
    """How a run ended. `result[node]` is the `NodeResult` of a node, given by its name or by its handle.

    As text it names the nodes that failed, and what to do next. A program that ends without having looked at failures
    is told of them in one line on standard error.

    Attributes:
        node_results: The result of every node.
        succeeded: Nodes that are COMPLETED, the restored ones among them.
        failed: Nodes that are FAILED.
        skipped: Nodes that are SKIPPED.
        timed_out: Nodes that are TIMED_OUT.
        cancelled: Nodes that are CANCELLED.
        restored: Nodes whose result was taken from the checkpoint.
        retries: Attempts that failed and that a further one followed, or was to when the run was cancelled.
        total_duration_seconds: From the call to its end.
        trace: What ran when and where, if `enable_tracing`; else None.
    """

    node_results: Mapping[str, NodeResult[Any]]
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    timed_out: int = 0
    cancelled: int = 0
    restored: int = 0
    retries: int = 0
    total_duration_seconds: float = 0.0
    trace: ExecutionTrace | None = None
    _flow: object = field(default=None, repr=False, compare=False)
    _failures: Callable[[], list[tuple[str, str]]] | None = field(default=None, repr=False, compare=False)
    _unseen: Unseen | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether every node completed."""
        return self.succeeded == len(self.node_results)

    def _look(self) -> None:
        if self._unseen is not None:
            self._unseen.seen()
            self._unseen = None

    # A handle knows the type of the result, but not whether there is one.
    @overload
    def __getitem__(self, node: Node[T]) -> NodeResult[T | None]: ...
    @overload
    def __getitem__(self, node: str) -> NodeResult[Any]: ...
    def __getitem__(self, node: str | Node[Any]) -> NodeResult[Any]:
        found = _nodes_of(self)[self._name_of(node)]
        if found.status in _FAILED:
            self._look()
        return found

    def __contains__(self, node: object) -> bool:
        if isinstance(node, Node):
            return (self._flow is None or node.belongs_to(self._flow)) and node.name in _nodes_of(self)
        return node in _nodes_of(self)

    @overload
    def value(self, node: Node[T]) -> T: ...
    @overload
    def value(self, node: str) -> Any: ...
    def value(self, node: str | Node[Any]) -> Any:
        """Return what the task of a node returned, as `result[node].result` does, or raise why there is nothing.

        Args:
            node: Its handle or its name.

        Raises:
            BaseException: The node's `error`, if it did not complete: what its task raised, or a `NodeError`.
            ResultUnavailableError: It completed, but the checkpoint no longer has its result, or it cannot be loaded.
            UnknownNodeError: The run had no such node.
            NotOneNodeError: `node` is neither a handle nor a name.
            HandleError: The handle is of another flow.
        """
        found = self[node]
        if found.error is not None:
            raise found.error
        return found.result

    @overload
    def values(self, nodes: str) -> dict[str, Any]: ...
    @overload
    def values(self, nodes: Mapping[K, Node[T]]) -> dict[K, T]: ...  # type: ignore[overload-overlap]
    @overload
    def values(self, nodes: Iterable[Node[T]]) -> list[T]: ...
    @overload
    def values(self, nodes: Iterable[Any]) -> list[Any]: ...
    @overload
    def values(self, nodes: Any, *, default: Any) -> Any: ...
    def values(self, nodes: Any, *, default: Any = _UNLOADED) -> Any:
        """Return what the tasks of several nodes returned, in the shape in which the nodes are given.

        Args:
            nodes: A pattern, as for `dagron ls`, gives a dict by name, in the order of the DAG. Handles or names in a
                list or another iterable give a list in its order; as the values of a dict, a dict by its keys. Lists
                and dicts may be nested.
            default: What stands for a result where there is none. Without it, the error is raised that `value` raises.

        Raises:
            BaseException: As for `value`, of the first node that has no result.
            UnknownNodeError: A pattern matches no node.
        """
        from dagron.results.selecting import values_of

        return values_of(nodes, _nodes_of(self), lambda node: self._value_or(node, default))

    def _value_or(self, node: str | Node[Any], default: Any) -> Any:
        if default is not _UNLOADED and self[node].status is not NodeStatus.COMPLETED:
            return default
        return self.value(node)

    def to_dicts(
        self, nodes: str | Iterable[str | Node[Any]] | None = None, *, values: bool = False
    ) -> list[dict[str, Any]]:
        """Return a dict for each node, with the columns of `dagron export`: name, state, attempts, seconds, bytes.

        Args:
            nodes: A pattern, or handles and names; for `Nodes`, each dict begins with the items of its node, which have
                an underscore behind their keyword where that is the name of a column. Default: all nodes.
            values: Whether there is a column `value`, too, with the results; None where there is none.

        Raises:
            UnknownNodeError: The run had no such node.
        """
        from dagron.results.selecting import names_of, with_items
        from dagron.tasks.nodes import Nodes

        found = [self[node] for node in names_of(nodes, _nodes_of(self))]
        rows = [{**node._row(), "value": node.result} if values else node._row() for node in found]
        return with_items(nodes, rows) if isinstance(nodes, Nodes) else rows

    def to_frame(
        self, nodes: str | Iterable[str | Node[Any]] | None = None, *, values: bool = False
    ) -> pandas.DataFrame:
        """Return what `to_dicts` has as a `pandas.DataFrame` by name, with times in the columns `started` and `ended`.

        Args:
            nodes: As for `to_dicts`.
            values: As for `to_dicts`.

        Raises:
            MissingPackageError: There is no pandas.
            UnknownNodeError: The run had no such node.
        """
        from dagron.results.tables import COLUMNS, as_frame

        columns = (*COLUMNS, "value") if values else COLUMNS
        rows = self.to_dicts(nodes, values=values)
        return as_frame(rows, rows[0] if rows else columns, "name")

    def raise_for_failures(self) -> None:
        """Raise one error for all nodes that failed or timed out; do nothing if every node completed.

        Nodes that were skipped are the consequence of others, and are counted only. If a run was cancelled and nothing
        failed, the first cancelled node stands for all.

        Raises:
            NodesFailedError: An `ExceptionGroup` of the errors of the nodes, each with its remote traceback.
        """
        if self.ok:
            return
        __tracebackhide__ = True  # for pytest
        nodes = [node for node in self.node_results.values() if node.status in _FAILED]
        if not nodes:
            nodes = [node for node in self.node_results.values() if node.status is NodeStatus.CANCELLED][:1]
        errors = [_grouped(node) for node in nodes]
        if errors:
            counts = (len(self.node_results), self.skipped, self.cancelled)
            raise NodesFailedError([node.name for node in nodes], errors, *counts) from None

    def _name_of(self, node: str | Node[Any]) -> str:
        if isinstance(node, str):
            return node
        if not isinstance(node, Node):
            raise NotOneNodeError(type(node).__name__)
        if self._flow is not None and not node.belongs_to(self._flow):
            raise HandleError(node.name, "is of another flow than this result")
        return node.name

    def __repr__(self) -> str:
        counts = {
            "succeeded": self.succeeded,
            "restored": self.restored,
            "failed": self.failed,
            "skipped": self.skipped,
            "timed_out": self.timed_out,
            "cancelled": self.cancelled,
            "retries": self.retries,
        }
        shown = ", ".join(f"{name}={n}" for name, n in counts.items() if n or name == "succeeded")
        text = f"ExecutionResult({shown}, total_duration_seconds={self.total_duration_seconds:.3f})"
        failed = self._failed()
        lines = [f"  {name!r} failed: {reason}" for name, reason in failed[:_MAX_SHOWN]]
        return "\n".join([text, *lines, *(f"  {line}" for line in self._next_steps(failed))])

    def _repr_html_(self) -> str:
        from dagron.results.tables import as_html

        failed = self._failed()
        text = repr(self).partition("\n")[0]
        return as_html(text, ("node", "failed with"), failed[:_MAX_SHOWN], "; ".join(self._next_steps(failed)))

    def _failed(self) -> list[tuple[str, str]]:
        """Return the nodes that failed, each with the reason in one line. Unpickles no exception."""
        if not (self.failed or self.timed_out):
            return []
        if self._failures is not None:
            return self._failures()
        failed = [node for node in self.node_results.values() if node.status in _FAILED]
        return [(node.name, shown_error(type(node.error).__qualname__, text_of(node.error))) for node in failed]

    def _next_steps(self, failed: Sequence[tuple[str, str]]) -> list[str]:
        if not failed:
            return []
        more = [f"... and {len(failed) - _MAX_SHOWN} more"] if len(failed) > _MAX_SHOWN else []
        explain = f"print(result[{failed[0][0]!r}].explain()) tells all of it"
        return [*more, f"{explain}; result.raise_for_failures() raises; a resume tries again"]


_nodes_of: Callable[[ExecutionResult], Mapping[str, NodeResult[Any]]] = vars(ExecutionResult)["node_results"].__get__
"""Return the nodes of a result without looking at it, as the class below has it."""


class _Looked:
    """A field of a result that tells of failures: whoever reads it has looked at them."""

    def __init__(self, field: Any) -> None:
        self._field = field
        self.__doc__ = field.__doc__

    def __get__(self, result: ExecutionResult | None, owner: type) -> Any:
        if result is None:
            return self
        result._look()
        return self._field.__get__(result, owner)

    def __set__(self, result: ExecutionResult, value: Any) -> None:
        self._field.__set__(result, value)


for _name in ("node_results", "succeeded", "failed", "timed_out"):
    setattr(ExecutionResult, _name, _Looked(vars(ExecutionResult)[_name]))


def _grouped(node: NodeResult[Any]) -> Exception:
    """Return the error of a node for a group, which takes no `SystemExit` and the like: these would end the program."""
    error = node.error
    if issubclass(type(error), Exception):
        return error  # type: ignore[return-value]
    text = getattr(error.__cause__, "text", "") if error is not None else ""
    stand_in = TaskFailedError(node.name, type(error).__qualname__, text_of(error), text)
    stand_in.__cause__ = error.__cause__ if error is not None else None
    return stand_in
