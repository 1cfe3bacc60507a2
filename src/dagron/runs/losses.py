"""Attempts that gave no result: why, as the exception that the caller gets and as a FAILED record has it."""

from __future__ import annotations

import pickle

from dagron.checkpoint.format.records import Failed, Retried
from dagron.crossing.exceptions import load_exception, noted
from dagron.engines.outcomes import NOTHING_PRINTED, Fault, Outcome, Printed
from dagron.engines.protocol import Lost
from dagron.errors import InputNotLoadableError, MemoryLimitExceededError, NodeTimeoutError, WorkerLostError
from dagron.figures import Figures
from dagron.results.failures import shown_origin
from dagron.results.frames import with_source
from dagron.runs.events import End, NoteLoss
from dagron.runs.output import last_lines, recorded_output
from dagron.runs.phases import phase_of_failure
from dagron.runs.policy import Policy
from dagron.tasks.options import in_unit_of, shown_limit

__all__ = ["Failure", "error_of_loss", "fault_of_input", "with_source_of_fault"]

_CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
"""As Python has it in the traceback of an exception with a cause."""


class Failure:
    """Why the last attempt of a node gave no result; the exception itself is made when it is asked for.

    Args:
        outcome: What the worker said; None if it is lost.
        error: Why, if the worker is lost.
        attempt: Which attempt.
        slot: The slot that made it.
        printed: The end of what it wrote.
        lost: If the worker is lost, what was lost with it.
        end: How the attempt ended, which decides the status of the record.

    Attributes:
        outcome: As given, without what was printed.
        attempt: As given, like the slot, what is lost, and the end.
        output: What the attempt printed, as the journal has it.
        stderr: The last lines of its standard error.
        status: `failed` or `timed_out`.
    """

    __slots__ = ("_error", "attempt", "end", "lost", "outcome", "output", "slot", "status", "stderr")

    def __init__(
        self,
        outcome: Outcome | None,
        error: BaseException | None,
        attempt: int,
        slot: int,
        printed: Printed,
        lost: Lost | None = None,
        end: End = End.RAISED,
    ) -> None:
        # What was printed is kept as text, which is much shorter.
        self.outcome = outcome._replace(printed=NOTHING_PRINTED) if outcome is not None else None
        self._error = error
        self.attempt = attempt
        self.slot = slot
        self.output = recorded_output(printed)
        self.stderr = last_lines(printed.stderr)
        self.lost = lost._replace(printed=NOTHING_PRINTED) if lost is not None else None
        self.end = end
        self.status = phase_of_failure(end).name.lower()

    @property
    def figures(self) -> Figures:
        """What the attempt took."""
        if self.outcome is not None:
            return self.outcome.figures
        assert self.lost is not None
        return self.lost.figures

    def error(self, node: str) -> BaseException:
        """Return the exception. Unpickling it runs code that it names."""
        if self._error is None:
            assert self.outcome is not None
            fault = self.outcome.fault
            assert fault is not None
            texts = fault.type_name, fault.message, fault.traceback_text
            self._error = load_exception(node, fault.exception, *texts)
            noted(
                self._error, "\n  ".join([f"node {node!r}, attempt {self.attempt}", *shown_origin(self.record(node))])
            )
        return self._error

    @property
    def text(self) -> str:
        """The type and the text of the error."""
        return f"{self._fault.type_name}: {self._fault.message}".removesuffix(": ")

    @property
    def _fault(self) -> Fault:
        if self.outcome is not None:
            assert self.outcome.fault is not None
            return self.outcome.fault
        assert self.lost is not None
        return Fault(type(self._error).__name__, str(self._error), "", pid=self.lost.pid)

    def record(self, node: str) -> Failed:
        """Return what the journal says of it."""
        fault = self._fault
        return Failed(
            node,
            status=self.status,
            outcome=self.end.name.lower(),
            type=fault.type_name,
            message=fault.message,
            traceback=fault.traceback_text,
            attempts=self.attempt,
            slot=self.slot,
            pid=fault.pid,
            figures=self.figures,
            inputs=fault.inputs,
            output=self.output,
        )

    def retried(self, node: str) -> Retried:
        """Return what the journal says of it if another attempt follows."""
        fault = self._fault
        return Retried(
            node,
            attempt=self.attempt,
            outcome=self.end.name.lower(),
            type=fault.type_name,
            message=fault.message,
            traceback=fault.traceback_text,
            slot=self.slot,
            pid=fault.pid,
            figures=self.figures,
            stderr=self.stderr,
        )


def fault_of_input(fault: Fault, node: str, parent: str, checkpoint_dir: str) -> Fault:
    """Return the fault of an attempt that could not load the result of a parent, with the parent's name.

    Args:
        fault: What the worker said: which input, and why.
        node: The node whose attempt it was.
        parent: The node that made the result.
        checkpoint_dir: The checkpoint, absolute.
    """
    error = InputNotLoadableError(node, parent, fault.message, fault.modules, checkpoint_dir)
    name, text = type(error).__name__, str(error)
    traceback = f"{fault.traceback_text}{_CAUSED}{name}: {text}\n"
    return fault._replace(type_name=name, message=text, traceback_text=traceback, exception=pickle.dumps(error))


def with_source_of_fault(outcome: Outcome) -> Outcome:
    """Return the outcome of an attempt that failed, with the lines of source that only this process knows."""
    fault = outcome.fault
    if fault is None or not fault.traceback_text:
        return outcome
    return outcome._replace(fault=fault._replace(traceback_text=with_source(fault.traceback_text)))


def error_of_loss(node: str, loss: NoteLoss, policy: Policy, lost: Lost, loading: str = "") -> BaseException:
    """Return the exception of a node whose worker is dead.

    Args:
        node: The node.
        loss: How its attempt ended.
        policy: What was asked for the node.
        lost: How the worker was found.
        loading: The parent whose result it was unpickling; empty for none.
    """
    attempt = loss.attempt
    if loss.end == End.TIMED_OUT:
        assert policy.timeout is not None
        return NodeTimeoutError(node, attempt, policy.timeout, loading)
    if loss.end == End.OUT_OF_MEMORY:
        assert policy.memory_limit is not None
        texts = shown_limit(policy.memory_limit_as_given), in_unit_of(policy.memory_limit_as_given, loss.memory_bytes)
        return MemoryLimitExceededError(node, attempt, policy.memory_limit, loss.memory_bytes, *texts)
    peak = lost.figures.peak_rss_bytes or None
    return WorkerLostError(node, attempt, lost.exit_code, peak, last_lines(lost.printed.stderr), loading)
