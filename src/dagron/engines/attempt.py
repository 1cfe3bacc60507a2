"""The far side of any engine: unpickle the task, load its inputs, call it, pickle the result, say how that ended.

Everything that the user's code can do in here ends as an outcome, except the end of the process. Imported by the server
of the local engine before it forks, so it stays light.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol

from dagron.checkpoint.blobs import BlobFile, VerifiedFiles, read_blob
from dagron.checkpoint.files.modes import PRIVATE_MODE
from dagron.checkpoint.files.scratch import make_scratch as make_scratch_directory
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.names import scratch_name
from dagron.checkpoint.format.outputs import FileState
from dagron.crossing.exceptions import describe_exception, dump_exception
from dagron.crossing.loading import load_value
from dagron.crossing.results import dump_result
from dagron.engines.outcomes import NOTHING_PRINTED, Attempt, Fault, Outcome, OutcomeKind
from dagron.engines.streams import flush_streams
from dagron.errors import (
    CheckpointDamagedError,
    NotLoadableError,
    ResultNotPicklableError,
    ResultNotWrittenError,
    WorkerInitError,
)
from dagron.figures import Figures
from dagron.tasks.binding import NO_INPUTS, Binding
from dagron.tasks.current import CurrentAttempt, begin_attempt, end_attempt
from dagron.tasks.holes import CallWithHoles

__all__ = ["TELLING_SECONDS", "Witness", "WorkerSetup", "call_init", "make_attempt"]

TELLING_SECONDS = 10.0
"""How long a task's exception may take to say what it is and to be pickled, where its node has no shorter timeout.

That takes well under a millisecond; what takes seconds is hanging, or is larger than what an outcome may have.
"""


class WorkerSetup(NamedTuple):
    """What a worker knows of its run.

    Attributes:
        directory: Where results go.
        digests: How they are digested; with the signing key, if there is one.
        durable: Whether results have to survive a loss of power.
        telling_seconds: How long a task's exception may take to say what it is.
        file_mode: That of the files of results.
        compresses: Whether large results are compressed, where a sample shrinks.
    """

    directory: str
    digests: Digests
    durable: bool
    telling_seconds: float = TELLING_SECONDS
    file_mode: int = PRIVATE_MODE
    compresses: bool = False


class Witness(Protocol):
    """Whoever sees an attempt from outside of its process, and so knows of it what the process did not live to say."""

    def loads_input(self, position: int) -> None:
        """Note that the input at this position is loaded next."""
        ...

    def calls(self) -> None:
        """Note that the inputs are loaded."""
        ...

    def returned(self, *, failed: bool) -> None:
        """Put back what the task has changed of what is needed to deliver its result."""
        ...

    def tells(self, outcome: Outcome) -> None:
        """Keep an outcome as far as it is known, and see to it that the process ends if the rest takes too long."""
        ...

    def has_told(self) -> None:
        """Note that no more of the exception's own code runs."""
        ...


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""That of `ru_maxrss`, getrusage(2)."""


def _usage() -> tuple[float, float, int]:
    """Return user and system seconds together, system seconds, and peak resident bytes."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    system = own.ru_stime + children.ru_stime
    return own.ru_utime + children.ru_utime + system, system, own.ru_maxrss * _RSS_UNIT


_new: Any = tuple.__new__
"""Makes a named tuple of all its fields in a third of the time that its constructor takes; each attempt has several."""


def _figures(started: float, cpu_before: float, system_before: float) -> Figures:
    """Return what an attempt has taken since then."""
    cpu_after, system_after, peak = _usage()
    seconds = time.perf_counter() - started
    cpu, system = cpu_after - cpu_before, system_after - system_before
    figures: Figures = _new(Figures, (time.time() - seconds, seconds, cpu, system, peak))
    return figures


_verified = VerifiedFiles()

_OF_INPUTS: dict[type[BaseException], int] = {
    CheckpointDamagedError: OutcomeKind.DAMAGED_INPUT,
    NotLoadableError: OutcomeKind.UNLOADABLE_INPUT,
}
_OF_RESULTS: dict[type[BaseException], int] = {
    ResultNotPicklableError: OutcomeKind.UNPICKLABLE,
    ResultNotWrittenError: OutcomeKind.DISK,
}


def _load_input(source: bytes | BlobFile, setup: WorkerSetup) -> Any:
    if isinstance(source, bytes):
        return load_value(source)
    return load_value(read_blob(setup.directory, source, setup.digests, _verified))


