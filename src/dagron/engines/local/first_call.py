"""The call of `worker_init`: how it gets to a worker, what becomes of it there, and how its failure comes back.

It is what a worker gets first over its channel, if the run has one, and it belongs to no attempt. The worker notes on
the board that it is in the call, so that an end of the process there is told as what it is; an exception leaves its
texts on the board, and the worker ends.
"""

from __future__ import annotations

import pickle
import time
from typing import TYPE_CHECKING, Any

from dagron.crossing.parts import ReceivedParts
from dagron.engines.attempt import call_init
from dagron.engines.local.board import Board
from dagron.engines.streams import flush_streams
from dagron.errors import RemoteTraceback, WorkerInitError

if TYPE_CHECKING:
    from dagron.engines.protocol import WorkerInit

__all__ = ["call_received", "init_error", "pack_init"]


def pack_init(init: WorkerInit) -> bytes:
    """Return it as what a worker is to be sent, with all its parts."""
    own, parts = init
    return pickle.dumps((own, [part.number for part in parts], [tuple(part) for part in parts]), 5)


def call_received(payload: bytes, received: ReceivedParts, board: Board) -> bool:
    """In a worker: make the call, and return whether a batch may follow; if not, the board has the reason."""
    board.init_started(time.monotonic())
    try:
        call_init(lambda: _load(payload, received))
    except WorkerInitError as error:
        board.add_init_fault(pickle.dumps(error.args, 5))
        return False
    finally:
        flush_streams()
    board.init_started(None)
    return True


def _load(payload: bytes, received: ReceivedParts) -> tuple[Any, Any]:
    own, numbers, parts = pickle.loads(payload)
    for part in parts:
        received.add(*part)
    task: tuple[Any, Any] = received.load(own, numbers)
    return task


def init_error(board: Board, said: str, exit_code: int) -> WorkerInitError:
    """Return why a worker did not come through the call.

    Args:
        board: That of its slot.
        said: What it has written to standard error, for a worker that left no reason.
        exit_code: How it ended.
    """
    packed = board.init_fault()
    if packed is None:
        return WorkerInitError(said, exit_code)
    error = WorkerInitError(*pickle.loads(packed))
    error.__cause__ = RemoteTraceback(error.traceback_text)
    return error
