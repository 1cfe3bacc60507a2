"""What runs in a worker: unpickle the task, load its inputs, call it, pickle the result, note the outcome.

Everything that the user's code can do in here ends as an outcome, except the end of the process. Imported by the server
before it forks, so it stays light. `pool="inline"` calls the same functions in the coordinator.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from dagron.checkpoint.blobs import Blob, BlobFile, VerifiedFiles, read_blob
from dagron.checkpoint.buffers import out_of_band
from dagron.checkpoint.digests import Digests
from dagron.checkpoint.files import write_view
from dagron.crossing.exceptions import describe_exception, dump_exception
from dagron.crossing.parts import Own, ReceivedParts
from dagron.crossing.results import dump_result
from dagron.engines.local.board import Board
from dagron.engines.local.capture import flush_streams, position
from dagron.engines.local.channel import Channel, WorkerEnd
from dagron.engines.local.cores import limit_threads, pin
from dagron.engines.local.processes import resident_bytes
from dagron.errors import CheckpointDamagedError, ResultNotPicklableError
from dagron.figures import Figures
from dagron.task import Binding

__all__ = [
    "NOTHING_PRINTED",
    "Attempt",
    "Fault",
    "Outcome",
    "OutcomeKind",
    "Printed",
    "WorkerSetup",
    "make_attempt",
    "pack_outcome",
    "serve",
    "start_worker",
    "unpack_outcome",
]


class OutcomeKind:
    """How an attempt ended, as far as the worker can tell."""

    COMPLETED = 0
    RAISED = 1
    UNPICKLABLE = 2
    DAMAGED_INPUT = 3
    DISK = 4


class WorkerSetup(NamedTuple):
    """What a worker knows for all of its life.

    Attributes:
        directory: Where results go.
        digests: How they are digested; with the signing key, if there is one.
        durable: Whether results have to survive a loss of power.
        n_threads: What libraries that use threads of their own may use; None to leave it to them.
        cpus: The processor of each slot; empty to leave it to the system.
    """

    directory: str
    digests: Digests
    durable: bool
    n_threads: int | None = None
    cpus: tuple[int, ...] = ()


class Attempt(NamedTuple):
    """One attempt of one node, that is to be made.

    Attributes:
        node: The node's index.
        name: The node's name.
        task: What is its own of `(callable, retry_on)`, pickled or plain values.
        parts: What that shares with other tasks; only the numbers, once it is on its way.
        binding: How the callable takes its inputs.
        inputs: For each parent that is taken, its pickled result or the file that has it.
        memory_limited: Whether its memory is watched.
    """

    node: int
    name: str
    task: Own
    parts: tuple[Any, ...]
    binding: Binding
    inputs: tuple[bytes | BlobFile, ...]
    memory_limited: bool = False


class Printed(NamedTuple):
    """What an attempt wrote to its standard streams: the last 64 KiB of each, and how many bytes it was in all."""

    stdout: bytes = b""
    stderr: bytes = b""
    stdout_bytes: int = 0
    stderr_bytes: int = 0


NOTHING_PRINTED = Printed()


class Fault(NamedTuple):
    """Why an attempt gave no result although its worker lives.

    Attributes:
        type_name: The exception's type.
        message: Its text.
        traceback_text: Its traceback.
        exception: The exception, pickled.
        retryable: Whether it is among those worth a further attempt.
        inputs: The names of the task's arguments with short texts of their values.
        pid: The process that made the attempt.
    """

    type_name: str
    message: str
    traceback_text: str
    exception: bytes = b""
    retryable: bool = False
    inputs: tuple[tuple[str, str], ...] = ()
    pid: int = 0


class Outcome(NamedTuple):
    """How an attempt ended.

    Attributes:
        node: As in `Attempt`.
        kind: One of `OutcomeKind`.
        figures: What the attempt took.
        blob: The pickled result, if it completed.
        fault: Why it did not, if it failed.
        printed: What it wrote.
    """

    node: int
    kind: int
    figures: Figures
    blob: Blob | None = None
    fault: Fault | None = None
    printed: Printed = NOTHING_PRINTED


_PATIENCE_SECONDS = 0.01
"""A batch that takes longer than this was taken for shorter: what it has is reported, and the rest is given back."""

_PACKED = struct.Struct("<QBBxxxxxxQ32sddddQB")
"""Node and kind; storage, size and digest of the blob; the figures; whether the blob's data is all that follows.

