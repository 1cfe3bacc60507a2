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
from typing import Any, NamedTuple, NoReturn

from dagron.checkpoint.blobs import BlobFile, VerifiedFiles, read_blob
from dagron.checkpoint.format.digests import Digests
from dagron.crossing.exceptions import describe_exception, dump_exception
from dagron.crossing.loading import load_value
from dagron.crossing.results import dump_result
from dagron.engines.protocol import Attempt, Fault, Outcome, OutcomeKind
from dagron.engines.streams import flush_streams
from dagron.errors import CheckpointDamagedError, NotLoadableError, ResultNotPicklableError, WorkerInitError
from dagron.figures import Figures
from dagron.tasks.arguments import CallWithHoles
from dagron.tasks.binding import NO_INPUTS, Binding

__all__ = ["WorkerSetup", "call_init", "make_attempt"]


class WorkerSetup(NamedTuple):
    """What a worker knows of its run.

    Attributes:
        directory: Where results go.
        digests: How they are digested; with the signing key, if there is one.
        durable: Whether results have to survive a loss of power.
    """

    directory: str
    digests: Digests
    durable: bool


def _usage() -> tuple[float, float, int]:
    """Return user and system seconds together, system seconds, and peak resident bytes."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`, getrusage(2)
    system = own.ru_stime + children.ru_stime
    return own.ru_utime + children.ru_utime + system, system, own.ru_maxrss * unit


_verified = VerifiedFiles()

_OF_INPUTS: dict[type[BaseException], int] = {
    CheckpointDamagedError: OutcomeKind.DAMAGED_INPUT,
    NotLoadableError: OutcomeKind.UNLOADABLE_INPUT,
}
_OF_RESULTS: dict[type[BaseException], int] = {ResultNotPicklableError: OutcomeKind.UNPICKLABLE}


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
    if isinstance(error, SystemExit):
        code = error.code
        if code is not None and not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
            code = 1
    elif error is not None:
        traceback.print_exception(error)
        code = 1
    flush_streams()
    os._exit((code or 0) & 0xFF)  # type: ignore[operator]


def make_attempt(
    attempt: Attempt,
    load_task: Callable[[Attempt], tuple[Any, Any]],
    setup: WorkerSetup,
    *,
    interruptible: bool = False,
) -> Outcome:
    """Make one attempt.

    Raises:
        KeyboardInterrupt: If `interruptible`. Else it is an outcome, like everything that a task can raise.
    """
    started_unix, started = time.time(), time.perf_counter()
    cpu_before, system_before, _ = _usage()
    kind, blob, fault = OutcomeKind.COMPLETED, None, None
    retry_on: tuple[type[BaseException], ...] = ()
    fn: Any = None
    inputs: list[Any] = []
    # What our own code may raise now, and what that means. A task that makes a run of its own may raise the same.
    ours: dict[type[BaseException], int] = {}
    try:
        fn, retry_on = load_task(attempt)
        ours = _OF_INPUTS
        for source in attempt.inputs:
            inputs += [_load_input(source, setup)]  # one by one: how many there are tells which cannot be loaded
        ours = {}
        value = _called(attempt.binding, fn, inputs)
        inputs = []  # their memory is better used for pickling
        ours = _OF_RESULTS
        try:
            blob = dump_result(attempt.name, value, setup.directory, setup.digests, durable=setup.durable)
        except OSError as error:
            type_name, message, text = describe_exception(error)
            kind, fault = OutcomeKind.DISK, Fault(type_name, error.strerror or message, text)
    except BaseException as error:
        if interruptible and isinstance(error, KeyboardInterrupt):
            raise
        kind = ours.get(type(error), OutcomeKind.RAISED)
        if isinstance(error, NotLoadableError) and kind == OutcomeKind.UNLOADABLE_INPUT:
            fault = _fault_of_input(error, len(inputs), retry_on)
        else:
            fault = _fault(error)
        if kind == OutcomeKind.RAISED:
            fault = fault._replace(retryable=isinstance(error, retry_on))
            if fn is not None and len(inputs) == len(attempt.inputs):
                fault = fault._replace(inputs=_shown_inputs(attempt.binding, fn, inputs))
    cpu_after, system_after, peak = _usage()
    seconds = time.perf_counter() - started
    figures = Figures(started_unix, seconds, cpu_after - cpu_before, system_after - system_before, peak)
    return Outcome(attempt.node, kind, figures, blob, fault)


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


_OURS = frozenset(
    function.__code__ for function in (make_attempt, call_init, _called, Binding.call, CallWithHoles.__call__)
)
"""The code between an attempt and its task, whose frames a traceback leaves out."""


def _fault(error: BaseException) -> Fault:
    return Fault(*describe_exception(error, _OURS), dump_exception(error), pid=os.getpid())


def _fault_of_input(error: NotLoadableError, position: int, retry_on: tuple[type[BaseException], ...]) -> Fault:
    cause = error.__cause__
    assert cause is not None
    # What is gone is still gone in a further attempt; what the system has refused it may grant then.
    retryable = isinstance(cause, OSError) and isinstance(cause, retry_on)
    fault = Fault(*describe_exception(cause), retryable=retryable, pid=os.getpid())
    return fault._replace(message=error.reason, parent=position, modules=tuple(error.modules))


def _shown_inputs(binding: Binding, fn: Any, inputs: list[Any]) -> tuple[tuple[str, str], ...]:
    from dagron.tasks.shown_inputs import shown_inputs  # only a worker with a failure pays for it

    return tuple(shown_inputs(binding, fn, inputs))