def _called(binding: Binding, fn: Any, inputs: list[Any]) -> Any:
    me = os.getpid()
    try:
        value = binding.call(fn, inputs)
    except BaseException as error:
        if os.getpid() != me:
            _end_copy(error)
        raise
    if os.getpid() != me:
        _end_copy(None)
    return value


def _end_copy(error: BaseException | None) -> NoReturn:
    """End a process that the task has forked and that came out of the task, as the interpreter would end it.

    It must not go on: it would answer for the worker, on the same board and the same pipes.
    """
    code: object = None
    try:
        if isinstance(error, SystemExit):
            code = error.code
            if code is not None and not isinstance(code, int):
                sys.stderr.write(f"{code}\n")
                code = 1
        elif error is not None:
            code = 1
            traceback.print_exception(error)
        flush_streams()
    except BaseException:
        pass  # its text, or its standard error, is no longer what it was
    finally:
        os._exit((code or 0) & 0xFF if isinstance(code, int | None) else 1)


def make_attempt(
    attempt: Attempt,
    load_task: Callable[[Attempt], tuple[Any, Any]],
    setup: WorkerSetup,
    *,
    interruptible: bool = False,
    slot: int = 0,
    witness: Witness | None = None,
) -> Outcome:
    """Make one attempt.

    Args:
        attempt: What is to be done.
        load_task: Makes the task of what `attempt` carries.
        setup: What a worker knows of its run.
        interruptible: Whether a KeyboardInterrupt is the user's.
        slot: The slot that makes it.
        witness: Whoever outlives this process; None if nobody does.

    Raises:
        KeyboardInterrupt: If `interruptible`. Else it is an outcome, like everything that a task can raise.
    """
    around = begin_attempt(_current, attempt, slot, setup)
    try:
        outcome = _make(attempt, load_task, setup, interruptible, witness)
    finally:
        has_scratch = end_attempt(around)
    return outcome._replace(has_scratch=True) if has_scratch else outcome


def _current(attempt: Attempt, slot: int, setup: WorkerSetup) -> CurrentAttempt:
    """Return what a task is told of the attempt that it is part of."""

    def make_scratch() -> str:
        # What was made from other inputs is none of this attempt's.
        digests = [data if isinstance(data, bytes) else data.digest for data in attempt.inputs]
        inputs = setup.digests.of(b"".join(setup.digests.of(digest) for digest in digests)).hex()[:32]
        return make_scratch_directory(setup.directory, scratch_name(attempt.name), inputs, setup.file_mode)

    return CurrentAttempt(attempt.name, attempt.number, attempt.run, slot, make_scratch)


def _make(
    attempt: Attempt,
    load_task: Callable[[Attempt], tuple[Any, Any]],
    setup: WorkerSetup,
    interruptible: bool,
    witness: Witness | None,
) -> Outcome:
    started = time.perf_counter()  # CLOCK_MONOTONIC or mach_absolute_time, which stand still while the machine sleeps
    cpu_before, system_before, _ = _usage()

    retry_on: tuple[type[BaseException], ...] = ()
    fn: Any = None
    inputs: list[Any] = []
    # What our own code may raise now, and what that means. A task that makes a run of its own may raise the same.
    ours: dict[type[BaseException], int] = {}
    written: tuple[FileState, ...] = ()
    try:
        fn, retry_on = load_task(attempt)
        if attempt.inputs:
            ours = _OF_INPUTS
            for position, source in enumerate(attempt.inputs):
                if witness is not None:
                    witness.loads_input(position)
                inputs += [_load_input(source, setup)]  # one by one: how many there are tells which cannot be loaded
            if witness is not None:
                witness.calls()
            ours = {}
        seal = _before_outputs(attempt, setup) if attempt.outputs else None
        value = _called(attempt.binding, fn, inputs)
        if witness is not None:
            witness.returned(failed=False)
        if seal is not None:
            written = seal()
        inputs = []  # their memory is better used for pickling
        ours = _OF_RESULTS
        blob = dump_result(
            attempt.name,
            value,
            setup.directory,
            setup.digests,
            durable=setup.durable,
            mode=setup.file_mode,
            compresses=setup.compresses,
        )
    except BaseException as error:
        if witness is not None:
            witness.returned(failed=True)
        kind = type(error)
        if interruptible and issubclass(kind, KeyboardInterrupt):
            raise
        outcome = Outcome(
            attempt.node, ours.get(kind, OutcomeKind.RAISED), _figures(started, cpu_before, system_before)
        )
        if outcome.kind == OutcomeKind.UNLOADABLE_INPUT and isinstance(error, NotLoadableError):
            fault = _fault_of_input(error, outcome, len(inputs), retry_on, witness)
        else:
            called_with = (
                (attempt.binding, fn, inputs) if len(inputs) == len(attempt.inputs) and fn is not None else None
            )
            fault = _told(error, outcome, called_with, retry_on, witness)
        return outcome._replace(figures=_figures(started, cpu_before, system_before), fault=fault)
    figures = _figures(started, cpu_before, system_before)
    fields = attempt.node, OutcomeKind.COMPLETED, figures, blob, None, NOTHING_PRINTED, False, written
    completed: Outcome = _new(Outcome, fields)
    return completed


