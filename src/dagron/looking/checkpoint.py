"""`load`: the results of a checkpoint, for whoever has nothing to run, or not even the script."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar, final, overload

from dagron.checkpoint.blobs import load_result
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.reading.opening import retried_of
from dagron.checkpoint.reading.opening import signing_key as key_of_environment
from dagron.checkpoint.writing.claim import check_trust
from dagron.crossing.loading import load_result_of
from dagron.errors import (
    CheckpointDamagedError,
    NodeError,
    OptionError,
    RemoteTraceback,
    ResultNotKeptError,
    ResultUnavailableError,
    TaskFailedError,
    UnknownNodeError,
)
from dagron.figures import Figures
from dagron.looking.nodes import node_figures, running_now
from dagron.looking.opening import directory_of, found_ledger, recorded_dag
from dagron.results.ignored import superseded
from dagron.results.patterns import hint_at, matching
from dagron.results.results import NodeResult, NodeResults
from dagron.results.status import NodeStatus
from dagron.results.tables import COLUMNS, NodeFigures, as_frame, as_html
from dagron.shown import shown_bytes, shown_seconds
from dagron.tasks.handle import Node

if TYPE_CHECKING:
    import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]

    from dagron.checkpoint.format.records import Failed

__all__ = ["Checkpoint", "load"]

T = TypeVar("T")

_MAX_ROWS = 20
"""Nodes that a notebook shows: about a screen. `to_frame` has all."""


def load(
    checkpoint_dir: str | os.PathLike[str], *, signing_key: bytes | None = None, allow_untrusted: bool = False
) -> Checkpoint:
    """Open a checkpoint to read its results. Nothing is run, locked or changed, and no script is needed.

    What is returned is the checkpoint as it is now; a run may go on in it meanwhile. Results are not loaded before they
    are asked for.

    Args:
        checkpoint_dir: The directory of the checkpoint.
        signing_key: As of `CheckpointExecutor`; a checkpoint that was made with a key is read with that key alone.
        allow_untrusted: Accept a checkpoint that another user owns or that everyone may write.

    Raises:
        NoCheckpointError: There is none.
        CheckpointDirectoryError: It cannot be read, or is not to be trusted: loading its results runs code that they
            name.
        CheckpointDamagedError: Its journal is missing or its beginning is damaged, or the key is another one.
        FormatVersionError: It has another version than ours.
        OptionError: `signing_key` is no key.
    """
    if signing_key is not None and not (isinstance(signing_key, bytes) and signing_key):
        raise OptionError("signing_key", "...", "bytes, at least one")
    return Checkpoint(_Seen(checkpoint_dir, signing_key or key_of_environment(), allow_untrusted=allow_untrusted))


class _Seen:
    """A checkpoint as it was at a moment.

    Attributes:
        shown: The directory, as it was given.
        names: The nodes, in the order of the DAG; if that is not recorded, in the order of their last records.
    """

    def __init__(self, checkpoint_dir: str | os.PathLike[str], key: bytes | None, *, allow_untrusted: bool) -> None:
        self.shown = os.fspath(checkpoint_dir)
        self._directory = directory_of(checkpoint_dir)
        check_trust(self._directory, allow_untrusted=allow_untrusted)
        self._digests = Digests(key)
        self._ledger = found_ledger(checkpoint_dir, key)
        self._running = running_now(self._directory, self._ledger, key)  # brings the ledger up to date
        self._at = time.time()
        self._dag = recorded_dag(self._ledger)
        self.names: Sequence[str] = self._dag.nodes if self._dag is not None else list(self.figures)

    @cached_property
    def figures(self) -> dict[str, NodeFigures]:
        """The figures of every node. Whoever sees them sees what failed."""
        superseded(self._directory.path)
        return {found.name: found for found in node_figures(self._ledger, self._dag, self._running, self._at)}

    def has_result(self, name: str) -> bool:
        return name in self._ledger.commits

    def is_completed(self, name: str) -> bool:
        return self._ledger.completed_commit(name) is not None

    def is_known(self, name: str) -> bool:
        return name in (self.figures if self._dag is None else self._dag)

    def value_of(self, name: str) -> Any:
        if name in self._ledger.dropped:
            raise ResultNotKeptError(name, str(self._directory.path))
        commit = self._ledger.commits[name]
        try:
            data = load_result(self._directory, commit, self._digests)
        except CheckpointDamagedError as error:
            reason = f"{error}; was the checkpoint cleared, or has a later run replaced it? load the checkpoint again"
            raise ResultUnavailableError(name, reason) from error
        return load_result_of(name, data, str(self._directory.path))

    def node(self, name: str) -> NodeResult[Any]:
        found = self.figures[name]
        result: NodeResult[Any] = NodeResult(
            name,
            found.state,
            attempts=found.attempts,
            result_bytes=found.result_bytes,
            stored_bytes=found.stored_bytes,
            slot=found.slot,
        )
        result._figures = Figures(
            found.started_unix,
            found.duration_seconds,
            found.cpu_seconds,
            found.system_seconds,
            found.peak_rss_bytes,
        )
        if found.state is NodeStatus.COMPLETED:
            result._load = partial(self.value_of, name)
        elif (failure := self._ledger.failures.get(name)) is not None and found.state is not NodeStatus.RUNNING:
            result.error = _error_of(failure)
            result.stderr_tail = failure.output.stderr
            result._failure = failure
        else:
            result.error = ResultUnavailableError(name, f"it is {found.state.label}: {found.state.meaning}")
        if found.attempts > 1:
            result._retried = partial(retried_of, self._ledger, self._directory, name, self._digests)
        return result


def _error_of(failure: Failed) -> NodeError:
    """Return the error of a node. A checkpoint has the text of an exception alone."""
    if failure.outcome != "raised":
        return NodeError(failure.message or failure.error)
    error = TaskFailedError(failure.name, failure.type, failure.message, failure.traceback)
    if failure.traceback:
        error.__cause__ = RemoteTraceback(failure.traceback)
    return error


@final
class Checkpoint(Mapping[str, Any]):
    """The results of a checkpoint by node, as `load` has found them. Iteration is over the nodes that have a result.

    `checkpoint["total"]` is what the task of the node returned. It is loaded each time, and not kept. A handle does as
    well as a name. A pattern (`*` for any text, `?` for any character, as for `dagron ls`) gives those that match: a
    part of the checkpoint with the same methods. Size and digest of a result are compared before it is unpickled, which
    runs code that it names. Classes of the script are those of this program, where it defines them; elsewhere something
    stands for an instance that shows what is in it.

    Attributes:
        checkpoint_dir: The directory, as it was given.
    """

    def __init__(self, seen: _Seen, names: Sequence[str] | None = None) -> None:
        self._seen = seen
        self._names = seen.names if names is None else names
        self._chosen = None if names is None else frozenset(names)
        self.checkpoint_dir = seen.shown

    @overload
    def __getitem__(self, node: Node[T]) -> T: ...
    @overload
    def __getitem__(self, node: str) -> Any: ...
    def __getitem__(self, node: str | Node[Any]) -> Any:
        name = node.name if isinstance(node, Node) else node
        if self._has(name):
            if self._seen.is_completed(name):
                return self._seen.value_of(name)
            error = self._seen.node(name).error
            assert error is not None
            raise error
        if not isinstance(node, Node) and any(sign in name for sign in "*?"):
            return self.select(name)
        raise UnknownNodeError(name, self._unknown(name))

    def get(self, node: str | Node[Any], default: Any = None) -> Any:
        """Return the result of a node, or `default` where there is none."""
        return self[node] if node in self else default  # noqa: SIM401  # this is what `get` is made of

    def __contains__(self, node: object) -> bool:
        name = node.name if isinstance(node, Node) else node
        return isinstance(name, str) and self._has(name) and self._seen.has_result(name)

    def __iter__(self) -> Iterator[str]:
        return filter(self._seen.has_result, self._names)

    def __len__(self) -> int:
        return sum(map(self._seen.has_result, self._names))

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other  # a mapping would load and compare every result

    def select(self, *patterns: str) -> Checkpoint:
        """Return the part of the checkpoint whose nodes match one of the patterns, those without a result among them.

        Args:
            patterns: Names; `*` stands for any text and `?` for any character, brackets for themselves.

        Raises:
            UnknownNodeError: A pattern matches no node.
        """
        chosen: set[str] = set()
        for pattern in patterns:
            found = matching(self._names, pattern)
            if not found:
                raise UnknownNodeError(pattern, self._unknown(pattern))
            chosen.update(found)
        return Checkpoint(self._seen, [name for name in self._names if name in chosen])

    @property
    def nodes(self) -> Mapping[str, NodeResult[Any]]:
        """How every node stands, also without a result: its status, attempts, times, memory, and why it failed."""
        names = {name: index for index, name in enumerate(self._names)}
        return NodeResults(names, lambda name, _: self._seen.node(name), self._unknown)

    @property
    def failures(self) -> Mapping[str, NodeResult[Any]]:
        """The nodes whose last attempt failed or took too long: `.failures["bad"].explain()` tells all of it.

        The error of a node that raised is a `TaskFailedError`, as a checkpoint has the text of the exception alone.
        """
        ended = (NodeStatus.FAILED, NodeStatus.TIMED_OUT)
        failed = [name for name in self._names if self._seen.figures[name].state in ended]
        return Checkpoint(self._seen, failed).nodes

    def to_dicts(self, *, values: bool = False) -> list[dict[str, Any]]:
        """Return a dict for each node, with the columns of `dagron export`; also for those without a result.

        Args:
            values: Whether there is a column `value`, too, with the results; None where there is none.
        """
        rows = [self._seen.figures[name].row() for name in self._names]
        return [{**row, "value": self.get(row["name"])} for row in rows] if values else rows

    def to_frame(self, *, values: bool = False) -> pandas.DataFrame:
        """Return what `to_dicts` has as a `pandas.DataFrame` by name, with times in the columns `started` and `ended`.

        Args:
            values: As for `to_dicts`.

        Raises:
            MissingPackageError: There is no pandas.
        """
        return as_frame(self.to_dicts(values=values), (*COLUMNS, "value") if values else COLUMNS, "name")

    def _has(self, name: str) -> bool:
        return self._seen.is_known(name) if self._chosen is None else name in self._chosen

    def _unknown(self, name: str) -> str:
        return f"the checkpoint has no such node{hint_at(name, list(self._names))}"

    def _counts(self) -> str:
        counts = Counter(self._seen.figures[name].state for name in self._names)
        return ", ".join(f"{counts[status]} {status.label}" for status in NodeStatus if counts[status]) or "no nodes"

    def __repr__(self) -> str:
        return f"Checkpoint({self.checkpoint_dir!r}: {self._counts()})"

    def _repr_html_(self) -> str:
        shown = [self._seen.figures[name] for name in self._names[:_MAX_ROWS]]
        rows = [
            (
                node.name,
                node.state.label,
                shown_seconds(node.duration_seconds) if node.started_unix else "",
                shown_bytes(node.result_bytes) if node.result_bytes else "",
                node.error,
            )
            for node in shown
        ]
        left = len(self._names) - len(rows)
        note = f"and {left} more; to_frame() has them all" if left else ""
        return as_html(
            f"{self.checkpoint_dir}: {self._counts()}", ("node", "state", "time", "result", "error"), rows, note
        )
