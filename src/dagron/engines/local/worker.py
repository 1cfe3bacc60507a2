"""A worker of a slot: takes batches from its channel, makes their attempts, puts the outcomes on its board.

Imported by the server before it forks, so it stays light.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import pickle
import struct
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Any, NoReturn

from dagron.checkpoint.blobs import Blob
from dagron.checkpoint.files.overwriting import write_copy
from dagron.checkpoint.format.outputs import FileState
from dagron.crossing.parts import ReceivedParts
from dagron.crossing.script_modules import become_script
from dagron.engines.attempt import WorkerSetup, make_attempt
from dagron.engines.local.board import Board
from dagron.engines.local.capture import position
from dagron.engines.local.channel import Channel, WorkerEnd
from dagron.engines.local.condition import Budget, Condition, hold_on
from dagron.engines.local.cores import limit_threads, pin
from dagron.engines.local.nested import hand_down_script
from dagron.engines.local.processes import resident_bytes
from dagron.engines.outcomes import NOTHING_PRINTED, Attempt, Fault, Outcome, OutcomeKind
from dagron.engines.streams import flush_streams
from dagron.figures import Figures
from dagron.loading import this_is_a_worker

__all__ = ["pack_outcome", "serve", "start_worker", "unpack_outcome"]

_PATIENCE_SECONDS = 0.01
"""A batch that takes longer than this was taken for shorter: what it has is reported, and the rest is given back.

