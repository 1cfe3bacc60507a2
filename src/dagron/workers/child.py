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

from dagron.checkpoint.blobs import BlobFile, VerifiedFiles, read_blob
from dagron.checkpoint.buffers import out_of_band
from dagron.checkpoint.files import write_view
from dagron.checkpoint.storage import Digests
from dagron.crossing.parts import Own, ReceivedParts
from dagron.crossing.serialize import describe_exception, dump_exception, dump_result
from dagron.errors import CheckpointDamagedError, ResultNotPicklableError
from dagron.task import Binding
from dagron.workers.board import Board
from dagron.workers.capture import flush_streams, position
from dagron.workers.channel import Channel, WorkerEnd
from dagron.workers.cores import limit_threads, pin
from dagron.workers.processes import resident_bytes

__all__ = [
    "Attempt",
    "Outcome",
    "OutcomeKind",
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


class Outcome(NamedTuple):
    """How an attempt ended.

    Attributes:
        node: As in `Attempt`.
        kind: One of `OutcomeKind`.
        storage: For a completed attempt, as in `Blob`; so are `size`, `digest`, `data` and `temp_name`.
        size: Bytes of the pickled result.
        digest: Its digest; zeros if there is none.
        data: The pickled result; for an attempt that raised, the pickled exception.
        temp_name: The file that holds the result.
        started_unix: When it began.
        duration_seconds: How long it took, with loading its inputs and pickling its result.
        cpu_seconds: User and system time of the worker and of the children that it waited for.
        peak_rss_bytes: Peak resident memory of the worker so far.
        retryable: Whether the exception is among those worth a further attempt.
        failure: For one that failed: the type's name, the message, the traceback.
        printed: From where to where it wrote to the captured standard output, and the same of standard error; None if
            it completed and wrote nothing.
        inputs: For one that raised: the names of its arguments with short texts of their values.
        pid: For one that failed: the process that made the attempt.
        identity: As in `Blob`.
        system_seconds: The part of `cpu_seconds` that was spent in the system.
    """

    node: int
    kind: int
    storage: int
    size: int
    digest: bytes
    data: bytes
    temp_name: str
    started_unix: float
    duration_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    retryable: bool
    failure: tuple[str, str, str]
    printed: tuple[int, int, int, int] | None = None
    inputs: tuple[tuple[str, str], ...] = ()
    pid: int = 0
    identity: tuple[int, ...] = ()
    system_seconds: float = 0.0


_PATIENCE_SECONDS = 0.01
"""A batch that takes longer than this was taken for shorter: what it has is reported, and the rest is given back."""

_AFTER_PEAK = Outcome._fields.index("retryable")
_NO_FAILURE = ("", "", "")
_NOTHING_MORE = (False, _NO_FAILURE, None, (), 0, ())  # retryable, failure, printed, inputs, pid, identity

# node, kind, storage, size, digest, started, duration, cpu, system, peak rss, whether `data` is all that follows, or a
# pickle
_PACKED = struct.Struct("<QBBxxxxxxQ32sddddQB")


def pack_outcome(outcome: Outcome) -> bytes:
    """Return an outcome as bytes for the board. A pickled tuple would take three times as long."""
    (
        node,
        kind,
        storage,
        size,
        digest,
        data,
        temp_name,
        started,
        duration,
        cpu,
        peak,
        again,
        failure,
        printed,
        _,
        _,
        _,
        system,
    ) = outcome
    plain = not (temp_name or again or printed) and failure is _NO_FAILURE
    head = _PACKED.pack(node, kind, storage, size, digest, started, duration, cpu, system, peak, plain)
    return head + (data if plain else pickle.dumps((data, temp_name, outcome[_AFTER_PEAK:-1]), 5))


def unpack_outcome(packed: bytes) -> Outcome:
    """Return what `pack_outcome` was given."""
    node, kind, storage, size, digest, started, duration, cpu, system, peak, plain = _PACKED.unpack_from(packed)
    rest = packed[_PACKED.size :]
    if plain:
        fields = (node, kind, storage, size, digest, rest, "", started, duration, cpu, peak, *_NOTHING_MORE, system)
        return Outcome._make(fields)
    data, temp_name, more = pickle.loads(rest)
    return Outcome._make(
        (node, kind, storage, size, digest, data, temp_name, started, duration, cpu, peak, *more, system)
    )


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
    kind, blob, exception, retryable, failure = OutcomeKind.COMPLETED, None, b"", False, _NO_FAILURE
    retry_on: tuple[type[BaseException], ...] = ()
    fn: Any = None
    inputs: list[Any] = []
    shown: tuple[tuple[str, str], ...] = ()
    try:
        fn, retry_on = load_task(attempt)
        inputs = [_load_input(source, setup) for source in attempt.inputs]
        value = _called(attempt.binding, fn, inputs)
        inputs = []  # their memory is better used for pickling
        try:
            blob = dump_result(attempt.name, value, setup.directory, setup.digests, durable=setup.durable)
        except OSError as error:
            kind_name, message, text = describe_exception(error)
            kind, failure = OutcomeKind.DISK, (kind_name, error.strerror or message, text)
    except ResultNotPicklableError as error:
        kind, failure = OutcomeKind.UNPICKLABLE, describe_exception(error, _OUR_FRAMES)
        exception = dump_exception(error)
    except CheckpointDamagedError as error:
        kind, failure = OutcomeKind.DAMAGED_INPUT, describe_exception(error, _OUR_FRAMES)
        exception = dump_exception(error)
    except BaseException as error:
        if interruptible and isinstance(error, KeyboardInterrupt):
            raise
        kind, failure = OutcomeKind.RAISED, describe_exception(error, _OUR_FRAMES)
        exception = dump_exception(error)
        retryable = isinstance(error, retry_on)
        if fn is not None and len(inputs) == len(attempt.inputs):
            shown = _shown_inputs(attempt.binding, fn, inputs)
    cpu_after, system_after, peak = _usage()
    return Outcome(
        attempt.node,
        kind,
        blob.storage if blob is not None else 0,
        blob.size if blob is not None else 0,
        blob.digest if blob is not None else bytes(32),
        blob.data if blob is not None else exception,
        blob.temp_name if blob is not None else "",
        started_unix,
        time.perf_counter() - started,
        cpu_after - cpu_before,
        peak,
        retryable,
        failure,
        None,
        shown,
        os.getpid() if kind != OutcomeKind.COMPLETED else 0,
        blob.identity if blob is not None else (),
        system_after - system_before,
    )


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
        printed = stdout_from, position(stdout), stderr_from, position(stderr)
        _, stdout_from, _, stderr_from = printed
        if outcome.kind != OutcomeKind.COMPLETED or printed[0] != stdout_from or printed[2] != stderr_from:
            outcome = outcome._replace(printed=printed)
        board.add_outcome(batch, pack_outcome(outcome))
    board.attempt_started(None)
    return batch, copies