def _before_outputs(attempt: Attempt, setup: WorkerSetup) -> Callable[[], tuple[FileState, ...]]:
    """Look at the outputs before the task is called; return what looks at them again, and raises if one is missing."""
    from dagron.outputs import identities, states_written  # few nodes have some

    before, began_ns = identities(attempt.outputs), time.time_ns()
    return partial(
        states_written, attempt.name, attempt.outputs, before, began_ns, setup.digests, durable=setup.durable
    )


def _is_one_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    try:
        return issubclass(type(error), kinds)  # and never what it says of itself
    except BaseException:
        return False  # what their own class says of them


def _told(
    error: BaseException,
    outcome: Outcome,
    called_with: tuple[Binding, Any, list[Any]] | None,
    retry_on: tuple[type[BaseException], ...],
    witness: Witness | None,
    parent: int = 0,
) -> Fault:
    """Return what is to be told of an exception, and tell the witness what is known before its own code has a say."""
    is_raised = outcome.kind == OutcomeKind.RAISED
    retryable = is_raised and _is_one_of(error, retry_on)
    known = Fault("", "", "", retryable=retryable, pid=os.getpid(), parent=parent)

    def so_far(type_name: str, message: str, text: str) -> None:
        nonlocal known
        if outcome.kind == OutcomeKind.UNLOADABLE_INPUT:
            message = f"{type_name}: {message}"  # a reason, as that of `NotLoadableError`
        known = known._replace(type_name=type_name, message=message, traceback_text=text)
        if witness is not None:
            witness.tells(outcome._replace(fault=known))

    try:
        type_name, message, text = describe_exception(error, _OURS, so_far)
        data = dump_exception(error)
        inputs = _shown_inputs(*called_with) if called_with is not None and is_raised else ()
    except BaseException:  # a timer that the task has left, say, raised it here
        return known
    finally:
        if witness is not None:
            witness.has_told()
    return Fault(type_name, message, text, data, retryable, inputs, known.pid, parent)


def call_init(load: Callable[[], tuple[Any, Any]], *, interruptible: bool = False) -> None:
    """Call what is to be called in a worker before its first attempt.

    Args:
        load: Returns it, as the first of a pair.
        interruptible: As for `make_attempt`.

    Raises:
        WorkerInitError: It raised, or could not be loaded.
        KeyboardInterrupt: If `interruptible`.
    """
    try:
        _called(NO_INPUTS, load()[0], [])
    except BaseException as error:
        if interruptible and isinstance(error, KeyboardInterrupt):
            raise
        type_name, message, text = describe_exception(error, _OURS)
        raise WorkerInitError(f"{type_name}: {message}" if message else type_name, None, text) from error


_OURS = frozenset(function.__code__ for function in (_make, call_init, _called, Binding.call, CallWithHoles.__call__))
"""The code between an attempt and its task, whose frames a traceback leaves out."""


def _fault_of_input(
    error: NotLoadableError,
    outcome: Outcome,
    position: int,
    retry_on: tuple[type[BaseException], ...],
    witness: Witness | None,
) -> Fault:
    cause = error.__cause__
    assert cause is not None
    fault = _told(cause, outcome, None, retry_on, witness, position)
    # What is gone is still gone in a further attempt; what the system has refused it may grant then.
    retryable = _is_one_of(cause, (OSError,)) and _is_one_of(cause, retry_on)
    return fault._replace(message=error.reason, exception=b"", retryable=retryable, modules=tuple(error.modules))


def _shown_inputs(binding: Binding, fn: Any, inputs: list[Any]) -> tuple[tuple[str, str], ...]:
    from dagron.tasks.shown_inputs import shown_inputs  # only a worker with a failure pays for it

    return tuple(shown_inputs(binding, fn, inputs))