Else the rest of blob and fault follows, pickled.
"""

_NO_DIGEST = bytes(32)

_new: Any = tuple.__new__


def pack_outcome(outcome: Outcome, written: tuple[int, int, int, int] | None = None) -> bytes:
    """Return an outcome as bytes for the board. A pickled tuple would take three times as long.

    Args:
        outcome: The outcome; what it printed is left out.
        written: From where to where the attempt wrote to the captured standard output, and the same of standard error;
            None if that is not worth a look.
    """
    node, kind, figures, blob, fault, _ = outcome
    if blob is not None:
        storage, size, digest, data, temp_name, identity = blob
    else:
        storage, size, digest, data, temp_name, identity = 0, 0, _NO_DIGEST, b"", "", ()
    plain = blob is not None and not temp_name and written is None
    head = _PACKED.pack(node, kind, storage, size, digest, *figures, plain)
    if plain:
        return head + data
    has_blob, cause = blob is not None, tuple(fault) if fault is not None else None
    return head + pickle.dumps((has_blob, data, temp_name, identity, cause, written), 5)


def unpack_outcome(packed: bytes) -> tuple[Outcome, tuple[int, int, int, int] | None]:
    """Return what `pack_outcome` was given."""
    node, kind, storage, size, digest, started, duration, cpu, system, peak, plain = _PACKED.unpack_from(packed)
    rest = packed[_PACKED.size :]
    # Thrice as quick as what the classes' own constructors do in Python.
    figures = _new(Figures, (started, duration, cpu, system, peak))
    if plain:
        blob = _new(Blob, (storage, size, digest, rest, "", ()))
        return _new(Outcome, (node, kind, figures, blob, None, NOTHING_PRINTED)), None
    has_blob, data, temp_name, identity, cause, written = pickle.loads(rest)
    found = Blob(storage, size, digest, data, temp_name, identity) if has_blob else None
    fault = Fault._make(cause) if cause is not None else None
    return Outcome(node, kind, figures, found, fault), written


_OUR_FRAMES = 3  # make_attempt, _called and Binding.call


def _usage() -> tuple[float, float, int]:
    """Return user and system seconds together, system seconds, and peak resident bytes."""
    try:
        import resource
    except ImportError:  # Windows
        times = os.times()
        return times.user + times.system, times.system, 0
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    system = own.ru_stime + children.ru_stime
    return own.ru_utime + children.ru_utime + system, system, own.ru_maxrss * unit


_verified = VerifiedFiles()


def _load_input(source: bytes | BlobFile, setup: WorkerSetup) -> Any:
    if isinstance(source, bytes):
        return pickle.loads(source)
    data = read_blob(setup.directory, source, setup.digests, _verified)
    if isinstance(data, bytes):
        return pickle.loads(data)
    stream, buffers = out_of_band(data)
    return pickle.loads(stream, buffers=buffers)


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
    try:
        fn, retry_on = load_task(attempt)
        inputs = [_load_input(source, setup) for source in attempt.inputs]
        value = _called(attempt.binding, fn, inputs)
        inputs = []  # their memory is better used for pickling
        try:
            blob = dump_result(attempt.name, value, setup.directory, setup.digests, durable=setup.durable)
        except OSError as error:
            type_name, message, text = describe_exception(error)
            kind, fault = OutcomeKind.DISK, Fault(type_name, error.strerror or message, text)
    except ResultNotPicklableError as error:
        kind, fault = OutcomeKind.UNPICKLABLE, _fault(error)
    except CheckpointDamagedError as error:
        kind, fault = OutcomeKind.DAMAGED_INPUT, _fault(error)
    except BaseException as error:
        if interruptible and isinstance(error, KeyboardInterrupt):
            raise
        kind, fault = OutcomeKind.RAISED, _fault(error)._replace(retryable=isinstance(error, retry_on))
        if fn is not None and len(inputs) == len(attempt.inputs):
            fault = fault._replace(inputs=_shown_inputs(attempt.binding, fn, inputs))
    cpu_after, system_after, peak = _usage()
    seconds = time.perf_counter() - started
    figures = Figures(started_unix, seconds, cpu_after - cpu_before, system_after - system_before, peak)
    return Outcome(attempt.node, kind, figures, blob, fault)


def _fault(error: BaseException) -> Fault:
    return Fault(*describe_exception(error, _OUR_FRAMES), dump_exception(error), pid=os.getpid())


def _shown_inputs(binding: Binding, fn: Any, inputs: list[Any]) -> tuple[tuple[str, str], ...]:
    from dagron.inputs import shown_inputs  # only a worker with a failure pays for it

    return tuple(shown_inputs(binding, fn, inputs))


# --- the process ---------------------------------------------------------------------------------------------------


class _Worker:
    def __init__(self, setup: WorkerSetup, board: Board, channel: WorkerEnd) -> None:
        self.setup = setup
        self.board = board
        self.channel = channel
        self.parts = ReceivedParts()
        # Of our own, because a task may put something else in the place of its standard streams.
        self.streams = os.dup(1), os.dup(2)
        self.has_run = False
        self.copies_refused = False

    def load_task(self, attempt: Attempt) -> tuple[Any, Any]:
        task: tuple[Any, Any] = self.parts.load(attempt.task, attempt.parts)
        return task

    def write(self, copies: list[tuple[str, bytes, bool]]) -> None:
        """Write copies of results; once one was refused no more, and the coordinator is told with the next report."""
        if self.copies_refused:
            return
        try:
            for name, data, exists in copies:
                write_view(os.path.join(self.setup.directory, name), data, exists=exists)
        except OSError:
            self.copies_refused = True


_worker: _Worker | None = None


def start_worker(slot: int, packed: bytes, board: Board, channel: Channel | WorkerEnd) -> None:
    """Make this process the worker of a slot; the initializer of its executor."""
    global _worker
    from multiprocessing import forkserver

    setup = WorkerSetup(*pickle.loads(packed))
    if setup.n_threads is not None:
        limit_threads(setup.n_threads, os.environ)
    if setup.cpus:
        pin(setup.cpus[slot])
    if hasattr(os, "SCHED_BATCH"):
        # A worker that is woken must not push the coordinator off its processor in the middle of what that does next:
        # with as many workers as processors it would get none before a task has ended. The share of time is the same.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # A task that asks for a forkserver gets one of its own, instead of a share in another process's.
    forkserver._forkserver = forkserver.ForkServer()
    assert isinstance(channel, WorkerEnd)
    _worker = _Worker(setup, board, channel)


def serve() -> None:
    """Run the batches that come over the channel and put their outcomes on the board, until the channel is closed.

    A batch that takes too long or that the board has no room for ends early: what has no outcome was not started.
    """
    worker = _worker
    assert worker is not None
    try:
        while (payload := worker.channel.receive()) is not None:
            batch, copies = _run_batch(worker, payload)
            worker.channel.report(batch, worker.copies_refused)
            worker.write(copies)
    except BaseException:
        # What a task left behind, a timer say, raised it between two attempts. It must not leave this function: the
        # executor would pickle it, and a thread of the coordinator would unpickle what is the user's.
        traceback.print_exc()
        flush_streams()
        os._exit(1)


def _run_batch(worker: _Worker, payload: bytes) -> tuple[int, list[tuple[str, bytes, bool]]]:
    batch, parts, attempts, copies = pickle.loads(payload)
    board = worker.board
    board.batch_started(batch)
    for part in parts:
        # All of them first: the coordinator sends a part once, also if this batch ends early.
        worker.parts.add(*part)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    stdout, stderr = worker.streams
    stdout_from, stderr_from = position(stdout), position(stderr)
    for fields in attempts:
        attempt = Attempt(*fields)
        if not board.has_room(batch) or time.monotonic() > deadline:
            break
        # What earlier attempts have left behind is no fault of this one; a new worker has run none.
        rss_before = resident_bytes() if attempt.memory_limited and worker.has_run else 0
        board.attempt_started(attempt.node, time.monotonic(), stdout_from, stderr_from, rss_before)
        worker.has_run = True
        outcome = make_attempt(attempt, worker.load_task, worker.setup)
        flush_streams()
        written = stdout_from, position(stdout), stderr_from, position(stderr)
        silent = written[0] == written[1] and written[2] == written[3]
        _, stdout_from, _, stderr_from = written
        board.add_outcome(batch, pack_outcome(outcome, None if silent else written))
    board.attempt_started(None)
    return batch, copies
