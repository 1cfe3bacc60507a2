"""Whoever is told of a run: callbacks, an observer, the trace, and the reader of what tasks print.

Nothing here decides anything or changes the run, and a listener that raises does not end it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dagron.callbacks import ExecutionCallbacks, call_back
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.crossing.loading import load_result_of
from dagron.engines.protocol import Engine
from dagron.figures import Figures
from dagron.graph.dag import DAG
from dagron.runs.events import End
from dagron.runs.interrupts import Interrupts
from dagron.runs.losses import Failure
from dagron.runs.observing import Watch
from dagron.runs.output import hand_on
from dagron.runs.retries import shown_retry

if TYPE_CHECKING:
    from dagron.results.trace import ExecutionTrace

__all__ = ["OUTPUT_SECONDS", "Listeners"]

attempts_logger = logging.getLogger("dagron.attempts")
"""Has a line, at the level INFO, for each attempt that failed and that another one follows."""

OUTPUT_SECONDS = 0.2
"""How often what tasks print is handed on: a person who reads along takes it for at once."""


class Listeners:
    """Those who are told of one run.

    Args:
        dag: The DAG.
        store: The checkpoint, which has the results that `on_complete` is given.
        callbacks: Of the user.
        watch: Tells the observer.
        trace: Takes the spans, or None.
        interrupts: Lets signals through while a callback runs.
        now: The clock of the run.
        pass_output: Whether what tasks print is handed on.

    Attributes:
        output_due: When what tasks print is to be handed on next.
    """

    def __init__(
        self,
        dag: DAG,
        store: CheckpointStore,
        callbacks: ExecutionCallbacks,
        watch: Watch,
        trace: ExecutionTrace | None,
        interrupts: Interrupts,
        now: Callable[[], float],
        *,
        pass_output: bool,
    ) -> None:
        self.output_due = 0.0
        self._dag = dag
        self._store = store
        self._callbacks = callbacks
        self._watch = watch
        self._trace = trace
        self._interrupts = interrupts
        self._now = now
        self._pass_output = pass_output

    # --- the run ----------------------------------------------------------------------------------------------------

    def tell(self, what: str, pool: Engine | None = None) -> None:
        """Tell the observer how far the run is.

        Args:
            what: The method of the observer.
            pool: What runs the nodes, or None if nothing does.
        """
        self._watch.tell(what, pool, self._call)

    def hand_on_output(self, pool: Engine) -> None:
        """Hand on what tasks have printed since the last time."""
        self.output_due = self._now() + OUTPUT_SECONDS
        for fd, data in pool.output():
            if self._pass_output:
                hand_on(fd, data)

    # --- its nodes --------------------------------------------------------------------------------------------------

    def started(self, nodes: Sequence[int]) -> None:
        """Tell of nodes that a slot gets now."""
        self._each(self._callbacks.on_start, nodes)

    def attempt_ended(
        self, node: int, slot: int, attempt: int, end: End, figures: Figures, result_bytes: int = 0, error: str = ""
    ) -> None:
        """Tell the trace and the observer what an attempt took."""
        if self._trace is not None:
            from dagron.results.trace import Span  # few runs are traced

            name, outcome = self._dag.name_of(node), end.name.lower()
            self._trace.spans.append(Span(name, slot, attempt, outcome, figures, result_bytes, error))
        self._watch.attempt_ended(node, figures.duration_seconds, completed=end == End.COMPLETED)

    def retried(self, node: int, failure: Failure, n_attempts: int, delay_seconds: float) -> None:
        """Tell of a node that gets a further attempt.

        Args:
            node: The node.
            failure: How the last one ended.
            n_attempts: How many it may have in all.
            delay_seconds: When the next one follows.
        """
        self._watch.retried()
        if attempts_logger.isEnabledFor(logging.INFO):
            attempt = failure.retried(self._dag.name_of(node))
            attempts_logger.info("%s", shown_retry(attempt, n_attempts, delay_seconds))
        if self._callbacks.on_retry is not None:
            name = self._dag.name_of(node)
            self._call(self._callbacks.on_retry, name, failure.attempt, failure.error(name))

    def skipped(self, nodes: Sequence[int]) -> None:
        """Tell of nodes that are skipped."""
        self._watch.settled(nodes)
        self._each(self._callbacks.on_skip, nodes)

    def restored(self, nodes: Sequence[int]) -> None:
        """Tell of nodes that keep a result of an earlier run."""
        self._watch.settled(nodes)
        self._each(self._callbacks.on_restore, nodes)
        if self._trace is not None:
            self._trace.add_restored(self._dag.name_of(node) for node in nodes)

    def committed(
        self, completed: Sequence[int], failed: Sequence[int], failures: Mapping[int, Failure], pool: Engine | None
    ) -> None:
        """Tell the callbacks of nodes whose results and failures are in the checkpoint."""
        callbacks = self._callbacks
        if (callbacks.on_complete is not None or callbacks.on_failure is not None) and pool is not None:
            self.hand_on_output(pool)  # what a node printed comes before what is said about it
        if callbacks.on_complete is not None and completed:
            self._store.write_copies()  # a callback may read the file of its node
            for node in completed:
                self._call(self._complete, self._dag.name_of(node))
        if callbacks.on_failure is not None:
            for node in failed:
                name = self._dag.name_of(node)
                self._call(callbacks.on_failure, name, failures[node].error(name))

    def _complete(self, name: str) -> None:
        assert self._callbacks.on_complete is not None
        value = load_result_of(name, self._store.load(name), str(self._store.directory.path))
        self._callbacks.on_complete(name, value)

    def _each(self, callback: Callable[[str], object] | None, nodes: Sequence[int]) -> None:
        if callback is not None:
            for node in nodes:
                self._call(callback, self._dag.name_of(node))

    def _call(self, function: Callable[..., object], *args: object) -> None:
        with self._interrupts.allowed():
            call_back(function, *args)