Five times what a batch of several is filled up to, so that noise alone breaks none up.
"""


_MAX_SUSPECTS = 8
"""Nodes that are named where it is not known which of several has damaged the process."""

_exit = os._exit  # a task may put something else in its place


class _Worker:
    def __init__(self, setup: WorkerSetup, slot: int, board: Board, channel: WorkerEnd) -> None:
        self.setup = setup
        self.slot = slot
        self.board = board
        self.channel = channel
        self.parts = ReceivedParts(binds=True)
        # Duplicates, because a task may put something else in the place of its standard streams.
        self.streams = os.dup(1), os.dup(2)
        self.has_run = False
        self.copies_refused = False
        self.has_init = False
        self.batch = 0
        self.end_if_silent = faulthandler.dump_traceback_later
        self.is_telling = False
        self.condition: Condition
        self.settle: Callable[[], None]
        self.budget = Budget()
        self.began = 0.0
        self.is_new = True

    def begin(self) -> None:
        """Take what this process is like now for what it is to be like before each attempt."""
        streams = dict.fromkeys(self.streams, "a captured stream")
        hold_on()
        self.condition = condition = Condition({self.channel.fd: "the way to the coordinator", **streams})
        self.settle = condition.settle

    # As the witness of its attempts.

    def loads_input(self, position: int) -> None:
        self.board.loads_input(position)

    def calls(self) -> None:
        self.board.loads_input(None)

    def returned(self, *, failed: bool) -> None:
        self.settle()
        if failed or self.is_new or monotonic() - self.began >= self.budget.due_seconds:
            self.condition.settle_names()

    def tells(self, outcome: Outcome) -> None:
        self.board.loads_input(None)
        self.board.tell(self.batch, pack_outcome(outcome))
        if not self.is_telling:
            # A thread in C: it ends the process also where the exception's code holds the interpreter.
            self.is_telling = True
            try:
                self.end_if_silent(self.setup.telling_seconds, exit=True, file=self.streams[1])
            except (OSError, RuntimeError, ValueError):
                pass  # no thread, or no descriptor is left; what is known is on the board all the same

    def has_told(self) -> None:
        if self.is_telling:
            self.is_telling = False
            faulthandler.cancel_dump_traceback_later()

    def load_task(self, attempt: Attempt) -> tuple[Any, Any]:
        task: tuple[Any, Any] = self.parts.load(attempt.task, attempt.parts)
        return task

    def write(self, copies: list[tuple[str, bytes, bool]]) -> None:
        """Write copies of results; once one was refused no more, and the coordinator is told with the next report."""
        if self.copies_refused:
            return
        directory, mode = self.setup.directory, self.setup.file_mode
        try:
            for name, data, exists in copies:
                write_copy(os.path.join(directory, name), data, exists=exists, mode=mode)
        except OSError:
            self.copies_refused = True


_worker: _Worker | None = None


def start_worker(
    packed: bytes,
    slot: int,
    n_threads: int | None,
    cpu: int | None,
    board: Board,
    channel: Channel | WorkerEnd,
    has_init: bool,
) -> None:
    """Make this process the worker of a slot; the initializer of its executor.

    Args:
        packed: The setup, pickled.
        slot: The slot.
        n_threads: What libraries that use threads of their own may use; None to leave it to them.
        cpu: The processor to run on; None to leave it to the system.
        board: That of the slot.
        channel: That of the slot.
        has_init: Whether the first that comes over the channel is what is to be called before the first attempt.
    """
    global _worker
    from multiprocessing import forkserver

    setup = WorkerSetup(*pickle.loads(packed))
    if n_threads is not None:
        limit_threads(n_threads, os.environ)
    if cpu is not None:
        pin(cpu)
    # A task that asks for a forkserver gets one of its own, instead of a share in another process's.
    forkserver._forkserver = forkserver.ForkServer()
    become_script()
    this_is_a_worker()
    hand_down_script()
    assert isinstance(channel, WorkerEnd)
    _worker = _Worker(setup, slot, board, channel)
    _worker.has_init = has_init


def serve() -> None:
    """Run the batches that come over the channel and put their outcomes on the board, until the channel is closed.

    A batch that takes too long or that the board has no room for ends early: what has no outcome was not started.
    """
    worker = _worker
    assert worker is not None
    if worker.has_init:
        from dagron.engines.local.first_call import call_received  # few runs have a `worker_init`

        first = worker.channel.receive()
        if first is None:
            return
        if not call_received(first, worker.parts, worker.board):
            _exit(1)
    worker.begin()
    try:
        while (payload := worker.channel.receive()) is not None:
            batch, copies, is_last, is_damaged = _run_batch(worker, payload)
            if is_damaged:
                _leave(worker, batch)
            if is_last:  # nobody asks this worker afterwards whether it could write them
                worker.write(copies)
            worker.channel.report(batch, worker.copies_refused)
            if not is_last:
                worker.write(copies)
    except BaseException:
        # What a task left behind, a timer say, raised it between two attempts. It must not leave this function: the
        # executor would pickle it, and a thread of the coordinator would unpickle what is the user's.
        traceback.print_exc()
        flush_streams()
        _exit(1)


def _leave(worker: _Worker, batch: int) -> NoReturn:
    """Report a batch and make place for another worker, because what a task has done to this process stays.

    Nothing is written here any more, neither copies nor what the executor would send at its end.
    """
    try:
        if worker.condition.is_intact(worker.channel.fd):
            worker.channel.report(batch, True)
            worker.channel.wait_for_end()
            atexit._run_exitfuncs()
        flush_streams()
    finally:
        _exit(0)


def _run_batch(worker: _Worker, payload: bytes) -> tuple[int, list[tuple[str, bytes, bool]], bool, bool]:
    batch, parts, attempts, copies, is_last = pickle.loads(payload)
    board = worker.board
    board.batch_started(batch)
    worker.batch = batch
    for part in parts:
        # All of them first: the coordinator sends a part once, also if this batch ends early.
        worker.parts.add(*part)
    deadline = monotonic() + _PATIENCE_SECONDS
    is_damaged = False
    budget = worker.budget
    stdout, stderr = worker.streams
    stdout_from, stderr_from = position(stdout), position(stderr)
    for i, fields in enumerate(attempts):
        attempt = _new(Attempt, fields)
        began = monotonic()
        # The first is made however late it is, or a machine that is busy enough would make none.
        if not board.has_room(batch) or (i and began > deadline):
            break
        rss_before = 0
        if attempt.memory_limited and worker.has_run:
            # What earlier attempts have left behind is no fault of this one; a new worker has run none.
            rss_before = resident_bytes()
            began = monotonic()
        worker.began = began
        board.attempt_started(attempt.node, began, stdout_from, stderr_from, rss_before)
        worker.has_run = True
        worker.is_new = is_new = budget.is_new(attempt.parts)
        outcome = make_attempt(attempt, worker.load_task, worker.setup, slot=worker.slot, witness=worker)
        flush_streams()
        written = stdout_from, position(stdout), stderr_from, position(stderr)
        silent = written[0] == written[1] and written[2] == written[3]
        _, stdout_from, _, stderr_from = written
        failed = outcome.kind != OutcomeKind.COMPLETED
        if not (is_new or failed) and budget.skips(attempt.node, monotonic() - began):
            board.add_outcome(batch, pack_outcome(outcome, None if silent else written))
            continue
        look_began = monotonic()
        found, restored = worker.condition.look()
        took = monotonic() - look_began
        is_damaged = bool(found)
        suspects = [*budget.unlooked, attempt.node]
        if is_damaged and failed and len(suspects) > 1:
            # Whose damage it is that this attempt has met is not known: it is given back, and made in a clean process.
            suspects.pop()
        else:
            board.add_outcome(batch, pack_outcome(outcome, None if silent else written))
        budget.looked(attempt.parts, took)
        if found or restored:
            board.note_damage(batch, pickle.dumps((suspects[-_MAX_SUSPECTS:], found, restored), 5))
            break
    board.attempt_started(None)
    return batch, copies, is_last, is_damaged


# --- outcomes on the board --------------------------------------------------------------------------------------------


_PACKED = struct.Struct("<QBBxxxxxxQ32s16sddddQB")
"""Node and kind; storage, size and digests of the blob; the figures; whether the blob's data is all that follows,
and whether there is a scratch directory.

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
    node, kind, figures, blob, fault, _, has_scratch, outputs = outcome
    if blob is not None:
        storage, size, digest, data, temp_name, identity, value, compressed = blob
    else:
        storage, size, digest, data, temp_name, identity, value, compressed = (
            0,
            0,
            _NO_DIGEST,
            b"",
            "",
            (),
            _NO_DIGEST,
            0,
        )
    plain = blob is not None and not temp_name and written is None and not outputs
    head = _PACKED.pack(node, kind, storage, size, digest, value, *figures, plain | has_scratch << 1)
    if plain:
        return head + data
    has_blob, cause = blob is not None, tuple(fault) if fault is not None else None
    return head + pickle.dumps(
        (has_blob, data, temp_name, identity, compressed, cause, written, [*map(tuple, outputs)]), 5
    )


def unpack_outcome(packed: bytes) -> tuple[Outcome, tuple[int, int, int, int] | None]:
    """Return what `pack_outcome` was given."""
    node, kind, storage, size, digest, value, started, duration, cpu, system, peak, bits = _PACKED.unpack_from(packed)
    rest = packed[_PACKED.size :]
    # Thrice as quick as what the classes' own constructors do in Python.
    figures = _new(Figures, (started, duration, cpu, system, peak))
    has_scratch = bits > 1
    if bits & 1:
        blob = _new(Blob, (storage, size, digest, rest, "", (), value, 0))
        return _new(Outcome, (node, kind, figures, blob, None, NOTHING_PRINTED, has_scratch, ())), None
    has_blob, data, temp_name, identity, compressed, cause, written, states = pickle.loads(rest)
    found = Blob(storage, size, digest, data, temp_name, identity, value, compressed) if has_blob else None
    fault = Fault._make(cause) if cause is not None else None
    outputs = tuple(map(FileState._make, states))
    return Outcome(node, kind, figures, found, fault, has_scratch=has_scratch, outputs=outputs), written
